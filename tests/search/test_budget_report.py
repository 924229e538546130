"""What a search reports, as JSON has it."""

from __future__ import annotations

import json
from dataclasses import replace

from lcnn_compress.search.budget_report import Expected, MetTarget, SizeRound, Trial, TriedNet, as_json

ROUNDS, TRIALS = (SizeRound(10.0, 11),), (Trial(0.0, 0.5), Trial(1.0, 0.25))
MET = MetTarget({"speedup": 2.0}, 1, "outputs", 3.5, None, None, 7, 9, 5, 0.25, rounds=ROUNDS, trials=TRIALS)


def test_values_become_dicts_and_lists_in_the_order_of_their_fields() -> None:
    got = as_json(MET)
    assert list(got) == [*Expected.__dataclass_fields__, "rounds", "trials"]
    assert got["target"] == {"speedup": 2.0}
    assert got["rounds"] == [{"predicted_bytes": 10.0, "measured_bytes": 11}]
    assert got["trials"] == [{"recovery": 0.0, "loss": 0.5}, {"recovery": 1.0, "loss": 0.25}]
    assert json.loads(json.dumps(got)) == got


def test_only_optional_fields_are_left_out_where_they_are_none() -> None:
    assert as_json(MET)["predicted_ms"] is None
    assert "measured_error" not in as_json(MET)
    assert as_json(replace(MET, measured_error=0.0))["measured_error"] == 0.0


def test_a_tried_net_is_flat() -> None:
    tried = TriedNet("psnr", 40.0, 0.5, 0.25, 0.75, 8, predicted_ms=None, trained=True)
    assert as_json(tried) == {
        "metric": "psnr", "dense": 40.0, "value": 0.5, "low": 0.25, "high": 0.75, "n": 8, "predicted_ms": None, "trained": True,
    }  # fmt: skip

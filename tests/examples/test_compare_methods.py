"""The comparison of methods: what it makes, in which order, and going on after a stop."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from cases import Noise, small_net

from lcnn_compress import api

SHAPE = (1, 3, 16, 16)


@pytest.fixture
def compare() -> Any:
    return importlib.import_module("compare_methods")


def test_a_stopped_comparison_goes_on_where_it_was(compare: Any, tmp_path: Path) -> None:
    made: list[tuple[float, str]] = []

    def make(task: Any, choice: Any) -> Any:
        if len(made) == 6:
            raise KeyboardInterrupt
        made.append((task.speed, str(choice)))
        score = 2.0 if choice.candidate == "one threshold" else 1.0
        return compare.Made(score, lambda path: path.write_bytes(b"onnx"), {"macs": 7})

    source = api.open_model(small_net(), SHAPE)
    # The dense net is a module and can be run; what ``make`` returns is a score already.
    scores = {"validation": float, "test": lambda run: 10 * run if isinstance(run, float) else 5.0}
    case = compare.Case(
        "net", "points", source, lambda _: small_net(), Noise(64), scores, 8,
        8, lambda indices: Noise(64).batch(indices)[0], speeds=(2, 3),
    )  # fmt: skip
    options = argparse.Namespace(
        work=tmp_path,
        methods=["sparse"],
        speeds=None,
        search_speeds=[2],
        seeds=2,
        images=64,
        epochs=1,
        precision="float32",
        rates=[1e-3, 3e-3],
        scored_images=None,
    )
    path = tmp_path / "methods.json"
    with pytest.raises(KeyboardInterrupt):
        compare.Comparison(case, options, compare.Results(path), make).run()
    # Four candidates at 2x; the best of them is the first seed's result, so 2x needs seed 1 only, then 3x seed 0.
    tried = [(2, f"{candidate}, {rate}") for candidate in ("one density", "one threshold") for rate in (0.001, 0.003)]
    assert made == [*tried, (2, "one threshold, 0.001"), (3, "one threshold, 0.001")]
    made.clear()
    compare.Comparison(case, options, compare.Results(path), make).run()
    assert made == [(3, "one threshold, 0.001")]
    runs = json.loads(path.read_text())["runs"]
    assert len(runs) == 8
    assert compare.Comparison(case, options, compare.Results(path), make).missing() == ["times"]
    assert runs["net/sparse/3/1"] == {"macs": 7, "choice": "one threshold, 0.001", "score": 20.0}
    assert runs["net/sparse/3/0"]["bytes"] == 4

"""The report as values: JSON with the keys of 0.1.0, reading it back, and damage that is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hostile import VALUES, changed, places
from report_cases import CONV, REPORT, STEM, TOTALS

from lcnn_compress.artefact.report import Report, TrainingReport
from lcnn_compress.artefact.report_html import html
from lcnn_compress.artefact.strict_json import parse_json

DENSE_KEYS = {
    "name", "type", "kind", "reason", "note", "in_channels", "out_channels", "kernel", "groups", "input_sizes", "macs_dense",
    "macs", "weight_bytes_dense", "weight_bytes",
}  # fmt: skip
LOOKUP_KEYS = {
    "dictionary_size", "n_nonzeros", "lookups_per_position", "macs_stage1", "macs_stage2", "relative_error", "rows_used",
}  # fmt: skip
TIMES = {"dense_ms", "lookup_ms"}


def written(report: Report) -> Any:
    return json.loads(json.dumps(report.to_json()))


def test_a_layer_has_the_keys_that_apply_to_it() -> None:
    untimed = replace(STEM, dense_ms=None, lookup_ms=None)
    assert set(untimed.to_json()) == DENSE_KEYS
    assert set(STEM.to_json()) == DENSE_KEYS | TIMES
    assert set(CONV.to_json()) == DENSE_KEYS | LOOKUP_KEYS | TIMES
    foreseen = replace(CONV, predicted_ms=1.0, predicted_error=0.1)
    assert set(foreseen.to_json()) - set(CONV.to_json()) == {"predicted_ms", "predicted_error"}


def test_the_report_has_the_keys_of_the_first_release_and_a_date() -> None:
    values = written(replace(REPORT, budget=None))
    of_first_release = {
        "command", "input_shape", "layers", "totals", "calibration_images", "training", "evaluation", "machine", "model",
        "settings", "notes",
    }  # fmt: skip
    assert set(values) == of_first_release | {"date"}
    assert (values["command"], values["training"], values["evaluation"]) == ("compress", None, None)
    assert values["input_shape"] == [1, 3, 8, 8]
    assert set(written(replace(REPORT, budget={"effects": "outputs"}))) - set(values) == {"budget"}
    untimed = replace(TOTALS, dense_ms=None, lookup_ms=None, speedup=None)
    assert set(untimed.to_json()) == {"macs_dense", "macs", "weight_bytes_dense", "weight_bytes", "macs_ratio"}


def test_the_report_is_read_by_key_as_in_the_first_release() -> None:
    assert dict(REPORT) == REPORT.to_json()
    assert [row["name"] for row in REPORT["layers"]] == [row.name for row in REPORT.layers]
    assert REPORT.get("training", "nothing") is None
    assert "date" in REPORT
    assert "times" not in REPORT
    with pytest.raises(KeyError, match="times"):
        REPORT["times"]


@pytest.mark.parametrize(
    "report",
    [
        REPORT,
        replace(REPORT, training=TrainingReport(3, (0.5, 0.25), {"block.conv1": 48}), notes=("a", "b")),
        replace(REPORT, layers=(), budget={"target": {"speedup": 2.0}}, machine={}),
    ],
)
def test_reading_inverts_writing(report: Report) -> None:
    assert Report.from_json(written(report)) == report


def test_a_report_of_the_first_release_is_read() -> None:
    values = written(REPORT)
    del values["date"]
    values |= {"evaluation": None, "of another version": 1}
    values["layers"][0]["of another version"] = 1
    assert Report.from_json(values) == replace(REPORT, date=None)


def damaged(*keys: Any, value: Any = None) -> dict[str, Any]:
    """Return the report as JSON with the value under these keys replaced, or taken away where there is none."""
    values: Any = written(REPORT)
    part = values
    for key in keys[:-1]:
        part = part[key]
    if value is None:
        del part[keys[-1]]
    else:
        part[keys[-1]] = value
    return values  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (damaged("totals"), "the report lacks totals"),
        (damaged("layers", value=3), "'layers' of the report is 3"),
        (damaged("layers", 1, "macs"), "'layers' of the report, number 2, lacks macs"),
        (damaged("layers", 1, "macs", value="many"), "'macs' of 'layers' of the report, number 2, is 'many'"),
        (damaged("layers", 0, value=[]), r"'layers' of the report, number 1, is \[\], not an object"),
        (damaged("layers", 1, "kind", value="dens"), "the kind of layer 'block.conv1' is 'dens', not one of dense, lookup"),
        (damaged("layers", 1, "macs", value=True), "'macs' of 'layers' of the report, number 2, is True"),
        (damaged("layers", 1, "macs", value=10**30), "'macs' of 'layers' of the report, number 2, is 1000"),
        (damaged("layers", 1, "relative_error", value=float("nan")), "'relative_error' of .*, is nan"),
        (damaged("layers", 1, "dense_ms", value=False), "'dense_ms' of .*, is False"),
        (damaged("layers", 1, "kernel", value=[3, True]), "'kernel' of 'layers' of the report, number 2,, number 2, is True"),
        (damaged("totals", "macs_ratio", value=float("inf")), "'macs_ratio' of 'totals' of the report is inf"),
    ],
)
def test_damage_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Report.from_json(values)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"target": {"speedup": "2"}}, "'speedup' of 'target' of 'budget' of the report is '2'"),
        ({"target": [2]}, r"'target' of 'budget' of the report is \[2\]"),
        ({"predicted_error": "x" * 500}, "'predicted_error' of 'budget' of the report is 'x{99}...$"),
        ({"drop": {"value": 1.0}}, "'drop' of 'budget' of the report lacks low, high, n"),
        ({"drop": 3}, "'drop' of 'budget' of the report is 3, not an object"),
    ],
)
def test_a_damaged_budget_is_named(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Report.from_json(written(REPORT) | {"budget": budget})


FULL = replace(
    REPORT, training=TrainingReport(3, (0.5, 0.25), {"block.conv1": 48}), notes=("a",),
    settings={"seed": 7, "finetune": {"epochs": 3}},
    budget={"target": {"max_drop": 0.5}, "effects": "outputs", "drop": {"value": 0.1, "low": 0, "high": 1, "n": 5}},
)  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:20])
def test_every_value_in_every_place_can_be_shown_or_is_refused(value: str) -> None:
    for path in places(written(FULL)):
        try:
            report = Report.from_json(parse_json(changed(written(FULL), path, value)))
        except ValueError:
            continue
        assert html(report).encode(), path
        json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("torchvision.models:resnet18", "resnet18"),
        ("nets/file.py:Nets.small", "Nets.small"),
        ("../lib/python3.12/site-packages/lcnn_compress/embedded/fashion_resnet.safetensors", "fashion_resnet"),
        ("/data/v1.5/model.v2.pt", "model.v2"),
        ("a:b/model.pt", "model"),
        ("ResNet", "ResNet"),
        (None, None),
    ],
)
def test_a_model_is_called_by_its_name_without_its_place(model: str | None, name: str | None) -> None:
    assert replace(REPORT, model=model).model_name == name

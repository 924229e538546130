"""The report as values: JSON with the keys of 0.1.0, reading it back, and damage that is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from report_cases import CONV, REPORT, STEM, TOTALS

from lcnn_compress.artefact.report import Report, TrainingReport, stored_rows, stored_shape
from lcnn_compress.errors import ArtefactError

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


ROW = {"name": "a", "kind": "lookup", "reason": "", "macs_dense": 4, "macs": 2}


def test_what_an_exported_file_says_is_read() -> None:
    metadata = {"lcnn.layers": json.dumps([ROW]), "lcnn.input_shape": "[1, 3, 8, 8]", "other": "{"}
    assert (stored_rows(metadata, "a.onnx"), stored_shape(metadata, "a.onnx")) == ([ROW], (1, 3, 8, 8))
    assert (stored_rows({}, "a.onnx"), stored_shape({}, "a.onnx")) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "3", "[3]", "[[]]", "{}", '{"name": "a"}', "[" * 100_000, "[NaN]",
        *(json.dumps([{**ROW, key: value}]) for key in ROW for value in (True, [], {}, float("nan"), 10**30)),
        *(json.dumps([{k: v for k, v in ROW.items() if k != key}]) for key in ("name", "macs", "macs_dense")),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_layers_in_a_file_that_no_export_wrote_are_refused(text: str) -> None:
    with pytest.raises(
        ArtefactError, match=r"^a\.onnx: metadata 'lcnn\.layers' cannot be read \(.*\); write the file with lcnn export$"
    ):
        stored_rows({"lcnn.layers": text}, "a.onnx")


@pytest.mark.parametrize(
    "text", ["", "[", "3", "[]", "{}", '"1,3,8,8"', "[1, true]", "[1, 0]", "[1, -3]", "[1, 3.0]", "[1, NaN]", f"[{10**30}]"]
)
def test_a_shape_in_a_file_that_no_export_wrote_is_refused(text: str) -> None:
    with pytest.raises(ArtefactError, match=r"^a\.onnx: metadata 'lcnn\.input_shape' cannot be read \("):
        stored_shape({"lcnn.input_shape": text}, "a.onnx")

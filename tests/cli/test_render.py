"""What the command line prints of a compression: tables, sums and how well a forecast held."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hostile import TEXTS, is_safe
from report_cases import CONV, REPORT, STEM

from lcnn_compress.artefact.report import Report
from lcnn_compress.cli import render, render_bench


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines printed so far, runs of blanks as one."""
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        ("lookup", "4 0.10"),
        ("lowrank", "low rank 4 0.10"),
        ("sparse", "sparse 0.10"),
        ("of a later version", "4 0.10"),
    ],
)
def test_a_layer_is_described_as_its_kind_says(kind: str, cells: str, capsys: pytest.CaptureFixture[str]) -> None:
    render.layer_table([STEM.to_json(), {**CONV.to_json(), "kind": kind}])
    assert shown(capsys)[-3:] == [
        "stem 3>16 3x3 dense 0.03 0.250",
        f"block.conv1 16>32 3x5 {cells} 0.125 0.01 / 0.49 0.500 / 2.000",
        "stem: dense, first layer",
    ]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_of_files_is_shown_and_never_acts(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table and line that shows a name, a note or a path; on a terminal too, where tables have colours."""
    layers = [{**STEM.to_json(), "name": text, "reason": text}, {**CONV.to_json(), "name": text, "note": text, "kind": text}]
    run = {"batch": 1, "threads": 1, "dense_ms": None}
    for terminal in (False, True):
        if terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
        render.layer_table(layers)
        render.facts({"artefact": text, "opset": {text: 3}, text: None})
        render.compress_summary(replace(REPORT, layers=(replace(STEM, name=text, reason=text),)), text)
        render_bench.bench_layers([{**row, "dense_ms": None} for row in layers])
        render.note(text)
        render.warn(text)
        render.text(text)
        render.print_json({text: [text, run]})
        shown = capsys.readouterr()
        if terminal:
            assert "\x1b[1m" in shown.out  # our own
        assert is_safe(re.sub(r"\x1b\[[01]m", "", shown.out))
        assert is_safe(shown.err)
        # Also where markup would take it away.
        for visible in ("[/x]", "[red]", "[link=http://x]y[/link]", ":smile:"):
            if text == visible:
                assert shown.out.count(visible) >= 10


def test_a_layer_without_its_numbers_has_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    row = {key: value for key, value in CONV.to_json().items() if key not in ("lookups_per_position", "relative_error")}
    render.layer_table([row])
    assert shown(capsys)[-1] == "block.conv1 16>32 3x5 4 0.01 / 0.49 0.500 / 2.000"


def test_a_table_of_dense_layers_has_nothing_to_compare(capsys: pytest.CaptureFixture[str]) -> None:
    render.layer_table([STEM.to_json()])
    assert shown(capsys)[0] == "layer channels kernel k lookups error million MACs ms"


def test_the_summary_gives_the_sums_and_the_times(capsys: pytest.CaptureFixture[str]) -> None:
    render.compress_summary(REPORT, "tiny.lcnn")
    assert shown(capsys)[-4:] == [
        "MACs 0.5 -> 0.0 million (14.90x fewer)",
        "weights 32.6 kB -> 2.3 kB",
        "measured 2.250 -> 0.750 ms in ONNX Runtime (3.00x), input 1x3x8x8",
        "written tiny.lcnn",
    ]


def untimed(report: Report) -> Report:
    return replace(report, totals=replace(report.totals, dense_ms=None, lookup_ms=None, speedup=None))


def test_the_summary_says_nothing_of_times_that_were_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    render.compress_summary(untimed(replace(REPORT, budget={"predicted_speedup": 2.5})), "tiny.lcnn")
    assert shown(capsys)[-2:] == ["weights 32.6 kB -> 2.3 kB", "written tiny.lcnn"]


@pytest.mark.parametrize(
    ("budget", "line"),
    [
        ({"predicted_speedup": 2.5}, "predicted 2.50x, measured 3.00x"),
        (
            {"predicted_speedup": None, "predicted_error": 0.1, "measured_error": 0.2},
            "error of the outputs, as a part of their spread: predicted 0.100, measured 0.200",
        ),
        (
            {"predicted_speedup": None, "trials": [{"loss": 0.5}, {"loss": 0.25}]},
            "two plans trained for a short while: losses 0.5 and 0.25, the smaller one was taken",
        ),
        (
            {
                "predicted_speedup": None,
                "drop": {"metric": "top1_percent", "value": 0.25, "low": -0.3, "high": 0.8, "n": 1200, "dense": 91.5},
            },
            "drop 0.25 (95 %: -0.30 to 0.80) top-1 accuracy in % on 1200 held-out images, dense 91.50",
        ),
    ],
)
def test_how_a_forecast_held(budget: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    render.compress_summary(replace(REPORT, budget=budget), "tiny.lcnn")
    assert shown(capsys)[-2:] == [line, "written tiny.lcnn"]


def test_several_labels_are_scored_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    net = {"positives": [3, 0], "percent": [90.0, 87.5], "average_precision": [0.75, None], "mean_average_precision": 0.75}
    labels = {"names": ["hat", "smiling"], "dense": net, "lookup": {**net, "percent": [80.0, 70.0]}}
    result = {"metric": "labels_percent", "dense": 88.75, "lookup": 75.0, "n": 1200, "labels": labels}
    render.scores(result)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["hat", "3", "90.00", "80.00", "0.750", "0.750"] in lines
    assert ["smiling", "0", "87.50", "70.00", "undefined", "undefined"] in lines
    assert lines[-1] == ["mean", "0.750", "0.750"]
    render.scores({**result, "labels": {**labels, "dense": None}})
    assert ["hat", "3", "80.00", "0.750"] in [line.split() for line in capsys.readouterr().out.splitlines()]

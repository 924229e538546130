"""What the commands that look at nets print. The figures are given."""

from __future__ import annotations

from typing import Any

import pytest

from lcnn_compress.cli import render_views

PROFILE: dict[str, Any] = {
    "file": "n.onnx", "onnxruntime": "1.31.1", "isa": None, "input_shape": [1, 3, 8, 8], "threads": 2, "runs": 50,
    "nodes": [
        {"name": "relu_nchwc", "operator": "Conv", "layers": ["stem", "c1"], "median_us": 30.0, "share": 0.75},
        {"name": "mean", "operator": "ReduceMean", "layers": [], "median_us": 10.0, "share": 0.25},
    ],
    "nodes_us": 40.0, "profiled_us": 60.0, "unprofiled_us": 50.0,
}  # fmt: skip


def test_nodes_are_listed_and_the_cost_of_profiling_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    render_views.node_table(PROFILE)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [
        "n.onnx: ONNX Runtime 1.31.1, no native library", "input 1x3x8x8, 2 threads, medians of 50 runs",
    ]  # fmt: skip
    assert "relu_nchwc Conv stem, c1 30 75.0 %" in lines
    assert "mean ReduceMean 10 25.0 %" in lines
    assert lines[-2:] == [
        "all nodes 40 us, and 20 us between them, in a run of 60 us",
        "the same run without a profile: 50 us, of which all nodes are 80 %; profiling adds 20 %",
    ]


def test_what_is_told_of_images_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    label = {"name": "smiling", "number": 3, "probability": 0.8125}
    images = [{"image": "a.png", "labels": [label, {**label, "name": "hat"}]}, {"image": "b.png", "labels": []}]
    render_views.prediction_table({"task": "multilabel", "images": images})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["image", "label", "probability"], ["a.png", "smiling", "81.2", "%"], ["hat", "81.2", "%"], ["b.png", "none"],
    ]  # fmt: skip

"""The main job on the net in the package: offline, and nothing but its artefact is written."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from lcnn_compress import api, quickstart
from lcnn_compress.compression.settings import PlanSettings


def test_it_writes_only_its_artefact_and_opens_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("quickstart must work offline")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    plan = PlanSettings("16", 2, only=("layer3.conv2",), keep_slow=True)
    # The first target cannot be reached anywhere.
    result = quickstart.run(Path("q.lcnn"), 0, plan=plan, speedups=(1000.0, 1.1), images=32)
    assert [p.name for p in tmp_path.iterdir()] == ["q.lcnn"]
    assert (result["command"], result["artefact"], result["metric"], result["n"]) == (
        "quickstart",
        "q.lcnn",
        "top1_percent",
        2000,
    )
    assert 85 < result["dense"] < 100
    assert 10 < result["lookup"] < 100
    assert result["bench"]["runs"][0]["batch"] == 1
    json.dumps(result)
    made = api.load("q.lcnn")
    assert made.report.budget is not None
    assert made.report.budget["target"] == {"speedup": 1.1}
    data = made.config["data"]
    assert (data["calib"], data["samples"], data["data"]) == ("lcnn_compress.quickstart:training_images", 32, None)


def test_the_configuration_names_a_function_that_gives_the_images() -> None:
    x, y = quickstart.training_images()
    assert (x.shape, y.shape) == ((4000, 1, 28, 28), (4000,))
    assert quickstart.TRAINING == "lcnn_compress.quickstart:training_images"

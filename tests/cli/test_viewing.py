"""The commands that look at nets, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cases import small_net
from command_line import lcnn, lcnn_json

from lcnn_compress import api
from lcnn_compress.compression.settings import CompressSettings, PlanSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artefact, net.lcnn, which takes 3x16x16 and tells 10 classes."""
    path = tmp_path_factory.mktemp("viewing")
    settings = CompressSettings(PlanSettings("0.5", 2, keep_slow=True), measure=False)
    api.save(api.compress(small_net(), input_shape=(1, 3, 16, 16), settings=settings), path / "net.lcnn")
    return path


def test_profile_of_the_artefact_here(here: Path) -> None:
    answer = lcnn_json("profile", "--runs", 2, "--batch", 3, "--trace", "trace.json")
    assert (answer["command"], answer["input_shape"], answer["runs"]) == ("profile", [3, 3, 16, 16], 2)
    assert {"stem", "conv1", "conv2", "fc"} <= {layer for node in answer["nodes"] for layer in node["layers"]}
    assert json.loads(Path("trace.json").read_text())["otherData"]["file"] == "net.lcnn"
    assert not (here / "net.lcnn" / "model.onnx").exists()
    printed = lcnn("profile", "net.lcnn", "--runs", 1, "--trace", "t.json").stdout
    assert "the same run without a profile: " in printed
    assert printed.endswith("written t.json; open it in chrome://tracing or ui.perfetto.dev\n")
    assert "--threads is 5000; it must be at least 1" in lcnn("profile", "--threads", 5000, code=2).stderr
    assert "no such artefact directory" in lcnn("profile", "gone", code=5).stderr

"""The nodes of a file are listed with their layers, timed in turn with plain runs, and traced. Never a time."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from command_line import needs_library
from small_onnx import LAYERS, LOOKUPS, write

from lcnn_compress.benchmark.profile import NodeEvent, Noted
from lcnn_compress.errors import ArtefactError, FileError, SettingsError
from lcnn_compress.views.node_profile import NodeProfile, profile, trace_of


@pytest.mark.parametrize("lookup", [False, pytest.param(True, marks=needs_library)])
def test_every_layer_is_found_and_shares_add_up(lookup: bool, tmp_path: Path) -> None:
    made = profile(write(tmp_path, lookup=lookup), runs=3, batch=2)
    assert {layer for node in made.nodes for layer in node.layers} == {*LAYERS}
    assert sum(node.share for node in made.nodes) == pytest.approx(1)
    assert (made.input_shape, made.threads, made.runs) == ((2, 3, 8, 8), 1, 3)
    assert min(made.nodes_us, made.profiled_us, made.unprofiled_us) > 0
    if lookup:
        assert [node.name for node in made.nodes if node.operator == "LookupConv"] == LOOKUPS


def test_a_trace_has_one_event_for_every_run_of_every_node_inside_its_run(tmp_path: Path) -> None:
    made = profile(write(tmp_path, lookup=False), runs=4, trace=tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    runs = [event for event in slices if event["cat"] == "run"]
    nodes = [event for event in slices if event["cat"] != "run"]
    assert [run["name"] for run in runs] == [f"run {i}" for i in range(4)]
    assert [node["name"] for node in nodes] == [node.name for node in made.nodes] * 4
    for node in nodes:
        run = runs[node["args"]["run"]]
        assert run["ts"] <= node["ts"]
        assert node["ts"] + node["dur"] <= run["ts"] + run["dur"]
    first = nodes[0]["args"]
    assert (first["layer"], first["inputs"][0], len(first["outputs"])) == ("stem", "float 1x3x8x8", 1)
    assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in itertools.pairwise(runs))


def test_the_trace_of_given_events(tmp_path: Path) -> None:
    event = NodeEvent("relu_nchwc", "Conv", 105, 7, [{"float": [1, 3]}, {"int64": []}], [{"float": [1, 4]}])
    about = NodeProfile("n.onnx", (1, 3), 2, 1, "1.31.1", None, (), 7.0, 12.0, 9.0)
    (process, thread, run, node) = trace_of(about, Noted([[event]], [(100, 12)], [["a", "b"]]))["traceEvents"]
    assert (process["ph"], thread["args"]["name"]) == ("M", "nodes, 2 threads each")
    assert (run["ts"], run["dur"]) == (0, 12)
    assert {key: node[key] for key in ("name", "cat", "ts", "dur")} == {"name": "relu_nchwc", "cat": "Conv", "ts": 5, "dur": 7}
    assert node["args"] == {
        "operator": "Conv", "layer": "a, b", "run": 0, "inputs": ["float 1x3", "int64 scalar"], "outputs": ["float 1x4"],
    }  # fmt: skip


def test_what_cannot_be_profiled_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, lookup=False)
    for given, message in (
        ({"runs": 0}, "`runs` is 0; it must be at least 1"),
        ({"threads": 2000}, "`threads` is 2000; it must be at least 1 and at most 1024"),
        ({"batch": 10**14}, "batch is 10{14}: it does not fit in memory"),
        ({"runs": 10**6}, "`runs` is 1000000; ONNX Runtime notes at most"),
        ({"input_shape": (1, 3, 9, 9)}, r"takes \['n', 3, 8, 8\], not \[1, 3, 9, 9\]"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=message):
            profile(file, **given)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="batch is 2, but the file fixes it to 1"):
        profile(write(tmp_path, lookup=False, batch=1), batch=2, runs=1)
    with pytest.raises(FileError, match=r"gone\.onnx: cannot be read"):
        profile(tmp_path / "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtefactError, match=r"bad\.onnx: ONNX Runtime .* refuses it"):
        profile(tmp_path / "bad.onnx")
    with pytest.raises(FileError, match="create the folder first"):
        profile(file, runs=1, trace=tmp_path / "no" / "trace.json")

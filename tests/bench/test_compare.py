"""The measurements: counts and bytes against numbers worked out by hand, statistics, layers found, errors. Never a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import PACKAGE_PARENT
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress import runtime
from lcnn_compress.bench import gain as gain_module
from lcnn_compress.bench import node_layers
from lcnn_compress.bench.child import run_child
from lcnn_compress.bench.compare import BenchSettings, _file_facts, compare
from lcnn_compress.bench.gain import measure_gain, time_ratio
from lcnn_compress.bench.profile import OTHER, PROFILE_WARMUP, Profile, layer_times, least_medians
from lcnn_compress.bench.statistics import latency_statistics, ratio_interval
from lcnn_compress.bench.timing import outputs_in_turn
from lcnn_compress.errors import ArtefactError, ChildError, FileError, SettingsError
from lcnn_compress.geometry import ConvGeometry
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.lookup_conv import OP_TYPE, function_body, node_attributes

SAME = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
LAYERS = ["stem", "block.conv1", "block.conv2", "fc"]
LOOKUPS = ["block.conv1", "block.conv2"]

# 8x8 pixels, 16 channels, 9 taps; k = 4 and 32 non-zeros for a lookup layer.
STEM_MACS, DENSE_MACS, LOOKUP_MACS, FC_MACS = 64 * 3 * 16 * 9, 64 * 16 * 16 * 9, 64 * (4 * 16 + 32), 16 * 10
STEM_BYTES, FC_BYTES = 4 * (16 * 3 * 9 + 16), 4 * (10 * 16 + 10)
DENSE_BYTES = 4 * (16 * 16 * 9 + 16)
LOOKUP_BYTES = 4 * 4 * 16 + 32 * (1 + 2) + 4 * 16  # dictionary float32, gaps uint8 and coefficients float16, bias


def row(name: str, lookup: bool) -> dict[str, Any]:
    if name in ("stem", "fc"):
        macs = STEM_MACS if name == "stem" else FC_MACS
        return {"name": name, "kind": "dense", "reason": "kept", "macs_dense": macs, "macs": macs}
    kind = "lookup" if lookup else "dense"
    return {"name": name, "kind": kind, "reason": "", "macs_dense": DENSE_MACS, "macs": LOOKUP_MACS if lookup else DENSE_MACS}


class NetWriter:
    """Writes stem - (conv1 - conv2 + shortcut) - mean - fc, dense or with LookupConv nodes in the block."""

    def __init__(self, lookup: bool, fused: bool) -> None:
        self.lookup, self.fused = lookup, fused
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}

    def tensor(self, name: str, *shape: int) -> str:
        self.tensors[name] = (self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        return name

    def node(self, kind: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name or f"{kind}_{output}", **attributes))
        return output

    def conv(self, name: str, x: str, channels: int, relu: bool, residual: str | None = None) -> str:
        if not self.lookup or name == "stem":
            inputs = [x, self.tensor(f"{name}.weight", 16, channels, 3, 3), self.tensor(f"{name}.bias", 16)]
            y = self.node("Conv", inputs, f"{name}_conv", name, pads=[1] * 4)
            y = self.node("Add", [y, residual], f"{name}_sum") if residual else y
            return self.node("Relu", [y], f"{name}_relu") if relu else y
        flat = np.zeros(16 * 9 * 4, np.float32)
        flat[::18] = self.rng.standard_normal(32)
        gaps, coefficients = encode_positions(flat.reshape(16, 3, 3, 4).transpose(0, 3, 1, 2))
        self.tensors |= {f"{name}.gaps": gaps, f"{name}.coefficients": coefficients.astype(np.float16)}
        self.tensors["none"] = np.zeros(1, np.float32)
        attributes = node_attributes(SAME)
        inputs = [
            x, self.tensor(f"{name}.dictionary", 4, 16), f"{name}.gaps", f"{name}.coefficients",
            self.tensor(f"{name}.bias", 16), residual if residual and self.fused else "none",
        ]  # fmt: skip
        if self.fused:
            attributes["clip_min"] = 0.0
            return self.node(OP_TYPE, inputs, f"{name}_relu", name, domain=DOMAIN, **attributes)
        y = self.node(OP_TYPE, inputs, f"{name}_conv", name, domain=DOMAIN, **attributes)
        y = self.node("Add", [y, residual], f"{name}_sum") if residual else y
        return self.node("Relu", [y], f"{name}_relu")

    def model(self, batch: int | str) -> onnx.ModelProto:
        x = self.conv("stem", "x", 3, relu=True)
        y = self.conv("block.conv2", self.conv("block.conv1", x, 16, relu=True), 16, relu=True, residual=x)
        pooled = self.node("Flatten", [self.node("GlobalAveragePool", [y], "mean")], "flat")
        self.node("Gemm", [pooled, self.tensor("fc.weight", 10, 16), self.tensor("fc.bias", 10)], "y", "fc", transB=1)
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET)] + [helper.make_opsetid(DOMAIN, OP_VERSION)] * self.lookup
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        model.functions.extend([function_body()] * self.lookup)
        rows = [row(name, self.lookup) for name in LAYERS]
        helper.set_model_props(model, {"lcnn.layers": json.dumps(rows), "lcnn.input_shape": json.dumps([1, 3, 8, 8])})
        onnx.checker.check_model(model)
        return model


def write(folder: Path, *, lookup: bool, fused: bool = True, batch: int | str = "n") -> Path:
    path = folder / f"{'lookup' if lookup else 'dense'}{'' if fused else '_plain'}{batch}.onnx"
    onnx.save(NetWriter(lookup, fused).model(batch), path)
    return path


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(runtime.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(runtime, "PACKAGED_LIBRARY", tmp_path / "absent.so")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("nets")
    settings = BenchSettings(batches=(1, 3), iterations=3, warmup=1)
    return compare(write(folder, lookup=False), write(folder, lookup=True), settings)


def test_the_object_has_the_keys_and_types_of_the_contract(compared: dict[str, Any]) -> None:
    assert compared == json.loads(json.dumps(compared))
    assert compared["command"] == "bench"
    assert compared["onnxruntime"] == runtime.onnxruntime_version()
    assert compared["isa"] == runtime.isa()
    for run in compared["runs"]:
        speeds = {"speedup_p50", "speedup_ci95", "macs_ratio", "realised_fraction"}
        assert set(run) == {"batch", "threads", "dense", "lookup", *speeds, "max_abs_diff", "baseline_rss_bytes"}
        for net in ("dense", "lookup"):
            latency = [f"latency_ms_{key}" for key in ("min", "p50", "p90", "p99")]
            assert set(run[net]) == {*latency, "throughput_per_s", "peak_rss_bytes", "file_bytes", "weight_bytes", "macs"}
            assert sorted(run[net][key] for key in latency) == [run[net][key] for key in latency]
            assert isinstance(run[net]["peak_rss_bytes"], int)
            assert run[net]["peak_rss_bytes"] > run[net]["file_bytes"]
        low, high = run["speedup_ci95"]
        assert 0 < low <= high
    for layer in compared["layers"]:
        assert list(layer) == ["name", "kind", "reason", "macs_dense", "macs", "dense_ms", "lookup_ms"]
        assert isinstance(layer["dense_ms"], float)
        assert isinstance(layer["lookup_ms"], float)
    assert set(compared["other"]) == {"dense_ms", "lookup_ms"}
    assert compared["input_shape"] == [1, 3, 8, 8]


def test_macs_and_bytes_are_those_worked_out_by_hand(compared: dict[str, Any]) -> None:
    dense, lookup = STEM_MACS + 2 * DENSE_MACS + FC_MACS, STEM_MACS + 2 * LOOKUP_MACS + FC_MACS
    assert (dense, lookup) == (322_720, 40_096)
    weights = STEM_BYTES + 2 * DENSE_BYTES + FC_BYTES, STEM_BYTES + 2 * LOOKUP_BYTES + FC_BYTES + 4  # one zero: no residual
    assert weights == (21_032, 3_308)
    assert [(run["batch"], run["threads"]) for run in compared["runs"]] == [(1, 1), (3, 1)]
    for run in compared["runs"]:
        assert (run["dense"]["macs"], run["lookup"]["macs"]) == (run["batch"] * dense, run["batch"] * lookup)
        assert (run["dense"]["weight_bytes"], run["lookup"]["weight_bytes"]) == weights
    assert [layer["macs"] for layer in compared["layers"]] == [STEM_MACS, LOOKUP_MACS, LOOKUP_MACS, FC_MACS]


def test_ratios_are_dense_over_lookup(compared: dict[str, Any]) -> None:
    for run in compared["runs"]:
        assert run["speedup_p50"] == run["dense"]["latency_ms_p50"] / run["lookup"]["latency_ms_p50"]
        assert run["macs_ratio"] == 322_720 / 40_096
        assert run["realised_fraction"] == run["speedup_p50"] / run["macs_ratio"]
        assert run["dense"]["throughput_per_s"] == 1000 * run["batch"] / run["dense"]["latency_ms_p50"]


def test_max_abs_diff_is_between_the_two_nets(tmp_path: Path) -> None:
    dense, lookup = write(tmp_path, lookup=False), write(tmp_path, lookup=True)
    *_, difference = outputs_in_turn((dense, lookup), [2, 3, 8, 8], 1, (1, 0), seed=5)
    x = np.random.default_rng(5).standard_normal((2, 3, 8, 8), np.float32)
    outputs = [runtime.session(path, threads=1).run(None, {"x": x})[0] for path in (dense, lookup)]
    assert difference == np.abs(outputs[0] - outputs[1]).max() > 0
    *_, nothing = outputs_in_turn((dense, dense), [1, 3, 8, 8], 1, (1, 0), seed=5)
    assert nothing == 0


def test_pairs_are_counted_without_the_warm_up(tmp_path: Path) -> None:
    dense, lookup = write(tmp_path, lookup=False), write(tmp_path, lookup=True)
    dense_ms, lookup_ms, _ = outputs_in_turn((dense, lookup), [1, 3, 8, 8], 1, (4, 3), seed=0)
    assert (len(dense_ms), len(lookup_ms)) == (4, 4)


def test_latency_statistics_of_fixed_numbers() -> None:
    # 0..100: percentile p is p, also with interpolation; 4 images in 50 ms are 80 in a second.
    assert latency_statistics(range(101), batch=4) == {
        "latency_ms_p50": 50.0, "latency_ms_p90": 90.0, "latency_ms_p99": 99.0, "latency_ms_min": 0.0, "throughput_per_s": 80.0,
    }  # fmt: skip


def test_the_interval_of_a_constant_ratio_is_that_ratio() -> None:
    assert ratio_interval([6.0] * 5, [2.0] * 5, seed=0) == [3.0, 3.0]


def test_the_interval_keeps_pairs_together_and_follows_the_seed() -> None:
    dense, lookup = [4.0, 40.0, 400.0], [2.0, 20.0, 200.0]
    assert ratio_interval(dense, lookup, seed=0) == [2.0, 2.0]  # resampled apart, the medians would seldom match
    mixed = [4.0, 5.0, 6.0, 7.0, 8.0], [2.0, 2.0, 2.0, 2.0, 2.0]
    low, high = ratio_interval(*mixed, seed=1)
    assert 2.0 <= low < 3.0 < high <= 4.0
    assert ratio_interval(*mixed, seed=1) == [low, high]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("lookup", [False, True])
def test_every_layer_has_a_time_without_the_library(lookup: bool, fused: bool, no_library: None, tmp_path: Path) -> None:
    times = layer_times(write(tmp_path, lookup=lookup, fused=fused), runs=2)
    assert set(times) == {*LAYERS, OTHER}
    assert all(times[name] > 0 for name in LAYERS)


@pytest.mark.parametrize("fused", [True, False])
def test_every_layer_has_a_time_with_the_library(fused: bool, tmp_path: Path) -> None:
    if runtime.library_path() is None:
        pytest.skip("the native library is not there")
    profile = Profile(write(tmp_path, lookup=True, fused=fused), 1, 0, tmp_path)
    profile.run(2)
    runs = profile.finish()
    assert [set(run) for run in runs] == [{*LAYERS, OTHER}] * 2
    assert all(run[name] > 0 for run in runs for name in LAYERS)


def test_time_ratio_takes_medians_over_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def in_turn(runs: Any, rounds: Any) -> list[list[float]]:
        asked.append(tuple(rounds))
        return [[4.0, 3.0, 5.0], [1.0, 3.0, 2.0]]

    dense = write(tmp_path, lookup=False)
    assert time_ratio(dense, dense) > 0
    monkeypatch.setattr(gain_module, "time_in_turn", in_turn)
    assert time_ratio(dense, dense) == 2.0
    assert asked == [(2, 1), (125, 0)]  # half a second of pairs of 3 + 1 ms
    monkeypatch.setattr(gain_module, "RATIO_SECONDS", 0.01)
    assert time_ratio(dense, dense) == 2.0
    assert asked[-1] == (8, 0)  # slow nets run as often as that


def test_the_session_of_the_median_ratio_tells_the_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = iter([(8.0, 2.0), (30.0, 10.0), (10.0, 2.0)])
    monkeypatch.setattr(gain_module, "_medians_in_turn", lambda *_: next(sessions))
    gain = measure_gain(write(tmp_path, lookup=False), write(tmp_path, lookup=True), rounds=1, runs=1)
    assert (gain.dense_ms, gain.lookup_ms) == (8.0, 2.0)


def test_measure_gain_returns_the_layers_asked_for(tmp_path: Path) -> None:
    dense, lookup = write(tmp_path, lookup=False), write(tmp_path, lookup=True)
    gain = measure_gain(dense, lookup, LOOKUPS, rounds=2, runs=2)
    assert list(gain.layers) == LOOKUPS
    assert set(measure_gain(dense, lookup, rounds=1, runs=1).layers) == {*LAYERS, OTHER}


def test_the_least_median_of_the_rounds_counts() -> None:
    warmup = [{"a": 1000.0}] * PROFILE_WARMUP
    runs = [*warmup, *({"a": ms} for ms in (1.0, 5.0, 9.0)), *warmup, *({"a": ms} for ms in (4.0, 3.0, 8.0))]
    assert least_medians(runs, rounds=2) == {"a": 4.0}


def test_a_sum_of_two_layers_belongs_to_neither() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="left"), helper.make_node("Conv", ["x", "v"], ["b"], name="right"),
        helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Relu", ["sum"], ["relu"]),
    ]  # fmt: skip
    found = node_layers.layers_of_events(helper.make_graph(nodes, "g", [], []))
    assert (found["a_nchwc"], found["b"], found["fused right"]) == ("left", "right", "right")
    assert not {"sum", "sum_nchwc", "relu", "relu_nchwc"} & set(found)


def test_layout_changes_count_for_the_lookups_beside_them() -> None:
    lookup = {"op_type": OP_TYPE, "domain": DOMAIN}
    nodes = [
        helper.make_node("ReorderOutput", ["blocked"], ["plain"]),
        helper.make_node(inputs=["plain"], outputs=["a"], name="one", **lookup),
        helper.make_node(inputs=["a", "plain"], outputs=["b"], name="two", **lookup),
        helper.make_node("ReorderInput", ["b"], ["again"]), helper.make_node("ReorderOutput", ["again"], ["last"]),
    ]  # fmt: skip
    shares: list[list[str]] = [[], ["one"], ["two"], [], []]
    node_layers.add_layout_changes(nodes, shares)
    assert shares == [["one", "two"], ["one"], ["two"], ["two"], []]


def test_the_memory_of_a_net_is_measured_without_torch_and_onnx(tmp_path: Path) -> None:
    path = write(tmp_path, lookup=True)
    code = (
        "import sys, lcnn_compress.bench.compare as b\n"
        f"print(b.JOBS['memory'](model={str(path)!r}, shape=[1, 3, 8, 8])['peak_rss_bytes'] > 0)\n"
        "print([name for name in ('torch', 'onnx', 'sklearn') if name in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["True", "[]"]


def test_external_weights_count_as_file_bytes(tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    model = NetWriter(lookup=False, fused=True).model("n")
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert _file_facts(path) == {
        "file_bytes": path.stat().st_size + (tmp_path / "weights.bin").stat().st_size, "weight_bytes": 21_032,
    }  # fmt: skip


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    dense, lookup = write(tmp_path, lookup=False, batch=1), write(tmp_path, lookup=True)
    settings = BenchSettings(batches=(4,), iterations=1, per_layer=False)
    with pytest.raises(SettingsError, match=r"^dense1.onnx: batch is 4, but the file fixes it to 1; choose that batch"):
        compare(dense, lookup, settings)


def test_a_batch_beyond_memory_is_refused(tmp_path: Path) -> None:
    batch = 10**14  # 77 PB, more than any address space
    with pytest.raises(SettingsError, match=rf"^batch is {batch}: it does not fit in memory \(Unable to allocate"):
        outputs_in_turn((write(tmp_path, lookup=False),) * 2, [batch, 3, 8, 8], 1, (1, 0), seed=0)


def test_a_size_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"densen.onnx: takes \['n', 3, 8, 8\], not \[1, 3, 9, 9\]"):
        outputs_in_turn((write(tmp_path, lookup=False),) * 2, [1, 3, 9, 9], 1, (1, 0), seed=0)


def test_files_of_two_nets_are_refused(tmp_path: Path) -> None:
    other = NetWriter(lookup=False, fused=True).model("n")
    del other.graph.node[-1], other.graph.output[0]
    other.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 16]))
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(SettingsError, match=r"other.onnx gives \[\(1, 16\)\], densen.onnx \[\(1, 10\)\]; both must be forms"):
        outputs_in_turn((tmp_path / "other.onnx", write(tmp_path, lookup=False)), [1, 3, 8, 8], 1, (1, 0), seed=0)


def test_a_file_without_our_metadata_is_refused(tmp_path: Path) -> None:
    dense = write(tmp_path, lookup=False)
    model = onnx.load(dense)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ArtefactError, match=r"^bare.onnx: metadata 'lcnn.layers' or .* cannot be read \('lcnn.layers'\)"):
        compare(dense, tmp_path / "bare.onnx")


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    dense = write(tmp_path, lookup=False)
    (tmp_path / "half.onnx").write_bytes(dense.read_bytes()[:500])
    with pytest.raises(ArtefactError, match=r"^half.onnx: ONNX Runtime"):
        compare(dense, tmp_path / "half.onnx")
    with pytest.raises(FileError, match=r"gone.onnx: cannot be read"):
        layer_times(tmp_path / "gone.onnx")


def test_a_child_is_of_this_package_wherever_it_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "lcnn_compress"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('the package in the working directory')")
    monkeypatch.chdir(tmp_path)
    assert run_child({"job": "memory"}, compare.__module__, 60)["peak_rss_bytes"] > 0


def test_a_crashed_child_shows_the_end_of_its_error_output() -> None:
    with pytest.raises(ChildError, match=r"the nonsense measurement of .* ended with status 1: .*KeyError: 'nonsense'"):
        run_child({"job": "nonsense"}, compare.__module__, 60)


def test_a_killed_child_is_no_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    with pytest.raises(SettingsError, match=r"ended with status -9, probably for want of memory; .*it wrote nothing"):
        run_child({"job": "memory"}, compare.__module__, 60)


def test_a_child_past_its_time_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"the memory measurement of an empty process: took more than 0 s; measure fewer"):
        run_child({"job": "memory"}, compare.__module__, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": (1, 0)}, r"threads is \(1, 0\); each must be at least 1"),
        ({"batches": ()}, r"batches is \(\); each must be at least 1"),
        ({"iterations": 0}, r"iterations is \(0,\); each must be at least 1"),
        ({"warmup": -1}, r"warmup is -1; it must be at least 0"),
    ],
)
def test_settings_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        BenchSettings(**wrong)

"""Files run in turn: what is counted, what they compute, which inputs are refused. Never a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import PACKAGE_PARENT
from onnx import TensorProto, helper
from small_onnx import NetWriter, write

from lcnn_compress import runtime
from lcnn_compress.benchmark.timing import (
    OPENVINO,
    EngineFile,
    Latency,
    latency_statistics,
    open_file,
    open_net,
    outputs_in_turn,
    ratio_interval,
    time_in_turn,
)
from lcnn_compress.errors import LcnnError, SettingsError


def files(*paths: Path) -> list[EngineFile]:
    return [EngineFile(path) for path in paths]


def test_max_abs_diff_is_between_the_two_nets(tmp_path: Path) -> None:
    dense, lookup = write(tmp_path, lookup=False), write(tmp_path, lookup=True)
    none, difference = outputs_in_turn(files(dense, lookup), [2, 3, 8, 8], 1, (1, 0), seed=5).max_abs_diff
    x = np.random.default_rng(5).standard_normal((2, 3, 8, 8), np.float32)
    outputs = [runtime.session(path, threads=1).run(None, {"x": x})[0] for path in (dense, lookup)]
    assert difference == np.abs(outputs[0] - outputs[1]).max() > 0
    assert none == 0


def test_pairs_are_counted_without_the_warm_up(tmp_path: Path) -> None:
    dense, lookup = write(tmp_path, lookup=False), write(tmp_path, lookup=True)
    times = outputs_in_turn(files(dense, lookup, dense), [1, 3, 8, 8], 1, (4, 3), seed=0)
    assert [len(ms) for ms in times.ms] == [4, 4, 4]


def test_nets_take_turns_and_another_comes_first_each_time() -> None:
    order: list[str] = []

    def net(name: str) -> list[np.ndarray]:
        order.append(name)
        return []

    times = time_in_turn([lambda: net("a"), lambda: net("b")], (2, 1))
    assert "".join(order) == "aabb" + "bbaa" + "aabb"  # a turn is two runs, of which the second is counted
    assert [len(ms) for ms in times] == [2, 2]


def test_a_run_that_takes_long_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []

    def net(name: str, seconds: float) -> list[np.ndarray]:
        order.append(name)
        clock[0] += seconds
        return []

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    times = time_in_turn([lambda: net("a", 0.01), lambda: net("b", 0.5)], (2, 0))
    assert "".join(order) == "baa" + "aab"
    assert times == [pytest.approx([10, 10]), pytest.approx([500, 500])]


def test_the_memory_of_a_net_is_measured_without_torch_and_onnx(tmp_path: Path) -> None:
    path = write(tmp_path, lookup=True)
    code = (
        "import sys, lcnn_compress.benchmark.compare as b\n"
        f"print(b.measure_memory({str(path)!r}, [1, 3, 8, 8]).peak_rss_bytes > 0)\n"
        "print([name for name in ('torch', 'onnx', 'sklearn') if name in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["True", "[]"]


def test_a_batch_beyond_memory_is_refused(tmp_path: Path) -> None:
    batch = 10**14  # 77 PB, more than any address space
    with pytest.raises(SettingsError, match=rf"^batch is {batch}: it does not fit in memory \(Unable to allocate"):
        outputs_in_turn(files(write(tmp_path, lookup=False)), [batch, 3, 8, 8], 1, (1, 0), seed=0)


def test_a_size_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"densen.onnx: takes \['n', 3, 8, 8\], not \[1, 3, 9, 9\]"):
        outputs_in_turn(files(write(tmp_path, lookup=False)), [1, 3, 9, 9], 1, (1, 0), seed=0)


def test_files_of_two_nets_are_refused(tmp_path: Path) -> None:
    other = NetWriter(lookup=False, fused=True).model("n")
    del other.graph.node[-1], other.graph.output[0]
    other.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 16]))
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(SettingsError, match=r"other.onnx gives \[\(1, 16\)\], densen.onnx \[\(1, 10\)\]; both must be forms"):
        outputs_in_turn(files(tmp_path / "other.onnx", write(tmp_path, lookup=False)), [1, 3, 8, 8], 1, (1, 0), seed=0)


def test_a_shape_in_the_metadata_that_is_none_is_refused(tmp_path: Path) -> None:
    for text, message in (
        ("[1, true, 8, 8]", "metadata 'lcnn.input_shape' cannot be read"),
        ("[1, 3, 8, 9007199254740992]", "batch is 1: it does not fit"),
    ):
        model = NetWriter(False, False).model("n")
        next(entry for entry in model.metadata_props if entry.key == "lcnn.input_shape").value = text
        for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.dim_param = "side"
        onnx.save(model, tmp_path / "net.onnx")
        with pytest.raises(LcnnError, match=message):
            open_net(tmp_path / "net.onnx", None, 1, 0)


def test_openvino_computes_what_onnx_runtime_computes(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    dense = write(tmp_path, lookup=False)
    one, other = (open_file(EngineFile(dense, engine), [2, 3, 8, 8], 1, 5) for engine in (EngineFile(dense).engine, OPENVINO))
    want, got, again = one()[0], other()[0].copy(), other()[0]
    assert want.shape == got.shape == (2, 10)
    # bfloat16, which OpenVINO takes where it can, rounds to 8 bits; four layers follow each other.
    assert np.abs(want - got).max() < 8 * 2.0**-8 * np.abs(want).max()
    np.testing.assert_array_equal(got, again)


def test_latency_statistics_of_fixed_numbers() -> None:
    # 0..100: percentile p is p, also with interpolation; 4 images in 50 ms are 80 in a second.
    assert latency_statistics(range(101), batch=4) == Latency(
        latency_ms_p50=50.0, latency_ms_p90=90.0, latency_ms_p99=99.0, latency_ms_min=0.0, throughput_per_s=80.0
    )  # fmt: skip


def test_the_interval_of_a_constant_ratio_is_that_ratio() -> None:
    assert ratio_interval([6.0] * 5, [2.0] * 5, seed=0) == (3.0, 3.0)


def test_the_interval_keeps_pairs_together_and_follows_the_seed() -> None:
    dense, lookup = [4.0, 40.0, 400.0], [2.0, 20.0, 200.0]
    assert ratio_interval(dense, lookup, seed=0) == (2.0, 2.0)  # resampled apart, the medians would seldom match
    mixed = [4.0, 5.0, 6.0, 7.0, 8.0], [2.0, 2.0, 2.0, 2.0, 2.0]
    low, high = ratio_interval(*mixed, seed=1)
    assert 2.0 <= low < 3.0 < high <= 4.0
    assert ratio_interval(*mixed, seed=1) == (low, high)

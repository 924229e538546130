"""The other engines: int8 and OpenVINO compute what the float32 net computes, within what they round."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_onnx import write

from lcnn_compress import runtime
from lcnn_compress.benchmark.compare import BenchSettings
from lcnn_compress.benchmark.engines import (
    ONNXRUNTIME,
    OPENVINO,
    REFERENCE,
    EngineFile,
    open_file,
    time_files,
    write_int8,
)


@pytest.fixture
def dense_file(tmp_path: Path) -> Path:
    return write(tmp_path, lookup=False)


def test_int8_weights_have_a_scale_for_each_channel(dense_file: Path, tmp_path: Path) -> None:
    write_int8(dense_file, tmp_path / "int8.onnx", (1, 3, 8, 8), BenchSettings())
    model = onnx.load(tmp_path / "int8.onnx")
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = sorted(
        (str(tensors[node.input[0]].dtype), tensors[node.input[0]].shape[:2], tensors[node.input[1]].shape)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors and tensors[node.input[0]].ndim == 4
    )
    assert weights == [("int8", (16, 3), (16,)), ("int8", (16, 16), (16,)), ("int8", (16, 16), (16,))]
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    want, got = (runtime.session(path).run(None, {"x": x})[0] for path in (dense_file, tmp_path / "int8.onnx"))
    # A tensor of 255 steps is off by half of one at most; a dozen quantised tensors follow each other here.
    assert 0 < np.abs(got - want).max() < 12 / 255 * np.abs(want).max()


def test_openvino_computes_what_onnx_runtime_computes(dense_file: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    runs = [open_file(EngineFile(dense_file, engine), [2, 3, 8, 8], 1, 5) for engine in (ONNXRUNTIME, OPENVINO)]
    one, other = (run()[0] for run in runs)
    assert one.shape == other.shape == (2, 10)
    assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()  # both sum fewer than 300 float32 terms a layer


def test_every_form_is_compared_with_the_dense_one(dense_file: Path, tmp_path: Path) -> None:
    forms = {REFERENCE: EngineFile(dense_file), "lookup": EngineFile(write(tmp_path, lookup=True))}
    found = time_files(forms, (2, 3, 8, 8), 1, BenchSettings(iterations=3, warmup=1))
    dense, lookup = found[REFERENCE], found["lookup"]
    assert list(found) == list(forms)
    assert (dense.speedup_p50, dense.speedup_ci95) == (1.0, (1.0, 1.0))
    assert lookup.speedup_p50 == dense.latency_ms_p50 / lookup.latency_ms_p50
    assert lookup.throughput_per_s == 2000 / lookup.latency_ms_p50  # two images
    assert lookup.peak_rss_bytes > 1_000_000

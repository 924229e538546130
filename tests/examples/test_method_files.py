"""Methods that only run a file in another way: what they compute, and that their files can be put in a place."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_onnx import write

from lcnn_compress import runtime
from lcnn_compress.benchmark.timing import EngineFile, open_file
from lcnn_compress.machine import int8_extensions

OTHER = [
    ("int8", "minmax"), ("int8", "entropy signed"), ("OpenVINO", "as it comes"), ("OpenVINO int8", "performance"),
    ("OpenVINO int8", "mixed"),
]  # fmt: skip


@pytest.fixture
def methods() -> Any:
    return importlib.import_module("methods")


@pytest.fixture
def method_files() -> Any:
    return importlib.import_module("method_files")


@pytest.mark.parametrize(("method", "candidate"), OTHER)
def test_another_form_of_a_file_computes_what_the_file_does(
    method: str, candidate: str, methods: Any, method_files: Any, tmp_path: Path
) -> None:
    assert candidate in methods.CANDIDATES[method]
    if method not in methods.INSTALLED:
        pytest.skip(f"{method} is not installed")
    dense = write(tmp_path, lookup=False)
    suffix = ".xml" if method == "OpenVINO int8" else ".onnx"
    batches = [torch.from_numpy(np.random.default_rng(i).standard_normal((4, 3, 8, 8), np.float32)) for i in range(4)]
    run, put = method_files.other_form(dense, tmp_path / f"form{suffix}", method, candidate, batches)
    for x in (batches[0], batches[1][:1]):  # of any size
        want = runtime.session(dense, threads=1).run(None, {"x": x.numpy()})[0]
        got = run(x).numpy()
        assert got.shape == want.shape
        # A tensor of 255 steps is off by half of one at most; a dozen follow each other. bfloat16 is nearer. Weights have 7
        # bits where processors have no products of bytes.
        steps = 255 if int8_extensions() else 127
        assert 0 < np.abs(got - want).max() < 12 / steps * np.abs(want).max()
    put(tmp_path / f"place{suffix}")
    file = EngineFile(tmp_path / f"place{suffix}", method_files.engine_of(method))
    assert open_file(file, [1, 3, 8, 8], 1, 0)()[0].shape == (1, 10)


def test_what_is_not_made_of_files_runs_in_onnx_runtime(methods: Any, method_files: Any) -> None:
    engines = {method: method_files.engine_of(method) for method in methods.METHODS}
    assert {name for name, engine in engines.items() if engine == "OpenVINO"} == {"OpenVINO", "OpenVINO int8"}

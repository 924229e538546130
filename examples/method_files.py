"""Methods of compare_methods.py that train nothing: the file of a float32 net, run by another engine or in int8."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import FROM_FILES, INT8, OPENVINO_INT8
from torch import Tensor

from lcnn_compress import runtime
from lcnn_compress.benchmark.rivals import quantise_onnx, quantise_openvino
from lcnn_compress.benchmark.timing import ONNXRUNTIME, openvino_request
from lcnn_compress.data.score import onnx_runner

Run = Callable[[Tensor], Tensor]


def engine_of(method: str) -> str:
    """Return the engine that runs the files of a method."""
    return FROM_FILES[method].engine if method in FROM_FILES else ONNXRUNTIME


def other_form(
    dense: Path, path: Path, method: str, candidate: str, batches: Sequence[Tensor]
) -> tuple[Run, Callable[[Path], None]]:
    """Make a form of a float32 file; return what runs it and what puts its file in a place.

    Args:
        dense: the file, batch norms folded.
        path: where to write.
        method: of ``FROM_FILES``.
        candidate: of ``CANDIDATES``.
        batches: images that ranges are taken from.
    """
    images = [x.numpy() for x in batches]
    with redirect_stdout(StringIO()):  # quantisation prints its progress
        if method == INT8:
            quantise_onnx(dense, path, images, entropy="entropy" in candidate, signed="signed" in candidate)
        elif method == OPENVINO_INT8:
            quantise_openvino(dense, path, images, mixed=candidate == "mixed")
        else:
            shutil.copyfile(dense, path)

    def write(target: Path) -> None:
        shutil.copyfile(path, target)
        if path.suffix == ".xml":
            shutil.copyfile(path.with_suffix(".bin"), target.with_suffix(".bin"))

    if method == INT8:
        return onnx_runner(runtime.session(path.read_bytes(), threads=1)), write
    return openvino_runner(path), write


def openvino_runner(path: Path) -> Run:
    """Return what runs a file in OpenVINO on batches of any size, compiled for each size it meets."""
    requests: dict[tuple[int, ...], Any] = {}

    def run(x: Tensor) -> Tensor:
        shape = tuple(x.shape)
        if shape not in requests:
            requests[shape] = openvino_request(path, shape, 1)[0]
        return torch.from_numpy(np.array(requests[shape].infer([x.contiguous().numpy()])[0]))

    return run

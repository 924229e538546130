"""Find out whether this machine can run lookup convolutions fast and right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress import runtime
from lcnn_compress.machine import machine
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.operators.lookup_conv import INPUTS, OP_TYPE, function_body, node_attributes
from lcnn_compress.version import __version__


@dataclass(frozen=True)
class Checkup:
    """What ``lcnn doctor --json`` prints: the fields of ``Machine``, and facts on the native library (None without it)."""

    command: str
    lcnn: str
    cpu: str
    cores: int | None
    isa: str | None
    system: str
    python: str
    onnxruntime: str
    torch: str | None
    native_library: str | None
    native_version: str | None
    self_test: str  # starts with "passed", "FAILED" or "not run"


def check() -> Checkup:
    """Return versions, paths and the result of a self-test: one convolution by the native library and by its body.

    Raises:
        MissingError: the native library is named and is not there, or cannot be loaded.
    """
    library = runtime.library_path()
    return Checkup(
        command="doctor", lcnn=__version__, **vars(machine()), native_library=None if library is None else str(library),
        native_version=runtime.runtime_version(), self_test=self_test(library),
    )  # fmt: skip


def self_test(library: Path | None) -> str:
    """Compute one convolution with the native library and with its function body; say in words how far they agree."""
    if library is None:
        return f"not run: exported files run at dense speed without the native library; {runtime.HOW_TO_GET}"
    data = single_node_model(ConvGeometry((3, 3), (2, 1), (1, 0, 1, 2)), channels=(12, 20), dictionary_size=7, seed=0)
    x = np.random.default_rng(1).standard_normal((2, 12, 17, 19), np.float32)
    results = [runtime.session(data, native=native).run(None, {"X": x})[0] for native in (True, False)]
    difference = float(np.abs(results[0] - results[1]).max())
    # An output sums at most 63 values of X * D, each a sum of 12 products: rounding stays far below this part of the largest.
    passed = difference <= 1e-5 * float(np.abs(results[1]).max())
    return f"{'passed' if passed else 'FAILED'}: native and fallback differ by {difference:.1e}"


def single_node_model(geometry: ConvGeometry, *, channels: tuple[int, int], dictionary_size: int, seed: int) -> bytes:
    """Return an ONNX file of one random LookupConv (channels in, out) with a quarter of its entries kept."""
    rng = np.random.default_rng(seed)
    in_channels, out_channels = channels
    kernel = rng.standard_normal((out_channels, dictionary_size, *geometry.kernel), np.float32)
    kernel *= rng.random(kernel.shape) < 0.25
    gaps, coefficients = encode_positions(kernel)
    arrays = {
        "D": rng.standard_normal((geometry.groups * dictionary_size, in_channels // geometry.groups), np.float32),
        "gaps": gaps, "coefficients": coefficients, "bias": rng.standard_normal(out_channels, np.float32),
        "residual": np.zeros(1, np.float32),
    }  # fmt: skip
    node = helper.make_node(OP_TYPE, list(INPUTS), ["Y"], name="self-test", domain=DOMAIN, **node_attributes(geometry))
    graph = helper.make_graph(
        [node], "self-test", [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", in_channels, "h", "w"])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", out_channels, "p", "q"])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    model.functions.append(function_body())
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data

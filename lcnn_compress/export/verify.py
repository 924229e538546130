"""Compare an exported file with torch."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import fx

from lcnn_compress import runtime
from lcnn_compress.errors import ModelError
from lcnn_compress.operators.common import DOMAIN


def verify(net: fx.GraphModule, data: bytes, input_shape: tuple[int, ...], tolerance: float) -> float:
    """Return the largest difference between ONNX Runtime and torch, relative to max(1, |torch|), native and fallback alike.

    Raises:
        ModelError: the difference exceeds ``tolerance`` or is not a number.
        MissingError: the file has no function body and the native library is not there.
    """
    model = onnx.load_from_string(data)
    first = model.graph.input[0]
    ways = {runtime.library_path() is not None, False}
    if any(node.domain == DOMAIN for node in model.graph.node) and not model.functions:
        runtime.require_library()
        ways = {True}
    dynamic_batch = not first.type.tensor_type.shape.dim[0].HasField("dim_value")
    size = (2 if dynamic_batch else input_shape[0], *input_shape[1:])
    worst = 0.0
    for native in ways:
        difference = largest_difference(net, data, size, native=native)
        if not difference <= tolerance:  # A comparison with NaN is false, so that NaN is refused too.
            way = "the native library" if native else "standard operators"
            raise ModelError(
                f"the exported net differs from torch by {difference:.2e} of the largest output with {way}, more than "
                f"{tolerance:.0e}; nothing was written (raise `tolerance` if this is acceptable)"
            )
        worst = max(worst, difference)
    return worst


def largest_difference(net: fx.GraphModule, data: bytes, size: tuple[int, ...], *, native: bool) -> float:
    x = torch.rand(size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(x)
    session = runtime.session(data, native=native)
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    worst = 0.0
    for got, want in zip(outputs, expected if isinstance(expected, tuple) else (expected,), strict=True):
        if got.shape != tuple(want.shape):
            return float("inf")
        scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        difference = float(np.abs(got - want.numpy()).max(initial=0)) / scale
        worst = difference if not difference <= worst else worst  # a NaN stays
    return worst

"""Compare an exported file with torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import onnx
import torch
from torch import fx

from lcnn_compress import runtime
from lcnn_compress.errors import ModelError
from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d
from lcnn_compress.forms.int8 import Int8Conv2d
from lcnn_compress.net.agreement import as_arrays, difference, probes, worse
from lcnn_compress.operators.common import DOMAIN

# A file that differs by more than this share of the spread of its outputs does not magnify rounding: it is another net.
ANOTHER_NET = 0.05
# Nets in 8 bits round to a neighbouring value here and there where sums differ in their last bit: a step is 4e-3 of a range.
ROUNDED_DIFFERENCE = 0.02
# A step of bfloat16 is at most 2**-7 of a value, and moves an output by that part of the term it is in. Sums of n terms in
# another order differ by some sqrt(n) * 2**-24 of them, so that one value in 2**10 or fewer is rounded to the other neighbour:
# together these move an output less than a step of a term as large as its spread would.
BFLOAT16_DIFFERENCE = 2.0**-7
_TRIED = 6


def allowed_difference(net: fx.GraphModule, tolerance: float) -> float:
    """Return the largest difference that a file of a net may have: more where the net rounds to 8 bits or bfloat16."""
    steps = {Int8Conv2d: ROUNDED_DIFFERENCE, Bfloat16Conv2d: BFLOAT16_DIFFERENCE}
    return max(tolerance, *(steps.get(type(module), 0.0) for module in net.modules()))


def verify(net: fx.GraphModule, data: bytes, input_shape: tuple[int, ...], tolerance: float) -> float:
    """Return the largest difference between ONNX Runtime and torch, native and fallback alike; see ``agreement.difference``.

    Raises:
        ModelError: the difference exceeds ``tolerance`` or is not a number.
        MissingError: the file has no function body and the native library is not there.
    """
    model = onnx.load_from_string(data)
    ways = {runtime.library_path() is not None, False}
    if any(node.domain == DOMAIN for node in model.graph.node) and not model.functions:
        runtime.require_library()
        ways = {True}
    sizes = sizes_of(net, input_shape, open_axes(model))
    tolerance = allowed_difference(net, tolerance)
    worst = 0.0
    for native in ways:
        found = largest_difference(net, data, sizes, native=native)
        if not found <= tolerance:  # A comparison with NaN is false, so that NaN is refused too.
            way = "the native library" if native else "standard operators"
            out = " (raise `tolerance` if this is acceptable)" if found < ANOTHER_NET else "; please report this net"
            raise ModelError(
                f"the exported net differs from torch by {found:.2e} of the outputs' spread with {way}, more than "
                f"{tolerance:.0e}; nothing was written{out}"
            )
        worst = worse(worst, found)
    return worst


def open_axes(model: onnx.ModelProto) -> tuple[int, ...]:
    """Return the axes of the input that a file leaves open."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return tuple(axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value"))


def sizes_of(net: fx.GraphModule, input_shape: tuple[int, ...], axes: Sequence[int], most: int = 3) -> list[tuple[int, ...]]:
    """Return sizes that a net takes and that differ on open axes: its own, for other numbers of images too, and others."""
    found = []
    for size in islice(probes(input_shape, axes), _TRIED):
        try:
            with torch.no_grad():
                net(torch.zeros(size))
        except (RuntimeError, IndexError, ValueError, TypeError):
            continue
        found.append(size)
        others = [size for size in found if size[1:] != input_shape[1:]]
        if len(others) == most - 1:
            break
    own = [size for size in found if size[1:] == input_shape[1:]]
    return [*own[-1:], *(size for size in found if size not in own)]


def largest_difference(net: fx.GraphModule, data: bytes, sizes: Sequence[tuple[int, ...]], *, native: bool) -> float:
    """Return the largest difference between a net and its file at several sizes of the input."""
    session = runtime.session(data, native=native)
    name, worst = session.get_inputs()[0].name, 0.0
    for size in sizes:
        x = torch.rand(size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = as_arrays(net(x.clone()))
        worst = worse(worst, difference(session.run(None, {name: x.numpy()}), expected))
    return worst

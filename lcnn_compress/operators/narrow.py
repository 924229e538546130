"""Operators on narrow numbers, bytes and bfloat16: which does what, so that one rewriting of graphs knows both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lcnn_compress.operators import bfloat16_conv, int8_conv
from lcnn_compress.operators.common import DOMAIN

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Narrow:
    """The operators on one type of numbers.

    Attributes:
        name: what plans call the arithmetic.
        suffix: what the name of a value ends in where it is in these numbers.
        rounding: the node of an exported net that rounds to them.
        grid: how many constants say what a number stands for; they follow a value that is read, or the constants of a layer.
        inputs: of the operators that convolve.
        narrowed: of these, the operator that gives such numbers where the other gives float32.
        without_dictionary: of these, the operator without a dictionary.
        from_float, to_float: between planes of float32, (N, C, H, W), and (N, H, W, C) of these.
        rows_from_float, rows_to_float: standard operators between rows of features, and their attributes.
        max_pool: pools.
        from_other: makes these numbers of the other ones.
        average: averages planes; None where that is done in float32.
        add: adds two tensors; None likewise.
        to_bfloat16: of the operators that convolve bytes, the one that gives bfloat16 where the other gives float32.
    """

    name: str
    suffix: str
    rounding: str
    grid: int
    inputs: Mapping[str, tuple[str, ...]]
    narrowed: Mapping[str, str]
    without_dictionary: Mapping[str, str]
    from_float: str
    to_float: str
    rows_from_float: tuple[str, Mapping[str, int]]
    rows_to_float: tuple[str, Mapping[str, int]]
    max_pool: str
    from_other: str
    average: str | None = None
    add: str | None = None
    to_bfloat16: Mapping[str, str] = field(default_factory=dict)


# Numbers of the types in TensorProto.
_FLOAT, _BFLOAT16 = 1, 16
BYTES = Narrow(
    "int8", int8_conv.BYTES, "Round8", 2, int8_conv.INPUTS, int8_conv.TO_BYTES, int8_conv.WITHOUT_DICTIONARY,
    int8_conv.QUANTIZE, int8_conv.DEQUANTIZE, ("QuantizeLinear", {}), ("DequantizeLinear", {}), int8_conv.BYTE_MAX_POOL,
    int8_conv.FROM_BFLOAT16, int8_conv.BYTE_AVERAGE, int8_conv.BYTE_ADD, int8_conv.TO_BFLOAT16,
)  # fmt: skip
HALVES = Narrow(
    "bfloat16", bfloat16_conv.HALVES, "RoundBfloat16", 0, bfloat16_conv.INPUTS, bfloat16_conv.TO_BFLOAT16,
    bfloat16_conv.WITHOUT_DICTIONARY, bfloat16_conv.FROM_FLOAT, bfloat16_conv.TO_FLOAT, ("Cast", {"to": _BFLOAT16}),
    ("Cast", {"to": _FLOAT}), bfloat16_conv.MAX_POOL, int8_conv.BYTES_TO_BFLOAT16,
)  # fmt: skip
KINDS = (BYTES, HALVES)
SUFFIXES = tuple(kind.suffix for kind in KINDS)
INPUTS = {**int8_conv.INPUTS, **bfloat16_conv.INPUTS}
# The type of the numbers that an operator convolves, or that a node rounds to.
KIND_OF = {op_type: kind for kind in KINDS for op_type in (*kind.inputs, kind.rounding)}


def bodies(model: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """Return the bodies of the operators on narrow numbers that a model has nodes of."""
    used = sorted({node.op_type for node in model.graph.node if node.domain == DOMAIN})
    modules = (int8_conv, bfloat16_conv)
    return [
        *(module.conv_body(op_type) for module in modules for op_type in used if op_type in module.INPUTS),
        *(module.edge_body(op_type) for module in modules for op_type in used if op_type in module.EDGES),
    ]

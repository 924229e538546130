"""Convolutions in bfloat16 as ONNX sees them: operators on (N, H, W, C) bfloat16, and their bodies in standard operators.

The contract with the native library is the operator section of ``cpp_runtime/README.md``. A body convolves in float32 between
casts, so its results may be rounded the other way where sums differ in their last bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lcnn_compress.operators.common import attribute_reference
from lcnn_compress.operators.nhwc import GEOMETRY, POOL, TO_NCHW, TO_NHWC, bounds, function, to_bfloat16, to_float

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

# Inputs of the operators that convolve: with bfloat16 or with float32 as the result, without and with a dictionary.
CONV, LOOKUP = "Bfloat16Conv", "Bfloat16LookupConv"
CONV_TO_FLOAT, LOOKUP_TO_FLOAT = "Bfloat16ConvToFloat", "Bfloat16LookupConvToFloat"
INPUTS = {
    CONV: ("X", "W", "bias", "residual"),
    LOOKUP: ("X", "D", "W", "bias", "residual"),
    CONV_TO_FLOAT: ("X", "W", "bias"),
    LOOKUP_TO_FLOAT: ("X", "D", "W", "bias"),
}
# The operator that gives bfloat16 where the other gives float32.
TO_BFLOAT16 = {CONV_TO_FLOAT: CONV, LOOKUP_TO_FLOAT: LOOKUP}
# The same operators without a dictionary.
WITHOUT_DICTIONARY = {LOOKUP: CONV, LOOKUP_TO_FLOAT: CONV_TO_FLOAT}
FROM_FLOAT, TO_FLOAT, MAX_POOL = "ToBfloat16Nhwc", "FromBfloat16Nhwc", "Bfloat16NhwcMaxPool"
EDGES = (FROM_FLOAT, TO_FLOAT, MAX_POOL)
# Values in bfloat16 have the names of those in float32, and this.
HALVES = "/bfloat16"


def bfloat16_tensor(name: str, values: NDArray[Any]) -> onnx.TensorProto:
    """Return numbers rounded to bfloat16, to even between two; numpy has no such type."""
    import numpy as np
    from onnx import TensorProto, helper

    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    halves = ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype("<u2")
    return helper.make_tensor(name, TensorProto.BFLOAT16, values.shape, halves.tobytes(), raw=True)


def conv_body(op_type: str) -> onnx.FunctionProto:
    """Return the body of one of ``INPUTS``."""
    from onnx import helper

    node = helper.make_node
    nodes = [*bounds(), node("Transpose", ["X"], ["planes"], perm=TO_NCHW), to_float("planes", "x")]
    nodes += [node("Transpose", ["W"], ["kernel"], perm=TO_NCHW), to_float("kernel", "w")]
    read = "x"
    if op_type in WITHOUT_DICTIONARY:
        project = node("Conv", ["x", "d"], ["responses"])
        project.attribute.append(attribute_reference("group", "group"))
        nodes += [
            node("Constant", [], ["last_axes"], value_ints=[2, 3]),
            node("Unsqueeze", ["D", "last_axes"], ["rows"]), to_float("rows", "d"),
            project, to_bfloat16("responses", "S"), to_float("S", "s"),
        ]  # fmt: skip
        read = "s"
    conv = node("Conv", [read, "w", "bias"], ["convolved"])
    conv.attribute.extend(attribute_reference(name, name) for name in GEOMETRY)
    nodes.append(conv)
    if op_type in TO_BFLOAT16:
        nodes.append(node("Clip", ["convolved", "lowest", "highest"], ["Y"]))
    else:
        nodes += [
            node("Transpose", ["convolved"], ["y"], perm=TO_NHWC), to_float("residual", "r"),
            node("Add", ["y", "r"], ["added"]), node("Clip", ["added", "lowest", "highest"], ["clipped"]),
            to_bfloat16("clipped", "Y"),
        ]  # fmt: skip
    return function(op_type, INPUTS[op_type], nodes, [*GEOMETRY, "clip_min", "clip_max"])


def edge_body(op_type: str) -> onnx.FunctionProto:
    """Return the body of one of ``EDGES``, which do not convolve."""
    from onnx import helper

    node = helper.make_node
    match op_type:
        case "ToBfloat16Nhwc":
            return function(op_type, ("X",), [to_bfloat16("X", "h"), node("Transpose", ["h"], ["Y"], perm=TO_NHWC)])
        case "FromBfloat16Nhwc":
            return function(op_type, ("X",), [node("Transpose", ["X"], ["h"], perm=TO_NCHW), to_float("h", "Y")])
        case "Bfloat16NhwcMaxPool":
            pool = node("MaxPool", ["x"], ["pooled"])
            pool.attribute.extend(attribute_reference(name, name) for name in POOL)
            nodes = [
                node("Transpose", ["X"], ["planes"], perm=TO_NCHW), to_float("planes", "x"), pool,
                node("Transpose", ["pooled"], ["y"], perm=TO_NHWC), to_bfloat16("y", "Y"),
            ]  # fmt: skip
            return function(op_type, ("X",), nodes, POOL)
    raise ValueError(f"no operator on bfloat16 is called {op_type!r}")

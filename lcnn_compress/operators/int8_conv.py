"""Convolutions in 8 bits as ONNX sees them: operators on (N, H, W, C) bytes, and their bodies in standard operators.

The contract with the native library is the operator section of ``cpp_runtime/README.md``. A body dequantises, convolves in
float32 and quantises, so its results may differ from the native ones by one step of the output's scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcnn_compress.operators.common import attribute_reference
from lcnn_compress.operators.nhwc import GEOMETRY, POOL, TO_NCHW, TO_NHWC, bounds, function, to_bfloat16, to_float

if TYPE_CHECKING:
    import onnx

_INPUT = ("X", "x_scale", "x_zero_point")
_ROWS = ("D", "d_scale")
_FACTORS = ("W", "w_scale", "bias")
_OUTPUT = ("y_scale", "y_zero_point", "residual", "r_scale", "r_zero_point")
# Inputs of the operators that convolve: with bytes, float32 or bfloat16 as the result, without and with a dictionary.
QLINEAR_CONV, QLINEAR_LOOKUP = "QLinearConv", "QLinearLookupConv"
CONV_TO_FLOAT, LOOKUP_TO_FLOAT = "ConvIntegerToFloat", "LookupConvIntegerToFloat"
CONV_TO_BFLOAT16, LOOKUP_TO_BFLOAT16 = "ConvIntegerToBfloat16", "LookupConvIntegerToBfloat16"
INPUTS = {
    QLINEAR_CONV: (*_INPUT, *_FACTORS, *_OUTPUT),
    QLINEAR_LOOKUP: (*_INPUT, *_ROWS, *_FACTORS, *_OUTPUT),
    CONV_TO_FLOAT: (*_INPUT, *_FACTORS),
    LOOKUP_TO_FLOAT: (*_INPUT, *_ROWS, *_FACTORS),
    CONV_TO_BFLOAT16: (*_INPUT, *_FACTORS),
    LOOKUP_TO_BFLOAT16: (*_INPUT, *_ROWS, *_FACTORS),
}
# The operator that gives bytes where the other gives float32.
TO_BYTES = {CONV_TO_FLOAT: QLINEAR_CONV, LOOKUP_TO_FLOAT: QLINEAR_LOOKUP}
# The operator that gives bfloat16 likewise.
TO_BFLOAT16 = {CONV_TO_FLOAT: CONV_TO_BFLOAT16, LOOKUP_TO_FLOAT: LOOKUP_TO_BFLOAT16}
# The same operators without a dictionary.
WITHOUT_DICTIONARY = {
    QLINEAR_LOOKUP: QLINEAR_CONV, LOOKUP_TO_FLOAT: CONV_TO_FLOAT, LOOKUP_TO_BFLOAT16: CONV_TO_BFLOAT16,
}  # fmt: skip
# Values in 8 bits have the names of those in float32, and this.
BYTES = "/bytes"


def conv_body(op_type: str) -> onnx.FunctionProto:
    """Return the body of one of ``INPUTS``."""
    from onnx import TensorProto, helper

    node = helper.make_node
    nodes = [
        *bounds(),
        node("Transpose", ["X"], ["planes"], perm=TO_NCHW),
        node("DequantizeLinear", ["planes", "x_scale", "x_zero_point"], ["x"]),
        # ONNX Runtime 1.18 cannot move what comes between dequantising and convolving, so that nothing does.
        node("Transpose", ["W"], ["kernel"], perm=TO_NCHW),
        node("DequantizeLinear", ["kernel", "w_scale"], ["w"], axis=0),
    ]
    read = "x"
    if op_type in WITHOUT_DICTIONARY:
        zero = helper.make_tensor("zero", TensorProto.UINT8, [], [128])
        project = node("Conv", ["x", "d"], ["responses"])
        project.attribute.append(attribute_reference("group", "group"))
        nodes += [
            node("Constant", [], ["last_axes"], value_ints=[2, 3]),
            node("Unsqueeze", ["D", "last_axes"], ["rows"]),
            node("DequantizeLinear", ["rows", "d_scale"], ["d"], axis=0),
            project,
            node("Constant", [], ["one"], value_float=1.0),
            node("Constant", [], ["middle"], value=zero),
            node("QuantizeLinear", ["responses", "one", "middle"], ["S"]),
            node("DequantizeLinear", ["S", "one", "middle"], ["s"]),
        ]
        read = "s"
    conv = node("Conv", [read, "w", "bias"], ["convolved"])
    conv.attribute.extend(attribute_reference(name, name) for name in GEOMETRY)
    nodes.append(conv)
    if op_type in TO_BYTES:
        nodes.append(node("Clip", ["convolved", "lowest", "highest"], ["Y"]))
    elif op_type in TO_BFLOAT16.values():
        nodes += [
            node("Transpose", ["convolved"], ["y"], perm=TO_NHWC),
            node("Clip", ["y", "lowest", "highest"], ["clipped"]),
            to_bfloat16("clipped", "Y"),
        ]
    else:
        nodes += [
            node("Transpose", ["convolved"], ["y"], perm=TO_NHWC),
            node("DequantizeLinear", ["residual", "r_scale", "r_zero_point"], ["r"]),
            node("Add", ["y", "r"], ["added"]),
            node("Clip", ["added", "lowest", "highest"], ["clipped"]),
            node("QuantizeLinear", ["clipped", "y_scale", "y_zero_point"], ["Y"]),
        ]
    return function(op_type, INPUTS[op_type], nodes, [*GEOMETRY, "clip_min", "clip_max"])


QUANTIZE, DEQUANTIZE = "QuantizeNhwc", "DequantizeNhwc"
FROM_BFLOAT16, BYTES_TO_BFLOAT16 = "QuantizeBfloat16", "DequantizeBfloat16"
BYTE_MAX_POOL, BYTE_AVERAGE, BYTE_ADD = "NhwcMaxPool", "QLinearGlobalAveragePool", "QLinearAdd"
EDGES = (QUANTIZE, DEQUANTIZE, FROM_BFLOAT16, BYTES_TO_BFLOAT16, BYTE_MAX_POOL, BYTE_AVERAGE, BYTE_ADD)


def edge_body(op_type: str) -> onnx.FunctionProto:
    """Return the body of an operator on bytes that does not convolve."""
    from onnx import helper

    node = helper.make_node
    match op_type:
        case "QuantizeNhwc":
            nodes = [
                node("QuantizeLinear", ["X", "y_scale", "y_zero_point"], ["q"]),
                node("Transpose", ["q"], ["Y"], perm=TO_NHWC),
            ]
            return function(op_type, ("X", "y_scale", "y_zero_point"), nodes)
        case "QuantizeBfloat16":
            nodes = [to_float("X", "x"), node("QuantizeLinear", ["x", "y_scale", "y_zero_point"], ["Y"])]
            return function(op_type, ("X", "y_scale", "y_zero_point"), nodes)
        case "DequantizeBfloat16":
            nodes = [node("DequantizeLinear", ["X", "x_scale", "x_zero_point"], ["x"]), to_bfloat16("x", "Y")]
            return function(op_type, _INPUT, nodes)
        case "DequantizeNhwc":
            nodes = [
                node("Transpose", ["X"], ["q"], perm=TO_NCHW),
                node("DequantizeLinear", ["q", "x_scale", "x_zero_point"], ["Y"]),
            ]
            return function(op_type, _INPUT, nodes)
        case "NhwcMaxPool":
            pool = node("MaxPool", ["planes"], ["pooled"])
            pool.attribute.extend(attribute_reference(name, name) for name in POOL)
            nodes = [
                node("Transpose", ["X"], ["planes"], perm=TO_NCHW), pool,
                node("Transpose", ["pooled"], ["Y"], perm=TO_NHWC),
            ]  # fmt: skip
            return function(op_type, ("X",), nodes, POOL)
        case "QLinearGlobalAveragePool":
            nodes = [
                node("Constant", [], ["axes"], value_ints=[1, 2]),
                node("DequantizeLinear", ["X", "x_scale", "x_zero_point"], ["x"]),
                node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
                node("QuantizeLinear", ["mean", "y_scale", "y_zero_point"], ["Y"]),
            ]
            return function(op_type, (*_INPUT, "y_scale", "y_zero_point"), nodes)
        case "QLinearAdd":
            nodes = [
                *bounds(),
                node("DequantizeLinear", ["A", "a_scale", "a_zero_point"], ["a"]),
                node("DequantizeLinear", ["B", "b_scale", "b_zero_point"], ["b"]),
                node("Add", ["a", "b"], ["added"]),
                node("Clip", ["added", "lowest", "highest"], ["clipped"]),
                node("QuantizeLinear", ["clipped", "y_scale", "y_zero_point"], ["Y"]),
            ]
            inputs = ("A", "a_scale", "a_zero_point", "B", "b_scale", "b_zero_point", "y_scale", "y_zero_point")
            return function(op_type, inputs, nodes, ("clip_min", "clip_max"))
    raise ValueError(f"no operator on bytes is called {op_type!r}")

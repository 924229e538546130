"""Convolutions in 8 bits as ONNX sees them: operators on (N, H, W, C) bytes, and their bodies in standard operators.

The contract with the native library is the operator section of ``cpp_runtime/README.md``. A body dequantises, convolves in
float32 and quantises, so its results may differ from the native ones by one step of the output's scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lcnn_compress.operators.common import DOMAIN, NO_BOUND, OPSET, attribute_reference
from lcnn_compress.operators.geometry import ConvGeometry

if TYPE_CHECKING:
    import onnx

_INPUT = ("X", "x_scale", "x_zero_point")
_ROWS = ("D", "d_scale")
_FACTORS = ("W", "w_scale", "bias")
_OUTPUT = ("y_scale", "y_zero_point", "residual", "r_scale", "r_zero_point")
# Inputs of the operators that convolve: with bytes or with float32 as the result, without and with a dictionary.
QLINEAR_CONV, QLINEAR_LOOKUP = "QLinearConv", "QLinearLookupConv"
CONV_TO_FLOAT, LOOKUP_TO_FLOAT = "ConvIntegerToFloat", "LookupConvIntegerToFloat"
INPUTS = {
    QLINEAR_CONV: (*_INPUT, *_FACTORS, *_OUTPUT),
    QLINEAR_LOOKUP: (*_INPUT, *_ROWS, *_FACTORS, *_OUTPUT),
    CONV_TO_FLOAT: (*_INPUT, *_FACTORS),
    LOOKUP_TO_FLOAT: (*_INPUT, *_ROWS, *_FACTORS),
}
# The operator that gives bytes where the other gives float32.
TO_BYTES = {CONV_TO_FLOAT: QLINEAR_CONV, LOOKUP_TO_FLOAT: QLINEAR_LOOKUP}
# The same operators without a dictionary.
WITHOUT_DICTIONARY = {QLINEAR_LOOKUP: QLINEAR_CONV, LOOKUP_TO_FLOAT: CONV_TO_FLOAT}
# Values in 8 bits have the names of those in float32, and this.
BYTES = "/bytes"
_GEOMETRY = ("kernel_shape", "strides", "pads", "dilations", "group")
_TO_NHWC, _TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def int8_attributes(geometry: ConvGeometry) -> dict[str, Any]:
    """Return the attributes of a node that convolves, without a clip."""
    return {
        "kernel_shape": list(geometry.kernel), "strides": list(geometry.stride), "pads": list(geometry.padding),
        "dilations": list(geometry.dilation), "group": geometry.groups, "clip_min": -NO_BOUND, "clip_max": NO_BOUND,
    }  # fmt: skip


def conv_body(op_type: str) -> onnx.FunctionProto:
    """Return the body of one of ``INPUTS``."""
    from onnx import TensorProto, helper

    node = helper.make_node
    gives_bytes, has_rows = op_type in (QLINEAR_CONV, QLINEAR_LOOKUP), op_type in (QLINEAR_LOOKUP, LOOKUP_TO_FLOAT)
    nodes = [
        *_bounds(),
        node("Transpose", ["X"], ["planes"], perm=_TO_NCHW),
        node("DequantizeLinear", ["planes", "x_scale", "x_zero_point"], ["x"]),
        # ONNX Runtime 1.18 cannot move what comes between dequantising and convolving, so that nothing does.
        node("Transpose", ["W"], ["kernel"], perm=_TO_NCHW),
        node("DequantizeLinear", ["kernel", "w_scale"], ["w"], axis=0),
    ]
    read = "x"
    if has_rows:
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
    conv.attribute.extend(attribute_reference(name, name) for name in _GEOMETRY)
    nodes.append(conv)
    if not gives_bytes:
        nodes.append(node("Clip", ["convolved", "lowest", "highest"], ["Y"]))
    else:
        nodes += [
            node("Transpose", ["convolved"], ["y"], perm=_TO_NHWC),
            node("DequantizeLinear", ["residual", "r_scale", "r_zero_point"], ["r"]),
            node("Add", ["y", "r"], ["added"]),
            node("Clip", ["added", "lowest", "highest"], ["clipped"]),
            node("QuantizeLinear", ["clipped", "y_scale", "y_zero_point"], ["Y"]),
        ]
    return _function(op_type, INPUTS[op_type], nodes, [*_GEOMETRY, "clip_min", "clip_max"])


def _bounds() -> list[onnx.NodeProto]:
    from onnx import helper

    nodes = [helper.make_node("Constant", [], [name]) for name in ("lowest", "highest")]
    for node, name in zip(nodes, ("clip_min", "clip_max"), strict=True):
        node.attribute.append(attribute_reference("value_float", name))
    return nodes


def bodies(model: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """Return the bodies of the operators on bytes that a model has nodes of."""
    used = sorted({node.op_type for node in model.graph.node if node.domain == DOMAIN})
    others = (QUANTIZE, DEQUANTIZE, BYTE_MAX_POOL, BYTE_AVERAGE, BYTE_ADD)
    return [
        *(conv_body(op_type) for op_type in used if op_type in INPUTS),
        *(edge_body(op_type) for op_type in used if op_type in others),
    ]


def _function(
    name: str, inputs: Sequence[str], nodes: Sequence[onnx.NodeProto], attributes: Sequence[str] = ()
) -> onnx.FunctionProto:
    from onnx import helper

    return helper.make_function(DOMAIN, name, list(inputs), ["Y"], list(nodes), [helper.make_opsetid("", OPSET)], attributes)


QUANTIZE, DEQUANTIZE = "QuantizeNhwc", "DequantizeNhwc"
BYTE_MAX_POOL, BYTE_AVERAGE, BYTE_ADD = "NhwcMaxPool", "QLinearGlobalAveragePool", "QLinearAdd"
_POOL = ("kernel_shape", "strides", "pads", "dilations")


def edge_body(op_type: str) -> onnx.FunctionProto:
    """Return the body of an operator on bytes that does not convolve."""
    from onnx import helper

    node = helper.make_node
    match op_type:
        case "QuantizeNhwc":
            nodes = [
                node("QuantizeLinear", ["X", "y_scale", "y_zero_point"], ["q"]),
                node("Transpose", ["q"], ["Y"], perm=_TO_NHWC),
            ]
            return _function(op_type, ("X", "y_scale", "y_zero_point"), nodes)
        case "DequantizeNhwc":
            nodes = [
                node("Transpose", ["X"], ["q"], perm=_TO_NCHW),
                node("DequantizeLinear", ["q", "x_scale", "x_zero_point"], ["Y"]),
            ]
            return _function(op_type, _INPUT, nodes)
        case "NhwcMaxPool":
            pool = node("MaxPool", ["planes"], ["pooled"])
            pool.attribute.extend(attribute_reference(name, name) for name in _POOL)
            nodes = [
                node("Transpose", ["X"], ["planes"], perm=_TO_NCHW), pool,
                node("Transpose", ["pooled"], ["Y"], perm=_TO_NHWC),
            ]  # fmt: skip
            return _function(op_type, ("X",), nodes, _POOL)
        case "QLinearGlobalAveragePool":
            nodes = [
                node("Constant", [], ["axes"], value_ints=[1, 2]),
                node("DequantizeLinear", ["X", "x_scale", "x_zero_point"], ["x"]),
                node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
                node("QuantizeLinear", ["mean", "y_scale", "y_zero_point"], ["Y"]),
            ]
            return _function(op_type, (*_INPUT, "y_scale", "y_zero_point"), nodes)
        case "QLinearAdd":
            nodes = [
                *_bounds(),
                node("DequantizeLinear", ["A", "a_scale", "a_zero_point"], ["a"]),
                node("DequantizeLinear", ["B", "b_scale", "b_zero_point"], ["b"]),
                node("Add", ["a", "b"], ["added"]),
                node("Clip", ["added", "lowest", "highest"], ["clipped"]),
                node("QuantizeLinear", ["clipped", "y_scale", "y_zero_point"], ["Y"]),
            ]
            inputs = ("A", "a_scale", "a_zero_point", "B", "b_scale", "b_zero_point", "y_scale", "y_zero_point")
            return _function(op_type, inputs, nodes, ("clip_min", "clip_max"))
    raise ValueError(f"no operator on bytes is called {op_type!r}")

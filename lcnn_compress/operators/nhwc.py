"""What operators on narrow numbers have in common: the order (N, H, W, C), their attributes, and parts of their bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lcnn_compress.operators.common import DOMAIN, NO_BOUND, OPSET, attribute_reference
from lcnn_compress.operators.geometry import ConvGeometry

if TYPE_CHECKING:
    import onnx

GEOMETRY = ("kernel_shape", "strides", "pads", "dilations", "group")
TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]
POOL = ("kernel_shape", "strides", "pads", "dilations")


def narrow_attributes(geometry: ConvGeometry) -> dict[str, Any]:
    """Return the attributes of a node that convolves, without a clip."""
    return {
        "kernel_shape": list(geometry.kernel), "strides": list(geometry.stride), "pads": list(geometry.padding),
        "dilations": list(geometry.dilation), "group": geometry.groups, "clip_min": -NO_BOUND, "clip_max": NO_BOUND,
    }  # fmt: skip


def bounds() -> list[onnx.NodeProto]:
    """Return nodes that give the bounds of a clip, "lowest" and "highest", as a node's attributes say."""
    from onnx import helper

    nodes = [helper.make_node("Constant", [], [name]) for name in ("lowest", "highest")]
    for node, name in zip(nodes, ("clip_min", "clip_max"), strict=True):
        node.attribute.append(attribute_reference("value_float", name))
    return nodes


def to_float(given: str, made: str) -> onnx.NodeProto:
    from onnx import TensorProto, helper

    return helper.make_node("Cast", [given], [made], to=TensorProto.FLOAT)


def to_bfloat16(given: str, made: str) -> onnx.NodeProto:
    from onnx import TensorProto, helper

    return helper.make_node("Cast", [given], [made], to=TensorProto.BFLOAT16)


def function(
    name: str, inputs: Sequence[str], nodes: Sequence[onnx.NodeProto], attributes: Sequence[str] = ()
) -> onnx.FunctionProto:
    """Return a body that gives "Y"."""
    from onnx import helper

    return helper.make_function(DOMAIN, name, list(inputs), ["Y"], list(nodes), [helper.make_opsetid("", OPSET)], attributes)

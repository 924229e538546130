"""The operator MaxPool as ONNX sees it, and its body in the standard one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lcnn_compress.operators.common import DOMAIN, OPSET, attribute_reference

if TYPE_CHECKING:
    import onnx

POOL_TYPE = "MaxPool"


def pool_body() -> onnx.FunctionProto:
    """Return our MaxPool written as the standard one.

    Our operator is there for speed only: ONNX Runtime changes the layout of what its own MaxPool reads and back again, which
    costs more than the pooling where both neighbours are lookup convolutions.
    """
    from onnx import helper

    attributes = ["kernel_shape", "strides", "pads", "dilations"]
    pool = helper.make_node("MaxPool", ["X"], ["Y"])
    pool.attribute.extend(attribute_reference(name, name) for name in attributes)
    return helper.make_function(DOMAIN, POOL_TYPE, ["X"], ["Y"], [pool], [helper.make_opsetid("", OPSET)], attributes)

"""What all our operators share: the domain, its version, and how nodes of layers are named.

The contract with the native library is the operator section of ``cpp_runtime/README.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

DOMAIN = "ai.lcnn"
OP_VERSION = 1
# Where two convolutions are one layer, the name of the first ends in this.
FIRST_STAGE = "/dictionary"
# Where the net calls a layer again, the name of its node ends in this and a number.
CALL = "/call"
# A clip at the largest float32 never acts.
NO_BOUND = 3.4028234663852886e38
# This is the opset of the standard operators, in a file and in the body alike: the checker wants them equal.
OPSET = 20


def layer_name(node: onnx.NodeProto) -> str:
    """Return the layer a node belongs to: names of layers have no slash."""
    return str(node.name).partition("/")[0]


def attribute_reference(field: str, name: str) -> onnx.AttributeProto:
    import onnx

    kinds = {"value_ints": "INTS", "value_int": "INT", "value_float": "FLOAT", "group": "INT"}
    kind = onnx.AttributeProto.AttributeType.Value(kinds.get(field, "INTS"))
    return onnx.AttributeProto(name=field, ref_attr_name=name, type=kind)

"""The operator LookupConv as ONNX sees it: inputs, attributes and the body that runs it without our library.

The contract with the native library is the operator section of ``cpp_runtime/README.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lcnn_compress.operators import narrow
from lcnn_compress.operators.common import DOMAIN, NO_BOUND, OPSET, attribute_reference
from lcnn_compress.operators.geometry import ConvGeometry

if TYPE_CHECKING:
    import onnx

OP_TYPE = "LookupConv"
# Nodes of these types compute layers in a file.
LAYER_OPS = frozenset({"Conv", "Gemm", "MatMul", OP_TYPE, *narrow.INPUTS})
INPUTS = ("X", "D", "gaps", "coefficients", "bias", "residual")
NO_POOL = {"pool_kernel_shape": [1, 1], "pool_strides": [1, 1], "pool_pads": [0] * 4}


def node_attributes(geometry: ConvGeometry) -> dict[str, Any]:
    """Return the attributes of a node without activation."""
    return {
        "kernel_shape": list(geometry.kernel),
        "strides": list(geometry.stride),
        "pads": list(geometry.padding),
        "dilations": list(geometry.dilation),
        "group": geometry.groups,
        "clip_min": -NO_BOUND,
        "clip_max": NO_BOUND,
        "hard_swish": 0,
    }


def function_body(*, hard_swish: bool = False, pooled: bool = False) -> onnx.FunctionProto:
    """Return the operator written in standard ONNX operators; every constant part folds to one dense Conv.

    ONNX Runtime uses it where the native library is not registered; ``onnx.inliner`` puts it into files for other engines.

    Args:
        hard_swish: whether a node of the file has that attribute set. This takes an If, of which ONNX Runtime keeps one branch;
            all other files do without.
        pooled: whether a node of the file pools its result; then every node has the attributes of ``NO_POOL``.
    """
    from onnx import helper

    attributes = [*node_attributes(ConvGeometry((1, 1))), *(NO_POOL if pooled else ())]
    result = "activated" if pooled else "Y"
    node = helper.make_node

    def attribute_constant(output: str, field: str, name: str) -> onnx.NodeProto:
        constant = node("Constant", [], [output])
        constant.attribute.append(attribute_reference(field, name))
        return constant

    def integers(output: str, values: list[int]) -> onnx.NodeProto:
        return node("Constant", [], [output], value_ints=values)

    conv = node("Conv", ["X", "W", "bias"], ["convolved"])
    conv.attribute.extend(attribute_reference(name, name) for name in ("kernel_shape", "strides", "pads", "dilations", "group"))
    nodes = [
        attribute_constant("kernel", "value_ints", "kernel_shape"),
        attribute_constant("groups0", "value_int", "group"),
        attribute_constant("lowest", "value_float", "clip_min"),
        attribute_constant("highest", "value_float", "clip_max"),
        integers("one", [1]), integers("minus_one", [-1]), node("Constant", [], ["zero"], value_int=0),
        node("Reshape", ["groups0", "one"], ["groups"]),
        node("Shape", ["bias"], ["filters"]),
        node("Shape", ["D"], ["rows"], start=0, end=1),
        node("Shape", ["D"], ["m"], start=1, end=2),
        node("Div", ["rows", "groups"], ["k"]),
        node("Concat", ["filters", "kernel", "k"], ["kernel_size"], axis=0),
        node("ReduceProd", ["kernel_size"], ["n_positions"], keepdims=1),
        node("ConstantOfShape", ["n_positions"], ["empty"]),
        node("Cast", ["gaps"], ["wide_gaps"], to=7),
        node("CumSum", ["wide_gaps", "zero"], ["positions"]),
        node("Cast", ["coefficients"], ["values"], to=1),
        node("ScatterElements", ["empty", "positions", "values"], ["flat"], axis=0),
        node("Concat", ["groups", "minus_one", "k"], ["grouped"], axis=0),
        node("Reshape", ["flat", "grouped"], ["P"]),  # (groups, O/groups * kH * kW, k)
        node("Cast", ["D"], ["wide_D"], to=1),
        node("Concat", ["groups", "k", "m"], ["blocks"], axis=0),
        node("Reshape", ["wide_D", "blocks"], ["D3"]),  # (groups, k, m)
        node("MatMul", ["P", "D3"], ["vectors"]),
        node("Concat", ["filters", "kernel", "m"], ["weight_shape"], axis=0),
        node("Reshape", ["vectors", "weight_shape"], ["W_last"]),
        node("Transpose", ["W_last"], ["W"], perm=[0, 3, 1, 2]),
        conv,
        node("Add", ["convolved", "residual"], ["added"]),
    ]  # fmt: skip
    clip = node("Clip", ["added", "lowest", "highest"], [result])
    nodes += _choice(attribute_constant("chosen", "value_int", "hard_swish"), clip) if hard_swish else [clip]
    if pooled:
        nodes.append(node("MaxPool", [result], ["Y"]))
        nodes[-1].attribute.extend(attribute_reference(name.removeprefix("pool_"), name) for name in NO_POOL)
    return helper.make_function(DOMAIN, OP_TYPE, list(INPUTS), ["Y"], nodes, [helper.make_opsetid("", OPSET)], attributes)


def _choice(chosen: onnx.NodeProto, clip: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return nodes that give HardSwish of "added" where ``chosen`` gives 1, and what ``clip`` does where it gives 0."""
    from onnx import TensorProto, helper

    result = clip.output[0]

    def branch(name: str, last: onnx.NodeProto) -> onnx.GraphProto:
        last.output[0] = name
        return helper.make_graph([last], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    return [
        chosen,
        helper.make_node("Cast", list(chosen.output), ["is_hard_swish"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["is_hard_swish"], [result],
            then_branch=branch("swished", helper.make_node("HardSwish", ["added"], [""])), else_branch=branch("clipped", clip),
        ),
    ]  # fmt: skip

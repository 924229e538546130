"""The operators LookupConv and MaxPool as ONNX sees them: names, list encoding and bodies that run them without our library.

The contract with the native library is the operator section of ``cpp_runtime/README.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lcnn_compress.geometry import ConvGeometry

if TYPE_CHECKING:
    import onnx

DOMAIN = "ai.lcnn"
OP_TYPE = "LookupConv"
POOL_TYPE = "MaxPool"
OP_VERSION = 1
INPUTS = ("X", "D", "gaps", "coefficients", "bias", "residual")
NO_BOUND = 3.4028234663852886e38  # the largest float32: a clip that never acts
NO_POOL = {"pool_kernel_shape": [1, 1], "pool_strides": [1, 1], "pool_pads": [0] * 4}
FIRST_STAGE = "/dictionary"  # ends the name of the first of two convolutions that are one layer
CALL = "/call"  # and a number: the name of a layer's node where the net calls the layer again
OPSET = 20  # of the standard operators, in a file and in the body alike: the checker wants them equal


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


def layer_name(node: onnx.NodeProto) -> str:
    """Return the layer a node belongs to: names of layers have no slash."""
    return str(node.name).partition("/")[0]


def encode_positions(sparse_kernel: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Write P (C_out, k, kH, kW) as gaps between the flat positions of its non-zeros in (o, r, c, j) order.

    A gap wider than the integer type is bridged by entries with coefficient 0. uint8 or uint16 is chosen, whichever makes the
    smaller file (a coefficient counts 2 bytes). The list is never empty: a kernel of zeros keeps one zero entry.

    Returns:
        gaps (entries) uint8 or uint16, coefficients (entries) float32.
    """
    flat = np.ascontiguousarray(sparse_kernel.transpose(0, 2, 3, 1)).reshape(-1)
    positions = np.flatnonzero(flat)
    if positions.size == 0:
        positions = np.zeros(1, np.int64)
    gaps = np.diff(positions, prepend=0)
    encodings = [_bridge(gaps, flat[positions], dtype) for dtype in (np.uint8, np.uint16)]
    return min(encodings, key=lambda pair: len(pair[0]) * (pair[0].itemsize + 2))


def decode_positions(gaps: NDArray[Any], coefficients: NDArray[Any], shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Invert ``encode_positions`` for P of ``shape`` (C_out, k, kH, kW).

    Raises:
        ValueError: the gaps lead outside the kernel, repeat a position, or do not match the coefficients.
    """
    out_channels, size, height, width = shape
    positions = np.cumsum(gaps.astype(np.int64))
    if len(gaps) != len(coefficients):
        raise ValueError(f"{len(gaps)} gaps but {len(coefficients)} coefficients; there must be one for each")
    if len(gaps) and (positions[-1] >= out_channels * size * height * width or (gaps[1:] == 0).any()):
        raise ValueError(f"gaps reach position {positions[-1]}, outside {shape}, or repeat one")
    flat = np.zeros(out_channels * height * width * size, np.float32)
    flat[positions] = coefficients.astype(np.float32)
    return np.ascontiguousarray(flat.reshape(out_channels, height, width, size).transpose(0, 3, 1, 2))


def _bridge(gaps: NDArray[np.int64], values: NDArray[np.float32], dtype: type) -> tuple[NDArray[Any], NDArray[np.float32]]:
    limit = int(np.iinfo(dtype).max)
    n_bridges = np.maximum(gaps - 1, 0) // limit  # so that the last step of each gap is 1..limit (or 0 for the first position)
    ends = np.cumsum(n_bridges + 1) - 1
    steps = np.full(int(ends[-1]) + 1, limit, np.int64)
    steps[ends] = gaps - n_bridges * limit
    coefficients = np.zeros(len(steps), np.float32)
    coefficients[ends] = values
    return steps.astype(dtype), coefficients


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
        constant.attribute.append(_reference(field, name))
        return constant

    def integers(output: str, values: list[int]) -> onnx.NodeProto:
        return node("Constant", [], [output], value_ints=values)

    conv = node("Conv", ["X", "W", "bias"], ["convolved"])
    conv.attribute.extend(_reference(name, name) for name in ("kernel_shape", "strides", "pads", "dilations", "group"))
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
        nodes[-1].attribute.extend(_reference(name.removeprefix("pool_"), name) for name in NO_POOL)
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


def pool_body() -> onnx.FunctionProto:
    """Return our MaxPool written as the standard one.

    It is there for speed only: ONNX Runtime changes the layout of what its own MaxPool reads and back again, which costs more
    than the pooling where both neighbours are lookup convolutions.
    """
    from onnx import helper

    attributes = ["kernel_shape", "strides", "pads", "dilations"]
    pool = helper.make_node("MaxPool", ["X"], ["Y"])
    pool.attribute.extend(_reference(name, name) for name in attributes)
    return helper.make_function(DOMAIN, POOL_TYPE, ["X"], ["Y"], [pool], [helper.make_opsetid("", OPSET)], attributes)


def _reference(field: str, name: str) -> onnx.AttributeProto:
    import onnx

    kinds = {"value_ints": "INTS", "value_int": "INT", "value_float": "FLOAT", "group": "INT"}
    kind = onnx.AttributeProto.AttributeType.Value(kinds.get(field, "INTS"))
    return onnx.AttributeProto(name=field, ref_attr_name=name, type=kind)

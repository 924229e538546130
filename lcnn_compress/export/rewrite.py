"""Make ordinary convolutions of lookup ones in an ONNX graph: one of the rebuilt weight, or two without zeros. No torch.

What was a linear layer becomes a matrix product again: ONNX Runtime multiplies rows of features two to six times as fast as it
convolves planes of one pixel, or planes that one filter covers.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress.export.nodes import attribute_values, constants_of, drop_domain, drop_unread
from lcnn_compress.export.pools import choose_pools, does_pool
from lcnn_compress.operators.common import DOMAIN, FIRST_STAGE, layer_name
from lcnn_compress.operators.encoding import decode_positions
from lcnn_compress.operators.lookup_conv import NO_BOUND, NO_POOL, OP_TYPE
from lcnn_compress.operators.max_pool import POOL_TYPE


def dense_form(model: onnx.ModelProto, names: set[str] | None = None) -> onnx.ModelProto:
    """Return a copy in which layers (all, or those named) are one Conv or Gemm for each call, with the rebuilt weight."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    constants, linears = constants_of(model.graph), _linears(model.graph)
    firsts = {node.name: node for node in model.graph.node if node.name.endswith(FIRST_STAGE)}
    weights: dict[str, onnx.TensorProto] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        weight = f"{layer_name(node)}.weight"
        first = firsts.get(f"{node.name}{FIRST_STAGE}")
        chosen = names is None or layer_name(node) in names
        if chosen and node.op_type == OP_TYPE:
            if weight not in weights:
                weights[weight] = numpy_helper.from_array(lookup_weight(node, constants), weight)
            nodes += _convolution(node, node.input[0], weight, constants, linear=node.output[0] in linears)
            continue
        if chosen and first is not None:
            if weight not in weights:
                weights[weight] = numpy_helper.from_array(_product(first, node, constants), weight)
            inputs = [first.input[0], weight]
            if node.op_type == "Gemm":
                flattening, inputs = _flattened(inputs, f"{node.output[0]}/whole")
                nodes += flattening
            else:
                strides = next(a for a in node.attribute if a.name == "strides")
                strides.ints[:] = [a * b for a, b in zip(strides.ints, attribute_values(first)["strides"], strict=True)]
            node.input[:2] = inputs
        nodes.append(node)
    model.graph.initializer.extend(weights.values())
    _set_nodes(model, nodes)
    return model


def split_full(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Replace lookup convolutions that look every row up by two ordinary ones, the dictionary's 1x1 and P.

    ONNX Runtime's convolutions are faster than ours where every row is looked up.

    Args:
        model: changed in place.
        names: names of the layers; see ``Kind.is_full``.
    """
    constants, linears = constants_of(model.graph), _linears(model.graph)
    wide: dict[str, str] = {}  # names of weights written, and of the same in float32
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != OP_TYPE or layer_name(node) not in names:
            nodes.append(node)
            continue
        rows, values = constants[node.input[1]], attribute_values(node)
        kernel = _kernel(node, constants).astype(helper.tensor_dtype_to_np_dtype(constants[node.input[3]].data_type))
        weights = {
            f"{layer_name(node)}{FIRST_STAGE}.weight": numpy_helper.to_array(rows)[:, :, None, None],
            f"{layer_name(node)}.kernel": kernel,
        }
        for name, values_of in weights.items():
            if name in wide:
                continue  # the layer is called again
            model.graph.initializer.append(numpy_helper.from_array(values_of, name))
            wide[name] = f"{name}/float"
            nodes.append(helper.make_node("Cast", [name], [wide[name]], to=TensorProto.FLOAT))
        unit, second = (wide[name] for name in weights)
        projected = f"{node.name}{FIRST_STAGE}/output"
        inputs = [node.input[0], unit]
        # Nothing reads the pixels that a 1x1 steps over.
        strides = values["strides"] if kernel.shape[2:] == (1, 1) and not any(values["pads"]) else [1, 1]
        name, linear = f"{node.name}{FIRST_STAGE}", node.output[0] in linears
        if linear and kernel.shape[2:] == (1, 1):
            nodes += matrix_product(inputs, projected, name)
        else:
            nodes.append(helper.make_node("Conv", inputs, [projected], name=name, group=values["group"], strides=strides))
        left = [all_of // done for all_of, done in zip(values["strides"], strides, strict=True)]
        nodes += _convolution(node, projected, second, constants, left, linear=linear)
    _set_nodes(model, nodes)


def lookup_weight(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> NDArray[np.float32]:
    """Return the dense weight (C_out, C_in / groups, kH, kW) a LookupConv node stands for."""
    dictionary = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
    return _rebuilt(dictionary, _kernel(node, constants), attribute_values(node)["group"])


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unread(model.graph)
    choose_pools(model)
    if not any(node.domain == DOMAIN for node in model.graph.node):
        drop_domain(model)


def _linears(graph: onnx.GraphProto) -> set[str]:
    """Return the outputs of lookup convolutions that stand for a Linear: filters cover the plane, and a Reshape follows."""
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[2:]]
        for value in [*graph.value_info, *graph.input]
    }
    taken = {name for node in graph.node if node.op_type != "Reshape" for name in node.input}
    taken |= {value.name for value in graph.output}
    found = set()
    for node in graph.node:
        if node.op_type == OP_TYPE and node.output[0] not in taken:
            values = attribute_values(node)
            covered = sizes.get(node.input[0]) == list(values["kernel_shape"]) and not any(values["pads"])
            if covered and values["group"] == 1 and not does_pool(values):
                found.add(node.output[0])
    return found


def _kernel(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> NDArray[np.float32]:
    """Return P (C_out, k, kH, kW) of a LookupConv node."""
    rows, gaps, coefficients, bias = (numpy_helper.to_array(constants[name]) for name in node.input[1:5])
    values = attribute_values(node)
    height, width = values["kernel_shape"]
    return decode_positions(gaps, coefficients, (len(bias), len(rows) // values["group"], height, width))


def _rebuilt(rows: NDArray[np.float32], kernel: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Return the weight (C_out, m, kH, kW) of rows (groups * k, m) and P (C_out, k, kH, kW)."""
    blocks = rows.reshape(groups, kernel.shape[1], -1)
    grouped = kernel.reshape(groups, -1, *kernel.shape[1:])
    weight = np.einsum("gokrc,gkm->gomrc", grouped, blocks, optimize=True)
    return np.asarray(weight.reshape(len(kernel), -1, *kernel.shape[2:]), np.float32)


def _product(first: onnx.NodeProto, second: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> NDArray[np.float32]:
    """Return the weight of one convolution that does what two do."""
    rows, kernel = (numpy_helper.to_array(constants[node.input[1]]).astype(np.float32) for node in (first, second))
    return _rebuilt(rows[:, :, 0, 0], kernel, attribute_values(first).get("group", 1))


def _flattened(names: list[str], prefix: str) -> tuple[list[onnx.NodeProto], list[str]]:
    """Return nodes that make matrices of a tensor and a weight, and the names of these."""
    flat = [f"{prefix}/rows", f"{prefix}/matrix"]
    return [helper.make_node("Flatten", [name], [matrix]) for name, matrix in zip(names, flat, strict=True)], flat


def matrix_product(inputs: list[str], output: str, name: str) -> list[onnx.NodeProto]:
    """Return nodes that convolve a plane with filters as large as it; ``inputs`` are plane, filters and perhaps the bias."""
    nodes, flat = _flattened(inputs[:2], output)
    product, axes = f"{output}/product", f"{output}/axes"
    return [
        *nodes,
        helper.make_node("Gemm", [*flat, *inputs[2:]], [product], name=name, transB=1),
        helper.make_node("Constant", [], [axes], value_ints=[2, 3]),
        helper.make_node("Unsqueeze", [product, axes], [output]),
    ]


def _convolution(
    node: onnx.NodeProto,
    x: str,
    weight: str,
    constants: dict[str, onnx.TensorProto],
    strides: list[int] | None = None,
    *,
    linear: bool,
) -> list[onnx.NodeProto]:
    """Return the nodes of an ordinary convolution of ``x`` with all that a LookupConv node does to its result.

    Where ``linear`` is true, filters cover the plane, and a matrix product does the same.
    """
    values = attribute_values(node) | ({} if strides is None else {"strides": strides})
    bounds = values.pop("clip_min"), values.pop("clip_max")
    hard_swish = values.pop("hard_swish", 0)
    pools = does_pool(values)
    pool = {name.removeprefix("pool_"): values.pop(name) for name in NO_POOL if name in values}
    residual = node.input[5] if node.input[5] not in constants else None
    names = [f"{node.output[0]}/convolved", f"{node.output[0]}/added", f"{node.output[0]}/activated"]
    inputs = [x, weight, node.input[4]]
    nodes = [helper.make_node("Conv", inputs, [names[0]], name=node.name, **values)]
    if linear:
        nodes = matrix_product(inputs, names[0], node.name)
    if residual is not None:
        nodes.append(helper.make_node("Add", [names[0], residual], [names[1]], name=f"{node.name}/add"))
    if hard_swish:
        nodes.append(helper.make_node("HardSwish", [nodes[-1].output[0]], [names[2]], name=f"{node.name}/hardswish"))
    elif bounds == (0, np.float32(NO_BOUND)):
        nodes.append(helper.make_node("Relu", [nodes[-1].output[0]], [names[2]], name=f"{node.name}/relu"))
    elif bounds != (-np.float32(NO_BOUND), np.float32(NO_BOUND)):
        limits = [f"{names[2]}/{which}" for which in ("min", "max")]
        for limit, value in zip(limits, bounds, strict=True):
            constant = numpy_helper.from_array(np.array(value, np.float32))
            nodes.insert(0, helper.make_node("Constant", [], [limit], value=constant))
        nodes.append(helper.make_node("Clip", [nodes[-1].output[0], *limits], [names[2]], name=f"{node.name}/clip"))
    if pools:
        pooled = f"{node.output[0]}/pooled"
        nodes.append(helper.make_node(POOL_TYPE, [nodes[-1].output[0]], [pooled], name=f"{node.name}/pool", **pool))
    nodes[-1].output[0] = node.output[0]
    return nodes

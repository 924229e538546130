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
from lcnn_compress.operators.bfloat16_conv import bfloat16_tensor
from lcnn_compress.operators.common import DOMAIN, FIRST_STAGE, NO_BOUND, layer_name
from lcnn_compress.operators.encoding import decode_positions
from lcnn_compress.operators.int8_conv import BYTE_ADD, BYTE_AVERAGE
from lcnn_compress.operators.lookup_conv import NO_POOL, OP_TYPE
from lcnn_compress.operators.max_pool import POOL_TYPE
from lcnn_compress.operators.narrow import BYTES, INPUTS, KIND_OF, KINDS, SUFFIXES


def dense_form(model: onnx.ModelProto, names: set[str] | None = None) -> onnx.ModelProto:
    """Return a copy in which layers are one convolution or Gemm for each call, with the rebuilt weight.

    All of them compute in float32 then; those named, if names are given, in what they do.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    if names is None:
        _to_float(model)
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
        kind = KIND_OF.get(node.op_type)
        if chosen and kind is not None and node.op_type in kind.without_dictionary:
            _drop_dictionary(node, constants, model.graph)
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


def _drop_dictionary(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], graph: onnx.GraphProto) -> None:
    """Let a layer in 8 bits or bfloat16 be one convolution in the same, with the rebuilt weight."""
    given = dict(zip(INPUTS[node.op_type], node.input, strict=True))
    weight = _narrow_weight(node, constants).transpose(0, 2, 3, 1)
    made = {"W": f"{node.name}.dense_W"}
    if KIND_OF[node.op_type] is BYTES:
        scale = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1), np.float32(1e-30)) / 127
        whole = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
        made["w_scale"] = f"{node.name}.dense_w_scale"
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), made["w_scale"]))
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(whole), made["W"]))
    else:
        graph.initializer.append(bfloat16_tensor(made["W"], weight))
    node.op_type = KIND_OF[node.op_type].without_dictionary[node.op_type]
    node.input[:] = [(given | made)[key] for key in INPUTS[node.op_type]]


def _to_float(model: onnx.ModelProto) -> None:
    """Write a net in 8 bits or bfloat16 in float32 again: the same layers without rounding, each as one convolution."""
    graph, constants = model.graph, constants_of(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in INPUTS:
            nodes += _in_float(node, constants, graph)
        elif _changes_numbers(node):
            nodes.append(helper.make_node("Identity", node.input[:1], node.output))
        elif node.domain == DOMAIN and node.op_type == BYTE_AVERAGE:
            nodes.append(helper.make_node("GlobalAveragePool", node.input[:1], node.output))
        elif node.domain == DOMAIN and node.op_type == BYTE_ADD:
            nodes += _clipped(node, [helper.make_node("Add", [node.input[0], node.input[3]], node.output)], graph)
        elif node.domain == DOMAIN and node.op_type in (kind.max_pool for kind in KINDS):
            nodes.append(helper.make_node("MaxPool", node.input, node.output, **attribute_values(node)))
        elif node.op_type == "Concat" and node.output[0].endswith(SUFFIXES):
            nodes.append(helper.make_node("Concat", node.input, node.output, name=node.name, axis=1))
        elif node.op_type == "Reshape" and node.output[0].endswith(SUFFIXES):
            sizes = numpy_helper.to_array(constants[node.input[1]])
            order = sizes if len(sizes) == 2 else sizes[[0, 3, 1, 2]]
            graph.initializer.append(numpy_helper.from_array(order, f"{node.output[0]}/planar"))
            nodes.append(helper.make_node("Reshape", [node.input[0], f"{node.output[0]}/planar"], node.output, name=node.name))
        else:
            nodes.append(node)
    if len(nodes) != len(graph.node) or any(a is not b for a, b in zip(nodes, graph.node, strict=True)):
        _set_nodes(model, nodes)


def _changes_numbers(node: onnx.NodeProto) -> bool:
    """Tell whether a node does nothing but round to narrow numbers, or return to float32."""
    if node.domain == DOMAIN:
        return node.op_type in (name for kind in KINDS for name in (kind.from_float, kind.to_float, kind.from_other))
    rows = {name for kind in KINDS for name, _ in (kind.rows_from_float, kind.rows_to_float)}
    return node.op_type in rows and (node.input[0].endswith(SUFFIXES) or node.output[0].endswith(SUFFIXES))


def _in_float(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of an ordinary convolution for one in 8 bits or bfloat16."""
    given = dict(zip(INPUTS[node.op_type], node.input, strict=True))
    weight = f"{layer_name(node)}.float_weight"
    if not any(tensor.name == weight for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(_narrow_weight(node, constants), weight))
    values = {key: value for key, value in attribute_values(node).items() if not key.startswith("clip")}
    nodes = [helper.make_node("Conv", [given["X"], weight, given["bias"]], node.output, name=node.name, **values)]
    if "residual" in given and given["residual"] not in constants:
        nodes[-1].output[0] = f"{node.output[0]}/convolved"
        nodes.append(helper.make_node("Add", [nodes[-1].output[0], given["residual"]], node.output))
    return _clipped(node, nodes, graph)


def _clipped(node: onnx.NodeProto, nodes: list[onnx.NodeProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return nodes, of which the last gives the result of ``node``, with the clip of ``node`` after them."""
    values = attribute_values(node)
    bounds = [np.float32(values[key]) for key in ("clip_min", "clip_max")]
    if bounds == [-np.float32(NO_BOUND), np.float32(NO_BOUND)]:
        return nodes
    nodes[-1].output[0] = inner = f"{node.output[0]}/free"
    names = [f"{node.output[0]}/{key}" for key in ("lowest", "highest")]
    graph.initializer.extend(numpy_helper.from_array(np.array(b), name) for b, name in zip(bounds, names, strict=True))
    is_relu = bounds == [0, np.float32(NO_BOUND)]
    last = helper.make_node("Relu", [inner], node.output) if is_relu else helper.make_node("Clip", [inner, *names], node.output)
    return [*nodes, last]


def _narrow_weight(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> NDArray[np.float32]:
    """Return the dense weight (C_out, C_in / groups, kH, kW) that a convolution in 8 bits or bfloat16 stands for."""
    names = dict(zip(INPUTS[node.op_type], node.input, strict=True))
    keys = ("W", "w_scale", "D", "d_scale")
    value = {key: numpy_helper.to_array(constants[names[key]]).astype(np.float32) for key in keys if key in names}
    kernel = (value["W"] * value.get("w_scale", np.ones(1, np.float32))[:, None, None, None]).transpose(0, 3, 1, 2)
    if "D" not in value:
        return np.ascontiguousarray(kernel)
    rows = value["D"] * value.get("d_scale", np.ones(1, np.float32))[:, None]
    return _rebuilt(rows, np.ascontiguousarray(kernel), attribute_values(node)["group"])


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

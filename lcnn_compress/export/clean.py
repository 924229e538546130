"""Tidy the exporter's graph: drop traces of this machine, and give nodes the names of their layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import fx, nn

from lcnn_compress.export.fuse import fuse
from lcnn_compress.export.nodes import attribute_values, drop_domain, drop_unread
from lcnn_compress.export.pools import set_bodies
from lcnn_compress.export.to_narrow import to_narrow
from lcnn_compress.net.layers import calls
from lcnn_compress.operators import narrow
from lcnn_compress.operators.common import CALL, DOMAIN
from lcnn_compress.operators.geometry import check_extents
from lcnn_compress.operators.lookup_conv import LAYER_OPS, OP_TYPE

IR_VERSION = 10
# Attributes of convolutions and poolings, with the least value each may have.
_EXTENTS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0}


def finish(model: onnx.ModelProto, net: fx.GraphModule) -> onnx.ModelProto:
    """Tidy the exporter's graph of a net in place and return it.

    Raises:
        ModelError: a convolution or pooling has a kernel, stride, dilation or padding that no net has.
    """
    _check_extents(model.graph)
    _clean(model)
    _name_layers(model, net)
    _keep_zero_pads(model.graph)
    _drop_empty_pools(model.graph)
    fuse(model)
    to_narrow(model)
    drop_unread(model.graph)
    if any(node.domain == DOMAIN for node in model.graph.node):
        set_bodies(model)
    else:
        drop_domain(model)
    return model


def _clean(model: onnx.ModelProto) -> None:
    """Drop stack traces and source paths that the exporter leaves, name the dynamic axes, and set our IR version."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "lcnn", ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        del value.metadata_props[:]
    axes = model.graph.input[0].type.tensor_type.shape.dim
    names = {d.dim_param: n for d, n in zip(axes, ("batch", "", "height", "width"), strict=False) if d.dim_param and n}
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _check_extents(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for name, values in attribute_values(node).items():
            if name in _EXTENTS:
                check_extents(f"{name} of {node.op_type} '{node.name}'", values, _EXTENTS[name])


def _keep_zero_pads(graph: onnx.GraphProto) -> None:
    """Keep ONNX Runtime (1.31) from moving zeros padded before a max pooling into the pooling, which pads with -inf."""
    padded = {node.output[0] for node in graph.node if node.op_type == "Pad"}
    for node in graph.node:
        if node.op_type == "MaxPool" and node.input[0] in padded:
            kept = [a for a in node.attribute if a.name not in ("auto_pad", "pads")]
            if not any(any(a.ints) for a in node.attribute if a.name == "pads"):
                del node.attribute[:]
                # VALID pads as little, but is not fused.
                node.attribute.extend([*kept, helper.make_attribute("auto_pad", "VALID")])


def _drop_empty_pools(graph: onnx.GraphProto) -> None:
    """Delete average poolings of one pixel, which is what pooling to a size makes of planes of that size."""
    results = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "AveragePool" and node.output[0] not in results]:
        values = attribute_values(node)
        sizes = [*values.get("kernel_shape", []), *values.get("strides", [])]
        if all(size == 1 for size in sizes) and not any(values.get("pads", [])):
            for reader in graph.node:
                for i, name in enumerate(reader.input):
                    if name == node.output[0]:
                        reader.input[i] = node.input[0]
            graph.node.remove(node)


def _name_layers(model: onnx.ModelProto, net: fx.GraphModule) -> None:
    """Give every node that reads a layer's weights the layer's name, and a number where it is not the first.

    Other products, such as those of attention, lose theirs: a name says that a node is a layer.
    """
    reads = Counter(name for node in model.graph.node for name in node.input)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    linears = {str(call.target): linear.weight.detach().numpy() for call, linear in calls(net, nn.Linear)}
    calls_of = Counter[str]()
    for node in model.graph.node:
        if node.op_type not in LAYER_OPS:
            continue
        layer = layer_of(node, reads) or _transposed(node, tensors, linears)
        node.name = ""
        if layer is not None:
            calls_of[layer] += 1
            node.name = layer if calls_of[layer] == 1 else f"{layer}{CALL}{calls_of[layer]}"


def layer_of(node: onnx.NodeProto, reads: Mapping[str, int]) -> str | None:
    """Return the layer whose weights the node reads, or None.

    The exporter keeps one of equal tensors, such as the identities of sparse layers: the tensor that fewest nodes read tells.

    Args:
        reads: how many nodes read each tensor.
    """
    if node.op_type not in LAYER_OPS:
        return None
    leaves = (".dictionary", ".gaps", ".coefficients") if node.op_type == OP_TYPE else (".weight",)
    at = narrow.INPUTS[node.op_type].index("W") if node.op_type in narrow.INPUTS else 1
    names = [name for name, leaf in zip(node.input[at:], leaves, strict=False) if name.endswith(leaf)]
    return next((n.rpartition(".")[0] for n in sorted(names, key=lambda name: reads[name])), None)


def _transposed(
    node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto], linears: Mapping[str, NDArray[np.float32]]
) -> str | None:
    """Return the Linear whose weight a MatMul reads, or None: on tokens the exporter transposes it and names it anew."""
    if node.op_type != "MatMul" or node.input[1] not in tensors:
        return None
    weight = numpy_helper.to_array(tensors[node.input[1]])
    return next((name for name, own in linears.items() if np.array_equal(own.T, weight)), None)

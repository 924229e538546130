"""Tell which layer a node counts for once ONNX Runtime has fused, renamed and inlined nodes and added changes of layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from lcnn_compress.operators.common import layer_name
from lcnn_compress.operators.lookup_conv import LAYER_OPS, OP_TYPE

if TYPE_CHECKING:
    import onnx

# ONNX Runtime may fuse these operators into the convolution before; the fused node then bears the name of a later tensor.
FOLLOWERS = frozenset(
    {"Add", "BatchNormalization", "Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "Relu", "Sigmoid", "Tanh"}
)


def layers_of_events(graph: onnx.GraphProto, layer_ops: Collection[str] = LAYER_OPS) -> dict[str, str]:
    """Return which layer, a named node of one of ``layer_ops``, a profile event of a given name belongs to.

    ONNX Runtime names a node after itself ("conv1", "fused fc", "fc/MatMulAddFusion") or, in the blocked layout, after what is
    its output once the activation is fused ("relu_1_nchwc"). A tensor that two layers lead to, such as a sum, tells nothing.
    """
    claims: dict[str, set[str]] = defaultdict(set)
    for node, tensors in _layer_tails(graph, layer_ops):
        own = (node.name, f"{node.name}/MatMulAddFusion")
        for name in (*own, *(f"fused {n}" for n in own), *tensors, *(f"{t}_nchwc" for t in tensors)):
            claims[name].add(layer_name(node))
    return {name: next(iter(layers)) for name, layers in claims.items() if len(layers) == 1}


def _layer_tails(graph: onnx.GraphProto, layer_ops: Collection[str]) -> Iterable[tuple[onnx.NodeProto, list[str]]]:
    """Yield each layer's node with its output and, in order, the outputs of the elementwise nodes that alone read it."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for node in graph.node:
        if node.op_type in layer_ops and node.name:
            tensors = [node.output[0]]
            while len(found := readers[tensors[-1]]) == 1 and found[0].op_type in FOLLOWERS:
                tensors.append(found[0].output[0])
            yield node, tensors


def add_inlined(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], shares: list[list[str]]) -> None:
    """Find layers that run as an inlined function body under a made-up name: walk back from their output to a Conv."""
    maker = {name: i for i, node in enumerate(nodes) for name in node.output}
    found = {name for names in shares for name in names}
    for layer, tensors in _layer_tails(graph, LAYER_OPS):
        name = layer_name(layer)
        if name in found:
            continue
        position = next((maker[t] for t in tensors if t in maker), None)
        while position is not None and nodes[position].op_type not in LAYER_OPS:
            position = maker.get(nodes[position].input[0])
        if position is not None and not shares[position]:
            shares[position] = [name]


def add_layout_changes(nodes: list[onnx.NodeProto], shares: list[list[str]]) -> None:
    """Charge a change out of the blocked layout to the lookups that read its result, a change into it to the lookup before.

    A change behind a pooling or an addition of its own, or before the first layer, counts for no layer.
    """
    lookups = [node for node in nodes if node.op_type == OP_TYPE]
    makers = {name: layer_name(node) for node in lookups for name in node.output}
    for node, names in zip(nodes, shares, strict=True):
        if node.op_type == "ReorderOutput":
            names += [layer_name(lookup) for lookup in lookups if node.output[0] in lookup.input]
        elif node.op_type == "ReorderInput" and node.input[0] in makers:
            names.append(makers[node.input[0]])

"""Where a net's activations are rounded to 8 bits or bfloat16, so that nothing returns to float32 between its layers.

A point is a node of the graph whose result is rounded, for all who read it. Poolings by the maximum, concatenations and the
like pass narrow numbers on as they are; points that meet in a concatenation share a grid.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d
from lcnn_compress.net.layers import FLATTENS, aten, calls

# These give only values that they were given; a concatenation does so where all that it is given is on one grid.
_MOVES = frozenset({aten.max_pool2d.default, aten.upsample_nearest2d.vec, aten.cat.default, *FLATTENS})
_ADDS = frozenset({aten.add.Tensor, aten.add_.Tensor})
# These follow a layer or a sum within one operator; what they give is rounded, not what they are given.
_ACTIVATIONS = frozenset(
    {aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.clamp.default}
)
# Averages of whole planes have an operator on bytes.
_AVERAGES = frozenset({aten.mean.dim, aten.adaptive_avg_pool2d.default})


@dataclass(frozen=True)
class Points:
    """Nodes whose results are rounded, and which of them share a grid.

    Attributes:
        nodes: in the order of the graph.
        shared: for each node the first of those that it shares its grid with, itself where it shares with none before it.
    """

    nodes: list[fx.Node]
    shared: dict[fx.Node, fx.Node]


def find_points(net: fx.GraphModule, layers: Collection[str], readers: Collection[str] = ()) -> Points:
    """Return where a net is rounded for the layers named to take narrow numbers; each is called by its name.

    Rounded as well is what these layers give to ``readers``, other layers, which make other narrow numbers of it.
    """
    order = {node: place for place, node in enumerate(net.graph.nodes)}
    calls = [node for node in order if node.op == "call_module" and node.target in layers]
    found: dict[fx.Node, set[fx.Node]] = {}

    def add(*nodes: fx.Node) -> None:
        """Round what nodes give, or pass on, at its sources, on one grid, and likewise what a sum there adds."""
        group = {source for node in nodes for source in _sources(node)}
        new = [source for source in group if source not in found]
        for source in group.copy():
            group |= found.get(source, set())
        for source in group:
            found[source] = group
        for source in sorted(new, key=lambda node: order[node]):
            for inner in _also(source, found, layers, order):
                add(inner)

    inputs: dict[str, list[fx.Node]] = {}
    for call in calls:  # a layer that is called again has one grid for its inputs
        inputs.setdefault(str(call.target), []).append(call.all_input_nodes[0])
    for nodes in inputs.values():
        add(*nodes)
    for call in order:
        if _is_layer(call, readers):
            add(*(source for source in _sources(call.all_input_nodes[0]) if _is_layer(_before_activation(source), layers)))
    nodes = sorted(found, key=lambda node: order[node])
    return Points(nodes, {node: min(found[node], key=lambda other: order[other]) for node in nodes})


def reads_float(net: fx.GraphModule, layers: Collection[str]) -> set[str]:
    """Return those of ``layers``, all of them in 8 bits, for which bytes are made of what something else gave in float32."""

    def gives_bytes(node: fx.Node) -> bool:
        node = _before_activation(node)
        return _is_layer(node, layers) or node.target in _ADDS | _AVERAGES

    called = [node for node in net.graph.nodes if _is_layer(node, layers)]
    return {str(node.target) for node in called if not all(map(gives_bytes, _sources(node.all_input_nodes[0])))}


def grid_node(call: fx.Node) -> fx.Node:
    """Return a node whose grid is that of the input of a layer's call."""
    return next(_sources(call.all_input_nodes[0]))


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the nodes that compute the values which ``node`` gives, beyond those that only pass values on."""
    if node.op == "call_function" and (node.target in _MOVES or _keeps_sizes(node)):
        inputs = node.all_input_nodes if node.target is aten.cat.default else node.all_input_nodes[:1]
        for inner in inputs:
            yield from _sources(inner)
    else:
        yield node


def _keeps_sizes(node: fx.Node) -> bool:
    """Tell whether a pooling to a size leaves planes of the example as they are."""
    shapes = [n.meta["tensor_meta"].shape for n in (node, *node.all_input_nodes[:1]) if "tensor_meta" in n.meta]
    return node.target is aten.adaptive_avg_pool2d.default and len(shapes) == 2 and shapes[0] == shapes[1]


def _also(source: fx.Node, found: dict[fx.Node, Any], layers: Collection[str], order: dict[fx.Node, int]) -> Iterable[fx.Node]:
    """Return nodes that must be rounded for the operator that computes ``source`` to take and give bytes."""
    node = _before_activation(source)
    if node.target in _AVERAGES:
        return node.all_input_nodes[:1]
    if node.target in _ADDS and len(node.all_input_nodes) == 2:
        # One operator computes the layer whose result comes last and adds what is rounded already.
        first, last = sorted(node.all_input_nodes, key=lambda inner: order[inner])
        if all(set(_sources(inner)) <= found.keys() for inner in (first, last)):
            return ()
        if _is_layer(last, layers) and len(last.users) == 1:
            return (first,)
        if _is_layer(first, layers) and len(first.users) == 1:
            return (last,)
        return (first, last)
    return ()


def _before_activation(node: fx.Node) -> fx.Node:
    while node.target in _ACTIVATIONS:
        node = node.all_input_nodes[0]
    return node


def _is_layer(node: fx.Node, layers: Collection[str]) -> bool:
    return node.op == "call_module" and node.target in layers


def with_rounding(
    net: fx.GraphModule, rounds: Mapping[fx.Node, nn.Module], prefix: str
) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """Return a copy of a net in which users of some nodes read rounded results, and for each of these the node that rounds.

    A layer in bfloat16, for which a result is rounded already, goes on reading that: bytes are for others.

    Args:
        net: stays as it is.
        rounds: what rounds the result of each node.
        prefix: with the names of the nodes it gives those of these modules.
    """
    result: fx.GraphModule = copy.deepcopy(net)
    twins = dict(zip(net.graph.nodes, result.graph.nodes, strict=True))
    halves = {call for call, _ in calls(result, Bfloat16Conv2d)}
    added = {}
    for node, module in rounds.items():
        twin, name = twins[node], f"{prefix}_{node.name}"
        while hasattr(result, name):  # a part of the net may be called so
            name += "_"
        result.add_submodule(name, module)
        with result.graph.inserting_after(twin):
            added[node] = result.graph.call_module(name, (twin,))
        twin.replace_all_uses_with(added[node], delete_user_cb=lambda user, kept={added[node], *halves}: user not in kept)
    result.recompile()
    return result, added

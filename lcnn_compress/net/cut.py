"""A net cut before a layer: many forms of the layer need what comes before it only once."""

from __future__ import annotations

import copy

from torch import fx


def cut(net: fx.GraphModule, name: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the head of a net, up to the first call of a layer, and the rest, its tail: ``tail(*head(x))`` is ``net(x)``.

    Both have the modules of ``net``, whose changes they see. The tail may change in place what it is given, as the net does.

    Args:
        net: a net of one input.
        name: the name of a submodule that it calls.
    """
    head, tail = copy.deepcopy(net.graph), copy.deepcopy(net.graph)
    nodes, twins = list(head.nodes), list(tail.nodes)
    at = min(_calls(nodes, name))
    later = set(nodes[at:])
    live = [i for i, node in enumerate(nodes[:at]) if later.intersection(node.users)]
    _end(head, nodes[at], [nodes[i] for i in live])
    with tail.inserting_before(twins[0]):
        for i in live:
            twins[i].replace_all_uses_with(tail.placeholder(f"live_{twins[i].name}"))
    for twin in reversed(twins[:at]):
        tail.erase_node(twin)
    return fx.GraphModule(net, head), fx.GraphModule(net, tail)


def _calls(nodes: list[fx.Node], name: str) -> list[int]:
    return [i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == name]


def _end(graph: fx.Graph, first: fx.Node, results: list[fx.Node]) -> None:
    """Let a graph return ``results``, without its nodes from ``first`` on."""
    *nodes, output = graph.nodes
    output.args = (tuple(results),)
    for node in reversed(nodes[nodes.index(first) :]):
        graph.erase_node(node)

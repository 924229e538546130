"""A net cut before a layer: many forms of the layer need what comes before it only once."""

from __future__ import annotations

import copy

from torch import fx


def cut(net: fx.GraphModule, name: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return a net up to the first call of a layer, and from there on: ``tail(*head(x))`` is ``net(x)``.

    Both have the modules of ``net``, whose changes they see.

    Args:
        net: of one input.
        name: of a submodule it calls.
    """
    head, tail = copy.deepcopy(net.graph), copy.deepcopy(net.graph)
    nodes, twins = list(head.nodes), list(tail.nodes)
    at = min(_calls(nodes, name))
    later = set(nodes[at:])
    live = [i for i, node in enumerate(nodes[:at]) if later.intersection(node.users)]
    _end(head, at, [nodes[i] for i in live])
    with tail.inserting_before(twins[0]):
        for i in live:
            twins[i].replace_all_uses_with(tail.placeholder(f"live_{twins[i].name}"))
    for twin in reversed(twins[:at]):
        tail.erase_node(twin)
    return fx.GraphModule(net, head), fx.GraphModule(net, tail)


def inputs_of(net: fx.GraphModule, name: str) -> fx.GraphModule:
    """Return a net up to the last call of a layer; its output is what each of the calls gets, a tuple."""
    graph = copy.deepcopy(net.graph)
    nodes = list(graph.nodes)
    calls = _calls(nodes, name)
    _end(graph, max(calls), [nodes[i].all_input_nodes[0] for i in calls])
    return fx.GraphModule(net, graph)


def _calls(nodes: list[fx.Node], name: str) -> list[int]:
    return [i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == name]


def _end(graph: fx.Graph, at: int, results: list[fx.Node]) -> None:
    """Let a graph end before its node number ``at`` and return ``results``."""
    *nodes, output = graph.nodes
    output.args = (tuple(results),)
    for node in reversed(nodes[at:]):
        graph.erase_node(node)

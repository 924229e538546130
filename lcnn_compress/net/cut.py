"""A net cut before a layer: many forms of the layer need what comes before it only once."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx


def cut(net: fx.GraphModule, name: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return the head of a net, up to the first call of a layer, and the rest, its tail: ``tail(*head(x))`` is ``net(x)``.

    Both have the modules of ``net``, whose changes they see. The tail may change in place what it is given, as the net does.

    Args:
        net: a net, or the tail of one.
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


class Walk:
    """A net's values just before one layer after the other, on batches of inputs: every part of the net is run once.

    Layers are visited in the order of their first calls. A layer may be changed when it is visited, before the next visit and
    not after, as what comes behind it is made of what it gave by then. Values of more than ``most_bytes`` are not kept: they
    are made from the last ones kept whenever they are asked for.

    Attributes:
        tail: the net from the first call of the visited layer on; the whole net before the first visit.
    """

    def __init__(self, net: fx.GraphModule, batches: Sequence[Tensor], most_bytes: float = math.inf) -> None:
        self.tail = net
        self._most_bytes = most_bytes
        self._kept: list[tuple[object, ...]] = [(x,) for x in batches]
        self._numbers = [x.numel() for x in batches]
        # ``_behind`` is the net behind the values kept, and ``_head`` its part before the visited layer where they are older.
        self._behind = net
        self._head: fx.GraphModule | None = None

    @torch.no_grad()
    def visit(self, name: str) -> None:
        """Go on to the first call of a layer."""
        head, tail = cut(self._behind, name)
        self._head, self.tail = head.eval(), tail.eval()
        if not self._kept:
            return
        first = self._run(0)
        own = sum(value.nbytes for value in first if isinstance(value, Tensor))
        if own * sum(self._numbers) <= self._most_bytes * self._numbers[0]:
            self._kept[0] = first
            for i in range(1, len(self._kept)):
                self._kept[i] = self._run(i)
            self._behind, self._head = self.tail, None

    @torch.no_grad()
    def values(self) -> Iterator[tuple[object, ...]]:
        """Yield what ``tail`` takes for each batch; it may be changed in place."""
        for i, kept in enumerate(self._kept):
            # All together, so that those that share memory still do.
            yield copy.deepcopy(kept) if self._head is None else self._run(i)

    def _run(self, i: int) -> tuple[object, ...]:
        assert self._head is not None
        found: tuple[object, ...] = self._head(*copy.deepcopy(self._kept[i]))
        return found


def _calls(nodes: list[fx.Node], name: str) -> list[int]:
    return [i for i, node in enumerate(nodes) if node.op == "call_module" and node.target == name]


def _end(graph: fx.Graph, first: fx.Node, results: list[fx.Node]) -> None:
    """Let a graph return ``results``, without its nodes from ``first`` on."""
    *nodes, output = graph.nodes
    output.args = (tuple(results),)
    for node in reversed(nodes[nodes.index(first) :]):
        graph.erase_node(node)

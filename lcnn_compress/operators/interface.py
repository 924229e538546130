"""What a net takes and gives in a file: the axes of its input that are open, and the names of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from lcnn_compress.operators.names import harmless

_KEY = "interface"


@dataclass(frozen=True)
class Interface:
    """The interface of a net.

    Attributes:
        open_axes: axes of the input that may have other sizes than those the net was captured at; None where release 0.1.0,
            which did not find out, wrote the net.
        outputs: names of the outputs, in order.
        notes: what the user should know about how the net was captured; artefacts keep them in their report.
        shape: of the input that the net was captured at.
    """

    open_axes: tuple[int, ...] | None
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()

    def fixed(self, axis: int) -> int | None:
        """Return the only size that an axis of the input may have, or None."""
        known = self.open_axes is not None and axis not in self.open_axes and axis < len(self.shape)
        return self.shape[axis] if known else None

    def misfit(self, shape: Sequence[int]) -> str | None:
        """Return what is wrong with the shape of an input, on which the net would fail or compute something else, or None."""
        for axis, size in enumerate(shape):
            if (only := self.fixed(axis)) is not None and size != only:
                return f"axis {axis} has size {size}, and the net takes {only} only"
        return None


def interface_of(net: fx.GraphModule) -> Interface:
    """Return the interface of a net; copies of the net and of its graph keep it."""
    found = _input(net.graph).meta.get(_KEY)
    return found if isinstance(found, Interface) else Interface(None, output_names([("",)] * n_outputs(net)))


def set_interface(graph: fx.Graph, interface: Interface) -> None:
    """Let the graph of a net have an interface."""
    _input(graph).meta[_KEY] = interface


def _input(graph: fx.Graph) -> fx.Node:
    found: fx.Node = next(node for node in graph.nodes if node.op == "placeholder")
    return found


def n_outputs(net: fx.GraphModule) -> int:
    """Return how many tensors a net gives."""
    results = net.graph.output_node().args[0]
    return len(results) if isinstance(results, (list, tuple)) else 1


def output_names(paths: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return names for outputs that lie under keys: the keys; "output", "output_1", ... for those without."""
    names: list[str] = []
    for path in paths:
        wanted = harmless("_".join(key for key in path if key) or "output").replace(".", "_")
        taken, number, name = {*names, "input"}, 0, wanted
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        names.append(name)
    return tuple(names)

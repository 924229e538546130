"""How far a net's outputs are from those of the dense one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, fx

from lcnn_compress.net.cut import Walk
from lcnn_compress.net.layers import Layer


class Outputs:
    """The dense net's outputs on calibration images, and how far another net's are from them."""

    def __init__(self, net: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        self.batches = batches
        self.expected = [outputs(net, x) for x in batches]
        joined = torch.cat([y.flatten() for y in self.expected]).double()
        self.variance = float(joined.var(correction=0)) or 1.0

    def error(self, net: fx.GraphModule) -> float:
        """Return the mean squared difference to the dense outputs, relative to their variance."""
        return self._error(outputs(net, x) for x in self.batches)

    def errors_behind(self, net: fx.GraphModule, names: Sequence[str]) -> Iterator[Callable[[], float]]:
        """Yield for each layer a function that tells ``error(net)`` while nothing before that layer changes.

        Args:
            net: nothing but the layer is changed, and it is as it was before the next one is asked for.
            names: layers in the order of their first calls; what comes before them is run once for all of them.
        """
        walk = Walk(net, self.batches)
        for name in names:
            walk.visit(name)
            yield lambda: self._error(outputs(walk.tail, *values) for values in walk.values())

    def _error(self, results: Iterable[Tensor]) -> float:
        pairs = zip(results, self.expected, strict=True)
        total = sum(float((result.double() - y.double()).square().sum()) for result, y in pairs)
        return total / sum(y.numel() for y in self.expected) / self.variance


def even_places(total: int, count: int) -> Tensor:
    """Return ``count`` of ``total`` places at even distances, or all of them, (n,) int64.

    Images of one folder or photo follow each other, so that the first ones would be of one kind.
    """
    count = min(count, total)
    return torch.arange(count) * total // max(1, count)


def some_images(batches: Sequence[Tensor], count: int, at_once: int = 32) -> list[Tensor]:
    """Return images at ``even_places``, in batches of at most ``at_once``; those given may differ in size."""
    chosen = even_places(sum(map(len, batches)), count)
    starts = itertools.accumulate(map(len, batches), initial=0)
    parts = [x[chosen[(chosen >= at) & (chosen < at + len(x))] - at] for x, at in zip(batches, starts, strict=False)]
    return [small for part in parts if len(part) for small in part.split(at_once)]


def affordable_images(
    net: fx.GraphModule, layers: Sequence[Layer], batches: Sequence[Tensor], macs: float, bounds: tuple[int, int]
) -> list[Tensor]:
    """Return as many images at ``even_places`` as take a net about so many MACs, within bounds."""
    return some_images(batches, int(np.clip(macs / max(1.0, macs_of_image(net, layers, batches)), *bounds)))


def macs_of_image(net: fx.GraphModule, layers: Sequence[Layer], batches: Sequence[Tensor]) -> float:
    """Return about how many MACs the layers have on one calibration image, which may differ in size from what is timed."""
    example = next(node for node in net.graph.nodes if node.op == "placeholder").meta["tensor_meta"].shape
    return sum(layer.dense_macs for layer in layers) * batches[0][0].numel() / max(1, torch.Size(example[1:]).numel())


@torch.inference_mode()
def outputs(net: fx.GraphModule, *inputs: object) -> Tensor:
    """Return the first output of a net in eval mode, as (N, ...)."""
    result = net.eval()(*inputs)
    first: Tensor = result[0] if isinstance(result, tuple) else result
    return first

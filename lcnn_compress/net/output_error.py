"""How far a net's outputs are from those of the dense one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx

from lcnn_compress.net.cut import Walk


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


def first_images(batches: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return the first ``count`` images in small batches; those given may differ in the size of their images."""
    small = [part for x in batches for part in x.split(32)]
    counts = itertools.accumulate(map(len, small), initial=0)
    return [x[: count - before] for x, before in zip(small, counts, strict=False) if before < count]


@torch.inference_mode()
def outputs(net: fx.GraphModule, *inputs: object) -> Tensor:
    """Return the first output of a net in eval mode, as (N, ...)."""
    result = net.eval()(*inputs)
    first: Tensor = result[0] if isinstance(result, tuple) else result
    return first

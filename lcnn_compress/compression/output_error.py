"""How far a net's outputs are from those of the dense one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, fx

from lcnn_compress.net.cut import cut


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

    def error_behind(self, net: fx.GraphModule, name: str) -> Callable[[], float]:
        """Return a function that tells ``error(net)`` while nothing before a layer changes; that part is run now, only once."""
        head, tail = cut(net, name)
        with torch.inference_mode():
            before = [head.eval()(x) for x in self.batches]

        @torch.inference_mode()
        def error_now() -> float:
            # Values are copied, because nets change them in place; all together, so that those that share memory still do.
            return self._error(outputs(tail, *copy.deepcopy(values)) for values in before)

        return error_now

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
def outputs(net: fx.GraphModule, *inputs: Tensor) -> Tensor:
    """Return the first output of a net in eval mode, as (N, ...)."""
    result = net.eval()(*inputs)
    first: Tensor = result[0] if isinstance(result, tuple) else result
    return first

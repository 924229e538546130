"""The grids of a net's activations, from the values that calibration inputs give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from lcnn_compress.forms.int8 import MAX_ACTIVATION, Grid

BINS = 2048
# A range holds these parts of the values, at each end.
PERCENTILES = (1.0, 0.99999, 0.9999, 0.999)
# Ranges of least squares are looked for among these parts of the whole one.
PARTS = tuple(float(p) for p in torch.linspace(1.0, 0.2, 41))


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of equal width between two values, (BINS) float64."""

    low: float
    high: float
    counts: Tensor

    @property
    def centres(self) -> Tensor:
        """The middle of each bin."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)

    def least_squares(self) -> Grid:
        """Return the grid that leaves the least sum of squared errors."""
        return min((Grid.covering(self.low * part, self.high * part) for part in PARTS), key=self.error)

    def percentile(self, kept: float) -> Grid:
        """Return the grid that leaves out a part (1 - kept) of the values at each end."""
        if kept == 1.0:
            return Grid.covering(self.low, self.high)
        share = self.counts.cumsum(0) / self.counts.sum()
        centres = self.centres
        low = centres[int((share >= 1 - kept).nonzero()[0])]
        high = centres[int((share >= kept).nonzero()[0])]
        return Grid.covering(float(low), float(high))

    def error(self, grid: Grid) -> float:
        """Return the mean squared error of rounding."""
        x = self.centres
        zero = grid.zero_point
        rounded = (x / grid.scale).round().clamp(-zero, MAX_ACTIVATION - zero) * grid.scale
        return float((self.counts * (rounded - x).square()).sum() / self.counts.sum())


Method = Callable[[Histogram], Grid]
# How ranges are found, by what messages call it.
METHODS: dict[str, Method] = {
    **{f"all but {1 - kept:.3%} at each end": partial(Histogram.percentile, kept=kept) for kept in PERCENTILES},
    "least squares": Histogram.least_squares,
}


class _Observer(fx.Interpreter):
    """Runs a net and sees the results of some nodes."""

    def __init__(self, net: fx.GraphModule, nodes: Sequence[fx.Node]) -> None:
        super().__init__(net)
        self.bounds: dict[fx.Node, tuple[float, float]] = dict.fromkeys(nodes, (0.0, 0.0))
        self.counts: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.bounds:
            low, high = self.bounds[n]
            if n not in self.counts:
                least, most = float(result.min()), float(result.max())
                # NaN compares as neither, so that it would go unseen.
                known = math.isfinite(least) and math.isfinite(most)
                self.bounds[n] = (min(low, least), max(high, most)) if known else (-math.inf, math.inf)
            elif low < high < math.inf:
                self.counts[n] += torch.histc(result.float(), BINS, low, high).double()
        return result


@torch.no_grad()
def histograms(net: fx.GraphModule, nodes: Sequence[fx.Node], batches: Sequence[Tensor]) -> dict[fx.Node, Histogram]:
    """Return what values the nodes of a net give for calibration inputs; two passes over them, one for the bounds.

    Where some are not finite, the bounds are infinite and nothing is counted.

    A node whose results are changed in place is not to be among ``nodes``: its users see other values.
    """
    seen = _Observer(net, nodes)
    for x in batches:
        seen.run(x.clone())
    seen.counts = {node: torch.zeros(BINS, dtype=torch.float64) for node in nodes}
    for x in batches:
        seen.run(x.clone())
    # A tensor of zeros has one value, whatever its bounds.
    empty = torch.ones(BINS, dtype=torch.float64)
    return {n: Histogram(*seen.bounds[n], c if c.sum() > 0 else empty) for n, c in seen.counts.items()}


def grids(found: dict[fx.Node, Histogram], shared: dict[fx.Node, fx.Node], method: Method) -> dict[fx.Node, Grid]:
    """Return the grid of each node by one of ``METHODS``; nodes that share have the widest."""
    own = {node: method(histogram) for node, histogram in found.items()}
    ends: dict[fx.Node, tuple[float, float]] = {}
    for node, grid in own.items():
        low, high = -grid.zero_point * grid.scale, (MAX_ACTIVATION - grid.zero_point) * grid.scale
        before = ends.get(shared[node], (0.0, 0.0))
        ends[shared[node]] = min(low, before[0]), max(high, before[1])
    alone = {first: sum(other is first for other in shared.values()) == 1 for first in ends}
    return {node: own[node] if alone[shared[node]] else Grid.covering(*ends[shared[node]]) for node in found}

"""What computing one layer in 8 bits does to the outputs of the whole net, measured by rounding that layer alone.

Rounding a dictionary, the responses S and P adds more than rounding one weight: how much more is measured on the layer's own
outputs, once for a dictionary of middle size, and the effect on the net's outputs is taken to grow by the same factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lcnn_compress.forms.dictionary import factorise
from lcnn_compress.forms.int8 import Grid, Int8Conv2d, Round8
from lcnn_compress.forms.kinds import LOW_RANK
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import as_lookup, finished, with_lookups
from lcnn_compress.net.layers import Captured, calls
from lcnn_compress.net.output_error import Outputs
from lcnn_compress.progress import Progress, silent
from lcnn_compress.quantisation.points import find_points, grid_node
from lcnn_compress.quantisation.quantise import layer_in_bytes
from lcnn_compress.quantisation.ranges import METHODS, grids, histograms


@dataclass(frozen=True)
class RoundingEffect:
    """Mean squared error of the net's outputs over their variance that 8 bits in one layer add, dense and with a dictionary."""

    dense: float
    coded: float


@torch.no_grad()
def rounding_effects(
    captured: Captured, rows: Mapping[str, int], images: Sequence[Tensor], progress: Progress = silent
) -> dict[str, RoundingEffect]:
    """Return the effect of each layer named.

    Args:
        captured: the dense net.
        rows: size of the dictionary that is tried for each layer that can compute in 8 bits; 0 for none.
        images: calibration inputs, each (N, C, H, W) or (N, features); all of them are used.
        progress: gets ("rounding layers", layers done, in total).
    """
    folded = Captured.of(finished(captured.net, "float32"), captured.input_shape)
    net = with_lookups(folded, {layer.name: as_lookup(layer) for layer in folded.layers if layer.name in rows})
    points = find_points(net, rows)
    chosen = grids(histograms(net, points.nodes, images), points.shared, METHODS["least squares"])
    trials = {}
    for node, lookup in list(calls(net, LookupConv2d)):
        name = str(node.target)
        if name in rows and name not in trials:
            trials[name] = _Trial(lookup, chosen[grid_node(node)], rows[name])
    for name, trial in trials.items():
        net.add_submodule(name, trial)
    judge, found = Outputs(net, images), {}
    for done, (name, error_now) in enumerate(zip(trials, judge.errors_behind(net, list(trials)), strict=True)):
        progress("rounding layers", done, len(trials))
        trials[name].is_tried = True
        effect = error_now()
        trials[name].is_tried = False
        found[name] = RoundingEffect(effect, effect * trials[name].dictionary_factor)
    progress("rounding layers", len(trials), len(trials))
    return found


class _Trial(nn.Module):
    """A layer that, while it is tried, gives what it would in 8 bits, with the mean of each output put right."""

    def __init__(self, lookup: LookupConv2d, grid: Grid, rows: int) -> None:
        super().__init__()
        self.lookup, self.grid, self.rows, self.is_tried = lookup, grid, rows, False
        self._squares = [0.0, 0.0]
        self._pairs: list[tuple[LookupConv2d, Int8Conv2d]] = []

    @property
    def dictionary_factor(self) -> float:
        """How many times the squared error of the layer's outputs is larger where a dictionary is rounded too."""
        dense, coded = self._squares
        return coded / dense if self.rows and dense > 0 else 1.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lookup(x)
        if not self.is_tried:
            return y
        on_grid = Round8(self.grid)(x)
        if not self._pairs:
            forms = [self.lookup, *([_low_rank(self.lookup, self.rows)] if self.rows else [])]
            self._pairs = [(form, layer_in_bytes(form, self.grid, [on_grid], rough=True)) for form in forms]
        off = [in_bytes(on_grid) - form(x) for form, in_bytes in self._pairs]
        off = [error - error.mean((0, 2, 3), keepdim=True) for error in off]
        for i, error in enumerate(off):
            self._squares[i] += float(error.square().sum())
        y += off[0]
        return y


def _low_rank(lookup: LookupConv2d, rows: int) -> LookupConv2d:
    weight, geometry = lookup.weight().detach().numpy(), lookup.geometry
    factors = factorise(weight, groups=geometry.groups, dictionary_size=rows, lookups=rows, init=LOW_RANK.init or "", seed=0)
    return LookupConv2d(torch.from_numpy(factors[0]), torch.from_numpy(factors[1]), lookup.bias, geometry)

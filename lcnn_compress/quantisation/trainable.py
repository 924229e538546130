"""Nets in 8 bits that can be trained: every layer rounds as it will be stored, and learns what it rounds, and how finely.

Gradients pass the rounding as if it were not there (Bengio et al. 2013, arXiv 1308.3432); scales of activations, weights and
responses are learnt as in Esser et al. 2020, "Learned step size quantization" (arXiv 1902.08153), section 2.1, with fixed zero
points. Optimisers such as Adam move every number by about the learning rate, so each is in a unit of its own: weights in those
of the largest of their filter, scales as logarithms, biases in those of one large product.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from lcnn_compress.forms.int8 import MAX_ACTIVATION, Grid, Int8Conv2d, Int8Factors, Round8, on_grid, rounded
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.whole_weights import MAX_WEIGHT, fitted
from lcnn_compress.net.layers import calls


class LearntScale(nn.Module):
    """Scales above 0, which start as they are given: ``start`` * exp(``change``).

    Attributes:
        start: of any shape.
        change: of the same shape.
    """

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.clone())
        self.change = nn.Parameter(torch.zeros_like(start))

    def ratio(self) -> Tensor:
        """Return how many times the start the scales are."""
        return self.change.exp()

    def forward(self) -> Tensor:
        """Return the scales."""
        return self.start * self.ratio()


class LearntGrid(LearntScale):
    """A grid with a scale that is learnt; all that round to it, and the layers that read from it, have the same one."""

    def __init__(self, rounding: Round8) -> None:
        super().__init__(rounding.scale)
        self.zero_point = rounding.grid.zero_point

    def stored(self) -> Grid:
        """Return the grid as numbers."""
        return Grid(float(self().detach()), self.zero_point)


class TrainableRound8(nn.Module):
    """A ``Round8`` whose scale is learnt."""

    def __init__(self, grid: LearntGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """Round x of any shape; in mixed precision x has fewer bits than the grid."""
        zero = self.grid.zero_point
        return on_grid(x.float(), self.grid(), -zero, MAX_ACTIVATION - zero)

    def stored(self) -> Round8:
        """Return the rounding as files hold it."""
        return Round8(self.grid.stored())


class TrainableInt8Conv2d(nn.Module):
    """An ``Int8Conv2d`` in training: it computes what ``stored`` does; without gradients bit by bit, else all but a rounding.

    Attributes:
        weight: (C_out, K, kH, kW), in units of the largest whole number.
        support: (C_out, K, kH, kW) bool, False where the weight is 0 for good.
        weight_scale: (C_out).
        dictionary: (groups * k, C_in / groups), in units of the largest whole number; without rows where there is none.
        row_scale: (groups * k), what 1 stands for in a row, over what it stood for in S.
        step: (groups * k), what 1 stands for in S, over what it stood for.
        bias: (C_out), at the start.
        bias_change: (C_out), in units of the largest product of an input, or response, and a weight.
        grid: that of the input.
    """

    support: Tensor
    bias: Tensor
    bias_unit: Tensor

    def __init__(self, layer: Int8Conv2d, support: Tensor, grid: LearntGrid) -> None:
        super().__init__()
        self.geometry, self.grid = layer.geometry, grid
        self.weight = nn.Parameter(layer.weight.float() / MAX_WEIGHT)
        self.register_buffer("support", support.clone(), persistent=False)
        self.weight_scale = LearntScale(layer.weight_scale)
        self.dictionary = nn.Parameter(layer.dictionary.float() / MAX_WEIGHT, requires_grad=layer.has_dictionary)
        self.row_scale = LearntScale(layer.dictionary_scale)
        self.step = LearntScale(torch.ones_like(layer.dictionary_scale))
        self.register_buffer("bias", layer.bias.clone())
        self.bias_change = nn.Parameter(torch.zeros_like(layer.bias))
        # A filter of zeros has any scale.
        used = layer.weight_scale[layer.weight.flatten(1).any(1)]
        unit = MAX_WEIGHT**2 * used.sum() / max(1, len(used)) * (1.0 if layer.has_dictionary else layer.input_scale)
        self.register_buffer("bias_unit", unit)

    def factors(self) -> Int8Factors:
        """Return the constants of the stored layer, whole numbers as float32, with gradients."""
        step = self.step()
        by_filter = self.weight_scale.ratio().reciprocal()[:, None]  # (C_out, 1)
        if len(step):
            groups = self.geometry.groups
            # Kernels take up what a step of S changes, as they would in float32.
            by_filter = by_filter * step.view(groups, -1).repeat_interleave(len(by_filter) // groups, 0)  # (C_out, k)
        weight = _whole(self.weight * self.support * by_filter[:, :, None, None])
        rows = _whole(self.dictionary / self.row_scale.ratio()[:, None])
        bias = self.bias + self.bias_change * self.bias_unit
        return Int8Factors(weight, self.weight_scale(), bias, rows, self.row_scale() / step)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C_in, H, W) on the grid of the input to (N, C_out, H', W'), which is not rounded."""
        # Whole numbers need all bits of float32. What the scale of the input does is in x: here it divides and multiplies.
        with torch.autocast(x.device.type, enabled=False):
            return self.factors().convolve(x.float(), self.geometry, self.grid().detach())

    @torch.no_grad()
    def stored(self) -> Int8Conv2d:
        """Return the layer as files hold it."""
        now = self.factors()
        made = Int8Factors(
            now.weight.to(torch.int8), now.weight_scale, now.bias, now.dictionary.to(torch.int8), now.dictionary_scale
        )
        return Int8Conv2d(made, self.geometry, self.grid.stored())


def _whole(units: Tensor) -> Tensor:
    """Return whole numbers as float32 of weights (n, K, ...) in units of the largest; fitting passes gradients as they are."""
    numbers = rounded(units * MAX_WEIGHT).clamp(-MAX_WEIGHT, MAX_WEIGHT)
    return numbers + (fitted(numbers.detach()) - numbers.detach())


def as_trainable(net: fx.GraphModule, plain: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a net in 8 bits that can be trained and gives the same results until it is.

    Args:
        net: what ``quantise`` made.
        plain: the net that it was made of: its lookup convolutions say which weights stay zeros.
    """
    result: fx.GraphModule = copy.deepcopy(net)
    learnt: dict[str, LearntGrid] = {}
    grids: dict[fx.Node, LearntGrid] = {}
    for node, rounding in list(calls(result, Round8)):
        first = node.meta["grid_of"]
        learnt.setdefault(first, LearntGrid(rounding))
        grids[node] = learnt[first]
    made: dict[str, nn.Module] = {str(node.target): TrainableRound8(grid) for node, grid in grids.items()}
    for node, layer in calls(result, Int8Conv2d):
        source = node.all_input_nodes[0]
        while source not in grids:
            source = source.all_input_nodes[0]
        name = str(node.target)
        known: Any = plain.get_submodule(name)
        support = known.support if isinstance(known, LookupConv2d) else torch.ones_like(layer.weight, dtype=torch.bool)
        made[name] = TrainableInt8Conv2d(layer, support, grids[source])
    return _with(result, made)


def as_stored(net: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a net that was trained in 8 bits as files hold it; it gives the same results in eval mode."""
    result: fx.GraphModule = copy.deepcopy(net)
    return _with(
        result, {str(node.target): part.stored() for node, part in calls(result, (TrainableRound8, TrainableInt8Conv2d))}
    )


def _with(net: fx.GraphModule, parts: dict[str, nn.Module]) -> fx.GraphModule:
    for name, part in parts.items():
        net.add_submodule(name, part)
    net.recompile()
    return net.eval()

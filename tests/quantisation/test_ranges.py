"""Grids of activations from the values that calibration gives them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lcnn_compress.forms.int8 import Grid, Round8
from lcnn_compress.net.capture import capture
from lcnn_compress.quantisation.ranges import Histogram, grids, histograms


def seen(values: torch.Tensor, bins: int = 2048) -> Histogram:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return Histogram(low, high, torch.histc(values, bins, low, high).double())


def test_least_squares_leaves_out_what_is_rare() -> None:
    values = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)).relu()
    values[0] = 12.0
    histogram = seen(values, 1 << 16)
    whole_range, best = histogram.percentile(1.0), histogram.least_squares()
    assert best.scale < 0.6 * whole_range.scale

    def error(grid: Grid) -> float:
        return float((Round8(grid)(values) - values).square().mean())

    assert error(best) < error(whole_range)
    assert histogram.error(best) == pytest.approx(error(best), rel=0.1)


def test_percentiles_leave_out_as_much_at_both_ends() -> None:
    histogram = seen(torch.linspace(-1, 3, 100_001))
    grid = histogram.percentile(0.9)
    assert -grid.zero_point * grid.scale == pytest.approx(-0.6, abs=0.02)
    assert (255 - grid.zero_point) * grid.scale == pytest.approx(2.6, abs=0.02)


def test_values_are_counted_where_nodes_give_them() -> None:
    net = capture(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8))
    nodes = [node for node in net.graph.nodes if node.op in ("call_module", "call_function")]
    batches = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    found = histograms(net, nodes, batches)
    with torch.no_grad():
        conv = torch.cat([net.get_submodule("0")(x) for x in batches])
    first, last = found[nodes[0]], found[nodes[1]]
    assert (first.low, first.high) == pytest.approx((float(conv.min()), float(conv.max())))
    assert (last.low, last.high) == pytest.approx((0.0, float(conv.max())))
    assert float(first.counts.sum()) == float(last.counts.sum()) == conv.numel()


def test_nodes_that_share_have_one_grid() -> None:
    net = capture(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8))
    a, b, c = list(net.graph.nodes)[:3]
    found = {a: seen(torch.tensor([0.0, 1.0])), b: seen(torch.tensor([-1.0, 4.0])), c: seen(torch.tensor([0.0, 9.0]))}
    made = grids(found, {a: a, b: a, c: c}, lambda histogram: histogram.percentile(1.0))
    assert made[a] == made[b] == Grid.covering(-1.0, 4.0)
    assert made[c] == Grid.covering(0.0, 9.0)


def test_values_that_are_all_zero_have_a_grid() -> None:
    empty = Histogram(0.0, 0.0, torch.ones(16, dtype=torch.float64))
    for grid in (empty.percentile(1.0), empty.percentile(0.99), empty.least_squares()):
        assert grid.scale > 0

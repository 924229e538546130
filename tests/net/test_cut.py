"""A net cut before a layer gives what the whole net gives."""

from __future__ import annotations

import pytest
import torch
from cases import small_net
from torch import nn

from lcnn_compress.net.capture import capture
from lcnn_compress.net.cut import cut


class Twice(nn.Module):
    """The input and an early value cross every cut, and one layer is called twice, its first input changed in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        early = torch.relu(self.first(x))
        once = self.twice(early) + x
        early.add_(1)
        return self.last(self.twice(once) * early + x.shape[0])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return capture(Twice(), torch.zeros(2, 3, 6, 6)).eval()


@pytest.mark.parametrize("name", ["first", "twice", "last"])
def test_the_halves_make_the_net(net, name):
    x = torch.randn(4, 3, 6, 6)
    head, tail = cut(net, name)
    assert torch.equal(tail(*head(x)), net(x))
    with torch.no_grad():
        net.get_submodule(name).weight.mul_(2)
    assert torch.equal(tail(*head(x)), net(x))  # the halves see it


def test_the_first_half_stops_before_the_layer(net):
    head, tail = cut(net, "twice")
    assert {str(n.target) for n in head.graph.nodes if n.op == "call_module"} == {"first"}
    assert [str(n.target) for n in tail.graph.nodes if n.op == "call_module"] == ["twice", "twice", "last"]


def test_every_layer_of_a_residual_net_can_be_the_cut():
    example = torch.zeros(1, 3, 16, 16)
    net = capture(small_net(), example).eval()
    x = torch.randn(2, 3, 16, 16)
    names = [str(n.target) for n in net.graph.nodes if n.op == "call_module"]
    assert len(names) > 5
    for name in names:
        head, tail = cut(net, name)
        assert torch.equal(tail(*head(x)), net(x)), name

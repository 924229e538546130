"""A net cut before a layer gives what the whole net gives."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from cases import small_net
from torch import nn

from lcnn_compress.net.capture import capture
from lcnn_compress.net.cut import Walk, cut


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


@pytest.mark.parametrize("most_bytes", [math.inf, 0])
def test_a_walk_gives_what_is_behind_each_layer_as_it_is_changed(net, most_bytes):
    batches = [torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(n)) for n in (4, 2)]
    copies = [x.clone() for x in batches]
    walk = Walk(net, batches, most_bytes)
    for name in ("first", "twice", "last"):
        walk.visit(name)
        with torch.no_grad():
            net.get_submodule(name).weight.mul_(1.5)
            for _ in range(2):  # the tail changes values in place, those of the walk stay
                for x, values in zip(batches, walk.values(), strict=True):
                    torch.testing.assert_close(walk.tail(*values), net(x), rtol=1e-6, atol=1e-6)
    assert all(torch.equal(x, y) for x, y in zip(batches, copies, strict=True))


def test_a_walk_runs_every_layer_once():
    net = capture(small_net(), torch.zeros(1, 3, 16, 16)).eval()
    names = [str(n.target) for n in net.graph.nodes if n.op == "call_module"]
    ran: Counter[str] = Counter()
    for name in names:
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.update([name]))
    walk = Walk(net, [torch.randn(2, 3, 16, 16)] * 3)
    for name in names:
        walk.visit(name)
        assert len(list(walk.values())) == 3
    assert ran == dict.fromkeys(names[:-1], 3)
    ran.clear()
    walk = Walk(net, [torch.randn(2, 3, 16, 16)] * 3, most_bytes=1)  # nothing is kept
    for name in names:
        walk.visit(name)
    assert ran[names[0]] == len(names) - 1  # of one batch each time, to know its size

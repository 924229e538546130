"""Where nets are rounded."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lcnn_compress import zoo
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import finished
from lcnn_compress.net.layers import Captured
from lcnn_compress.quantisation.points import find_points, grid_node, reads_float, with_rounding


class Branches(nn.Module):
    """Two branches that are joined, a sum, a layer that is called twice, a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.a(x).relu(), self.b(x)], 1)
        y = functional.max_pool2d(joined, 2)
        y = self.c(self.c(y).relu()) + y
        return self.last(y) * 2


def points_of(model: nn.Module, shape: tuple[int, ...], layers: set[str] | None = None):
    net = finished(capture(model.eval(), torch.zeros(shape)), "float32")
    captured = Captured.of(net, shape)
    names = {layer.name for layer in captured.layers} if layers is None else layers
    found = find_points(net, names)
    return [node.name for node in found.nodes], {a.name: b.name for a, b in found.shared.items()}


def test_what_layers_read_is_rounded_where_it_is_computed() -> None:
    names, shared = points_of(Branches(), (1, 3, 8, 8))
    # Not the pooled or joined values: they are the same bytes. Not what is added within an operator.
    assert names == ["x", "relu", "b", "relu_1", "add"]
    # A concatenation has one grid, and so have the inputs of a layer that is called twice: relu, b and relu_1.
    assert shared == {"x": "x", "relu": "relu", "b": "relu", "relu_1": "relu", "add": "add"}


def test_layers_that_stay_in_float32_need_no_rounding() -> None:
    names, _ = points_of(Branches(), (1, 3, 8, 8), {"a"})
    assert names == ["x"]
    assert points_of(Branches(), (1, 3, 8, 8), set())[0] == []


def test_what_layers_give_to_others_is_rounded_too() -> None:
    net = finished(capture(Branches().eval(), torch.zeros(1, 3, 8, 8)), "float32")
    for layers, readers, names in (
        ({"a"}, {"c"}, ["x", "relu"]),  # b gives float32
        ({"a", "b"}, {"c"}, ["x", "relu", "b"]),
        ({"c"}, {"last"}, ["relu", "b", "relu_1"]),  # a sum is none of its results
    ):
        assert [node.name for node in find_points(net, layers, readers).nodes] == names


def test_a_sum_adds_bytes_to_what_comes_last() -> None:
    names, _ = points_of(zoo.fashion_resnet(), (1, 1, 28, 28))
    assert "layer2_conv2" in names  # the shortcut comes last and adds it
    assert "layer2_downsample_0" not in names
    assert "mean" in names  # the classifier reads it
    assert "fc" not in names


def test_layers_that_something_without_bytes_feeds_are_named() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.b(self.a(x).relu())
            z = self.c(functional.max_pool2d(functional.silu(y), 2))
            return self.d(torch.cat([z, z.sigmoid()], 1)[:, :4] + z)

    net = finished(capture(Gated().eval(), torch.zeros(1, 3, 8, 8)), "float32")
    assert reads_float(net, {"a", "b", "c"}) == {"a", "c"}
    assert reads_float(net, {"b"}) == {"b"}  # a stays in float32


def test_the_grid_of_an_input_is_that_of_its_source() -> None:
    net = finished(capture(Branches().eval(), torch.zeros(1, 3, 8, 8)), "float32")
    calls = {str(node.target): grid_node(node).name for node in net.graph.nodes if node.op == "call_module"}
    assert calls == {"a": "x", "b": "x", "c": "relu_1", "last": "add"}


def test_rounding_takes_no_name_that_the_net_has() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.half_x = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.half_x(x)

    net = finished(capture(Named().eval(), torch.zeros(1, 3, 8, 8)), "float32")
    point = next(node for node in net.graph.nodes if node.op == "placeholder")
    made, added = with_rounding(net, {point: nn.Hardtanh()}, "half")
    assert [node.target for node in made.graph.nodes if node.op == "call_module"] == ["half_x_", "half_x"]
    assert [str(node.target) for node in added.values()] == ["half_x_"]
    assert type(made.get_submodule("half_x")) is nn.Conv2d
    x = 3 * torch.randn(1, 3, 8, 8)
    assert torch.equal(made(x), net(x.clamp(-1, 1)))

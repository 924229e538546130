"""The layers of a net: geometry, sizes, MACs, and what stands against coding them."""

from __future__ import annotations

import itertools

import pytest
import torch
from flattened import FLATTENS, PLANE, Flattened, planes, replaced
from nets import exact_lookup
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.compression.plan import PlanSettings, plan_layers, planned_macs
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import replace_layer
from lcnn_compress.net.layers import MAX_BARE_CHANNELS, Layer, layers
from lcnn_compress.operators.geometry import ConvGeometry

pytestmark = pytest.mark.usefixtures("one_thread")


def test_geometry_includes_all_zero_padding(captured):
    _, net, x = captured
    found = {layer.name: layer for layer in layers(net, x)}
    assert found["same"].geometry.padding == (1, 1, 2, 1)
    assert found["strided"].geometry.padding == (1, 0, 2, 1)
    assert found["strided"].sizes == ((11, 10),)
    assert found["shared"].sizes == ((11, 10), (11, 10))
    assert found["tokens"].dense_macs == 6 * 4 * 30


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_is_not_zeros_is_done_before_the_layer(mode):
    x = torch.randn(2, 3, 11, 10)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=(1, 2), padding_mode=mode), nn.ConstantPad2d(1, 0.5), nn.Conv2d(8, 4, 3))
    net = capture(model, x)
    for layer in layers(net, x):
        assert (layer.obstacle, layer.geometry.padding) == (None, (0, 0, 0, 0))
        replace_layer(net, layer, exact_lookup(layer))
    torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-5)


def layers_of(model: nn.Module, shape: tuple[int, ...] = PLANE) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers(capture(model, torch.zeros(shape)), torch.zeros(shape))}


@pytest.mark.parametrize(("flatten", "dropout"), [*itertools.product(FLATTENS, (0.0, 0.5))])
def test_geometry_weight_and_macs_are_those_of_a_convolution(flatten: str, dropout: float) -> None:
    model = Flattened(flatten, dropout=dropout)
    fc1 = layers_of(model)["fc1"]
    assert (fc1.geometry, fc1.sizes, fc1.obstacle) == (ConvGeometry((4, 5)), ((4, 5),), None)
    assert (fc1.in_channels, fc1.out_channels, fc1.dense_macs) == (8, 12, 8 * 20 * 12)
    assert torch.equal(fc1.weight(), model.fc1.weight.view(12, 8, 4, 5))
    plan = plan_layers([fc1], PlanSettings("fc1=3", 1))[0]
    assert planned_macs(fc1, plan) == 3 * 8 * 20 + 1 * 12 * 20
    assert plan_layers([fc1], PlanSettings("fast", only=("fc1",)))[0].dictionary_size == 2  # a quarter of 8 channels


class Heads(nn.Module):
    """Layers that read one flattened tensor; ``a`` is also called on another plane, ``often`` also on features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b, self.often = nn.Linear(160, 4), nn.Linear(160, 160), nn.Linear(160, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        turned = self.conv(x).transpose(2, 3).flatten(1)
        x = nn.functional.dropout(self.conv(x).flatten(1), training=self.training)
        return self.a(x), self.a(turned), self.often(x) + self.often(self.b(x))


def test_layers_that_share_a_flatten_and_layers_called_with_different_shapes() -> None:
    model = Heads().eval()
    named = layers_of(model)
    kernels = {name: layer.geometry.kernel for name, layer in named.items()}
    assert kernels == {"conv": (3, 3), "a": (1, 1), "b": (4, 5), "often": (1, 1)}
    assert named["a"].sizes == named["often"].sizes == ((1, 1), (1, 1))
    net = replaced(model, "a", "b", "often").double()
    for got, want in zip(net(planes().double()), model.double()(planes().double()), strict=True):
        torch.testing.assert_close(got, want)


def test_one_pixel_few_channels_and_a_flattened_batch_stay_a_1x1_convolution() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    few = Flattened(channels=MAX_BARE_CHANNELS)
    rows = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(0, 2), nn.Linear(5, 4))
    for model, name, features in ((pooled, "3", 8), (few, "fc1", 20 * MAX_BARE_CHANNELS), (rows, "2", 5)):
        layer = layers_of(model)[name]
        assert (layer.geometry.kernel, set(layer.sizes), layer.in_channels) == ((1, 1), {(1, 1)}, features), name


@pytest.mark.parametrize("pads", [
    lambda h, w: (0, max(h, w) - w, 0, max(h, w) - h), lambda *size: (size[1] // 8 - 1, 0),
    lambda *size: (1, 1, size[0] % 2, 0), lambda *_: (-1, 1, 0, 0),
])  # fmt: skip
def test_padding_that_depends_on_the_sizes_of_the_plane_is_done_before_the_layer(pads) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(functional.pad(x, pads(*x.shape[2:])))

    torch.manual_seed(0)
    model = Padded().eval()
    net = capture(model, torch.zeros(1, 8, 16, 16))
    (layer,) = layers(net, torch.zeros(1, 8, 16, 16))
    assert layer.geometry.padding == (1, 1, 1, 1)
    replace_layer(net, layer, exact_lookup(layer))
    for shape in ((1, 8, 16, 16), (2, 8, 20, 24), (1, 8, 17, 13)):
        x = torch.randn(shape)
        torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-5)

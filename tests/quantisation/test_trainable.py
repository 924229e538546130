"""Nets in 8 bits in training: what they compute is what is stored, and gradients are those of the formulas."""

from __future__ import annotations

import pytest
import torch
from cases import LookupConvCase, small_net
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.forms.int8 import Grid, Int8Conv2d, Int8Factors, Round8
from lcnn_compress.forms.kinds import SPARSE
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import finished, with_lookups
from lcnn_compress.net.layers import Captured
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.quantisation.quantise import quantise
from lcnn_compress.quantisation.trainable import LearntGrid, TrainableInt8Conv2d, TrainableRound8, as_stored, as_trainable

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (1, 8, 12, 10)


class AllKinds(nn.Module):
    """Layers of every kind, a concatenation, a layer that is called twice, a sum in place, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense, self.norm = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.lookup, self.sparse = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.lowrank, self.grouped = nn.Conv2d(16, 8, (3, 1), 2), nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.skip = nn.Conv2d(8, 12, 1)
        self.wise, self.planes, self.rows = nn.Conv2d(12, 12, 3, groups=12), nn.Linear(12 * 2 * 2, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.dense(x)).relu()
        x = torch.cat([self.lookup(self.lookup(x).relu()), self.sparse(x).clamp(0, 6)], 1)
        x = self.lowrank(x)
        y = self.grouped(x)
        y += self.skip(x)
        x = y.relu()
        x = functional.max_pool2d(self.wise(x) + 0.5, 1)
        return self.rows(self.planes(functional.adaptive_avg_pool2d(x, 2).flatten(1)).relu())


def coded(k: int, c_in: int, c_out: int, kernel: tuple[int, int], groups: int = 1, density: float = 0.5) -> LookupConv2d:
    """A random lookup convolution that pads as a dense one there."""
    padding = (1, 1, 1, 1) if kernel == (3, 3) else (0, 0, 0, 0)
    case = LookupConvCase(c_in, c_out, k, density, kernel, (1, 1) if kernel == (3, 3) else (2, 2), padding, groups=groups)
    made = case.module()
    with torch.no_grad():
        made.normalise_()
        made.sparse_kernel.mul_(0.3)
    return made


def quantised() -> tuple[Captured, torch.fx.GraphModule]:
    """Return the finished net in float32 and in 8 bits; batch norms and data do something."""
    captured = Captured.of(capture(AllKinds().eval(), torch.zeros(SHAPE)), SHAPE)
    sparse = LookupConv2d(
        torch.eye(8), torch.randn(8, 8, 3, 3) * (torch.rand(8, 8, 3, 3) < 0.3), None, ConvGeometry((3, 3), padding=(1, 1, 1, 1))
    )
    lookups = {
        "lookup": coded(4, 8, 8, (3, 3)), "sparse": sparse, "lowrank": coded(3, 16, 8, (3, 1), density=1.0),
        "grouped": coded(2, 8, 12, (3, 3), 2),
    }  # fmt: skip
    net = with_lookups(captured, lookups)
    assert lookups["sparse"].kind is SPARSE
    plain = Captured.of(finished(net, "float32"), SHAPE)
    images = [torch.randn(12, *SHAPE[1:], generator=torch.Generator().manual_seed(0))]
    return plain, quantise(plain, [layer.name for layer in plain.layers], images)


def images(seed: int, count: int = 16) -> Tensor:
    return torch.randn(count, *SHAPE[1:], generator=torch.Generator().manual_seed(seed))


def taken_steps(net: nn.Module, steps: int = 8) -> None:
    """Train everything for some steps."""
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(steps):
        optimiser.zero_grad()
        net(images(step)).square().mean().backward()
        optimiser.step()


def test_before_training_it_is_the_net_that_was_given() -> None:
    plain, net = quantised()
    trained = as_trainable(net, plain.net)
    with torch.no_grad():
        assert torch.equal(trained(images(1)), net(images(1)))
    again = as_stored(trained)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_what_is_stored_computes_what_the_last_forward_did() -> None:
    plain, net = quantised()
    trained = as_trainable(net, plain.net)
    before = {name: parameter.detach().clone() for name, parameter in trained.named_parameters()}
    taken_steps(trained)
    # All that can be learnt was: without a dictionary there are no rows.
    still = {
        name
        for name, parameter in trained.named_parameters()
        if torch.equal(parameter, before[name]) and len(parameter.view(-1))
    }
    assert still == set()
    stored = as_stored(trained)
    with torch.no_grad():
        given = trained(images(1))
        assert torch.equal(stored(images(1)), given)
        assert not torch.equal(net(images(1)), given)
    kinds = {type(part) for part in stored.modules()}
    assert {Int8Conv2d, Round8} <= kinds
    assert not {TrainableInt8Conv2d, TrainableRound8, LearntGrid} & kinds
    for part in stored.modules():
        if isinstance(part, Int8Conv2d):
            part.factors.check(part.geometry)


def test_what_is_pruned_stays_so() -> None:
    plain, net = quantised()
    trained = as_trainable(net, plain.net)
    taken_steps(trained, 20)
    stored = as_stored(trained)
    for name in ("lookup", "sparse", "grouped"):
        known, made = plain.net.get_submodule(name), stored.get_submodule(name)
        assert not bool(made.weight[~known.support].any())
        assert not torch.equal(made.weight, net.get_submodule(name).weight)
    # What rounding makes a zero may become something else again.
    pairs = [
        (stored.get_submodule(name).weight, net.get_submodule(name).weight) for name in ("dense", "skip", "planes", "rows")
    ]
    assert any(bool((weight[began == 0] != 0).any()) for weight, began in pairs)


def test_what_shares_a_grid_goes_on_sharing_it() -> None:
    plain, net = quantised()
    trained = as_trainable(net, plain.net)
    taken_steps(trained)
    stored = as_stored(trained)
    roundings = {name: part.grid for name, part in stored.named_modules() if isinstance(part, Round8)}
    # The lookup layer is called twice, so that its inputs share; what is concatenated does.
    assert roundings["round8_relu"] == roundings["round8_relu_1"]
    assert roundings["round8_lookup_1"] == roundings["round8_clamp"]
    assert len({grid.scale for grid in roundings.values()}) == len(roundings) - 2
    layers = {name: part for name, part in stored.named_modules() if isinstance(part, Int8Conv2d)}
    assert float(layers["lookup"].input_scale) == roundings["round8_relu"].scale
    assert float(layers["lowrank"].input_scale) == roundings["round8_clamp"].scale


def test_gradients_are_those_of_the_formulas() -> None:
    """Of weights those of a convolution; of scales (q - w / s), and +-127 where a weight is out of range (Esser et al.)."""
    weight = torch.tensor([[10, -127, 100], [0, 5, 20]], dtype=torch.int8)[:, :, None, None]
    scale, x = torch.tensor([0.5, 0.1]), torch.tensor([[2.0, -3.0, 1.0]])[:, :, None, None]
    none = torch.zeros(0, 3, dtype=torch.int8)
    factors = Int8Factors(weight, scale, torch.tensor([1.0, 2.0]), none, torch.zeros(0))
    layer = TrainableInt8Conv2d(
        Int8Conv2d(factors, ConvGeometry((1, 1)), Grid(0.5, 100)), torch.ones_like(weight, dtype=torch.bool),
        LearntGrid(Round8(Grid(0.5, 100))),
    )  # fmt: skip
    with torch.no_grad():  # 10.25, -130 and 99.6 whole steps
        layer.weight[0] = torch.tensor([10.25, -130.0, 99.6])[:, None, None] / 127
    y = layer(x.requires_grad_())
    torch.testing.assert_close(y.flatten(), torch.tensor([1 + 0.5 * (20 + 381 + 100), 2 + 0.1 * (-15 + 20)]))
    y.backward(torch.tensor([[1.0, 10.0]])[:, :, None, None])
    torch.testing.assert_close(x.grad.flatten(), torch.tensor([5.0 + 0, -63.5 + 5.0, 50.0 + 20.0]))
    unit = 127 * scale[:, None]
    # The second weight is out of range.
    torch.testing.assert_close(layer.weight.grad.flatten(1), unit * torch.tensor([[2.0, 0.0, 1.0], [20.0, -30.0, 10.0]]))
    # As the scale is start * exp(change), its gradient is that of the scale times the scale.
    expected = torch.tensor([0.5 * (2.0 * (10 - 10.25) - 3.0 * -127 + 1.0 * (100 - 99.6)), 0.0])
    torch.testing.assert_close(layer.weight_scale.change.grad, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bias_change.grad, torch.tensor([1.0, 10.0]) * layer.bias_unit)
    # That of the input is no concern of the layer: what was rounded to it has its gradient.
    assert layer.grid.change.grad is None


def test_a_finer_step_of_the_responses_changes_rounding_only() -> None:
    plain, net = quantised()
    trained = as_trainable(net, plain.net)
    layer = trained.get_submodule("lookup")
    x = trained.get_submodule("round8_relu")(images(2).relu())
    with torch.no_grad():
        before = layer(x)
        layer.step.change.fill_(0.05)
        after = layer(x)
    assert 0 < float((after - before).square().mean() / before.var()) < 1e-3


def test_mixed_precision_leaves_whole_numbers_alone() -> None:
    plain, net = quantised()
    trained = as_trainable(net, plain.net)
    part, x = trained.get_submodule("dense"), trained.get_submodule("round8_x")(images(3))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = part(x.bfloat16().float())
        assert mixed.dtype == torch.float32
        assert trained.get_submodule("round8_x")(images(3).bfloat16()).dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(mixed, part(x.bfloat16().float()))


def test_a_filter_without_weights_learns_its_bias_like_the_others() -> None:
    captured = Captured.of(capture(small_net(), torch.zeros(1, 3, 16, 16)), (1, 3, 16, 16))
    plain = finished(captured.net, "float32")
    with torch.no_grad():
        plain.get_submodule("conv1").weight[3] = 0
    given = torch.rand(8, 3, 16, 16)
    net = quantise(Captured.of(plain, (1, 3, 16, 16)), ["conv1", "conv2"], [given])
    assert float(net.get_submodule("conv1").weight_scale[3]) == 1.0
    assert float(as_trainable(net, plain).get_submodule("conv1").bias_unit) < 100

"""refit: exact cases, every geometry, errors that never grow."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from flattened import PLANE, planes
from torch import Tensor, fx, nn

from lcnn_compress import api
from lcnn_compress.compression.plan import PlanSettings
from lcnn_compress.compression.refit import refit
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.errors import DataError
from lcnn_compress.forms.dictionary import factorise
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.pattern import largest
from lcnn_compress.net.capture import capture
from lcnn_compress.operators.geometry import ConvGeometry

pytestmark = pytest.mark.usefixtures("one_thread")


def test_refit_lowers_the_error_of_the_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(160, 12)).eval()
    dense = capture(model, torch.zeros(PLANE))
    settings = CompressSettings(PlanSettings("3=2", 1, only=("3",)), measure=False)
    net = api.compress(api.open_model(model, PLANE), settings=settings).net
    x = planes(800)
    with torch.no_grad():
        start = float((net(x) - dense(x)).norm())
        before, after = refit(net, dense, [x])["3"]
        end = float((net(x) - dense(x)).norm())
    assert end < 0.99 * start
    assert after / before == pytest.approx(end / start, rel=1e-5)


@dataclass(frozen=True)
class Case:
    """One dense convolution, its zero padding (top, left, bottom, right) and input size."""

    c_in: int = 6
    c_out: int = 8
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    size: tuple[int, int] = (7, 6)

    @property
    def geometry(self) -> ConvGeometry:
        return ConvGeometry(self.kernel, self.stride, self.padding, self.dilation, self.groups)


CASES = [
    Case(),
    Case(groups=2),
    Case(stride=(2, 1), kernel=(3, 2), padding=(1, 0, 1, 0)),
    Case(dilation=(2, 1), padding=(2, 1, 2, 1)),
    Case(kernel=(1, 1), padding=(0, 0, 0, 0), stride=(2, 2)),
    Case(padding=(0, 1, 2, 3), kernel=(2, 3)),  # needs a padding module before the dense convolution
]


def dense_conv(case: Case, seed: int = 0) -> nn.Module:
    """A Conv2d called ``layer``, after a padding module where its own padding cannot express the case."""
    torch.manual_seed(seed)
    top, left, bottom, right = case.padding
    symmetric = (top, left) == (bottom, right)
    own = (top, left) if symmetric else (0, 0)
    layer = nn.Conv2d(case.c_in, case.c_out, case.kernel, case.stride, own, case.dilation, case.groups)
    net = nn.Sequential()
    if not symmetric:
        net.add_module("pad", nn.ZeroPad2d((left, right, top, bottom)))
    net.add_module("layer", layer)
    return net.eval()


def lookup_of(weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, *, k: int, lookups: int) -> LookupConv2d:
    factors = factorise(
        weight.detach().numpy(), groups=geometry.groups, dictionary_size=k, lookups=lookups, init="kmeans", seed=0
    )
    return LookupConv2d(*map(torch.from_numpy, factors), bias, geometry)


def lookup_net(dense: nn.Module, case: Case, *, k: int, lookups: int) -> nn.Module:
    layer = dense.get_submodule("layer")
    assert isinstance(layer, nn.Conv2d)
    net = nn.Sequential()
    net.add_module("layer", lookup_of(layer.weight, layer.bias, case.geometry, k=k, lookups=lookups))
    return net.eval()


def images(case: Case, *, n: int = 24, n_batches: int = 2, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, case.c_in, *case.size, generator=generator) + 0.3 for _ in range(n_batches)]


class Tracer(fx.Tracer):
    """Lookup convolutions are layers like any other."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, LookupConv2d) or super().is_leaf_module(module, name)


def graph(net: nn.Module) -> fx.GraphModule:
    """The net as a graph of the same modules."""
    return fx.GraphModule(net, Tracer().trace(net))


@torch.no_grad()
def output_error(net: nn.Module, dense: nn.Module, batches: Sequence[Tensor]) -> float:
    y = torch.cat([dense(x) for x in batches]).double()
    y_hat = torch.cat([net(x) for x in batches]).double()
    assert y.shape == y_hat.shape
    return float((y_hat - y).norm() / (y - y.mean((0, 2, 3), keepdim=True)).norm())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_error_falls_and_is_the_error_of_the_outputs(case: Case) -> None:
    dense = dense_conv(case)
    net = lookup_net(dense, case, k=3, lookups=2)
    before = copy.deepcopy(net)
    batches = images(case)
    errors = refit(graph(net), dense, batches)
    # SAMPLES is more than all positions here, so the report is about every output; moments are float64, outputs float32.
    assert errors["layer"] == pytest.approx((output_error(before, dense, batches), output_error(net, dense, batches)), rel=1e-5)
    assert errors["layer"][1] < 0.99 * errors["layer"][0]
    assert torch.equal(net.get_submodule("layer").support, before.get_submodule("layer").support)
    assert torch.equal(net.get_submodule("layer").sparse_kernel != 0, before.get_submodule("layer").support)
    assert torch.equal(net.get_submodule("layer").dictionary, before.get_submodule("layer").dictionary)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_full_support_recovers_a_layer_that_can_be_written_exactly(case: Case) -> None:
    dense = dense_conv(case)
    k = case.c_in // case.groups
    net = lookup_net(dense, case, k=k, lookups=k)
    lookup = net.get_submodule("layer")
    assert isinstance(lookup, LookupConv2d)
    torch.manual_seed(2)
    with torch.no_grad():
        lookup.dictionary.copy_(torch.nn.init.orthogonal_(torch.empty(k, k)).repeat(case.groups, 1))
        lookup.sparse_kernel.copy_(torch.randn(lookup.sparse_kernel.shape))
        lookup.bias.fill_(5)
        lookup.support.fill_(True)
    before, after = refit(graph(net), dense, images(case, n=200, n_batches=1))["layer"]
    # Inputs are white with unit variance and D is orthonormal, so covariances are near the identity and the ridge of 1e-3
    # leaves about 1e-3 of each coefficient's error; 3e-3 allows for the smallest eigenvalue of a finite sample with borders.
    assert after < 3e-3 * before
    assert before > 1


def test_linear_layer() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential()
    dense.add_module("layer", nn.Linear(10, 7))
    linear = dense.get_submodule("layer")
    net = nn.Sequential()
    net.add_module("reshape", nn.Unflatten(1, (10, 1, 1)))
    lookup = lookup_of(linear.weight[:, :, None, None], linear.bias, ConvGeometry((1, 1)), k=4, lookups=1)
    net.add_module("layer", lookup)
    net.add_module("flatten", nn.Flatten())
    x = torch.randn(300, 10) @ torch.randn(10, 10)  # correlated, or weight space would be as good
    with torch.no_grad():
        start = float((net(x) - dense(x)).norm())
        before, after = refit(graph(net), dense, [x])["layer"]
        end = float((net(x) - dense(x)).norm())
    assert end < 0.99 * start
    assert after / before == pytest.approx(end / start, rel=1e-5)


def test_dense_origin_may_be_a_lookup_convolution() -> None:
    case = Case()
    origin = lookup_net(dense_conv(case), case, k=5, lookups=5)
    layer = origin.get_submodule("layer")
    assert isinstance(layer, LookupConv2d)
    net = nn.Sequential()
    net.add_module("layer", lookup_of(layer.weight(), layer.bias, case.geometry, k=3, lookups=1))
    before, after = refit(graph(net), origin, images(case))["layer"]
    assert after < before


def test_sampled_positions_and_several_parts_give_nearly_the_same() -> None:
    case = Case(size=(16, 16))
    dense = dense_conv(case)
    batches = images(case, n=60)
    whole, sampled = (lookup_net(dense, case, k=3, lookups=1) for _ in range(2))
    refit(graph(whole), dense, batches)
    refit(graph(sampled), dense, batches, samples=6000)  # 50 of 256 positions of each image, of 40 and 20 images at a time
    # 6000 samples for 9 unknowns of a filter: excess error of about 9 / 6000 of the squared error.
    assert output_error(sampled, dense, batches) <= 1.01 * output_error(whole, dense, batches)


def two_layers() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3)).eval()
    net = copy.deepcopy(dense)
    for i in (0, 2):
        conv = dense[i]
        assert isinstance(conv, nn.Conv2d)
        net[i] = lookup_of(conv.weight, conv.bias, ConvGeometry((3, 3)), k=2, lookups=1)
    return dense, net


def test_layers_that_do_not_fit_in_memory_together_get_their_own_pass() -> None:
    dense, net = two_layers()
    separate = copy.deepcopy(net)
    batches = [torch.randn(8, 4, 9, 9) for _ in range(3)]
    seen: list[tuple[str, int, int]] = []
    expected = refit(graph(net), dense, batches, lambda *step: seen.append(step))
    assert seen == [("refitting", i, 9) for i in range(10)]  # 3 batches: the dense net, then as far as each layer
    seen.clear()
    assert refit(graph(separate), dense, batches, lambda *step: seen.append(step), pass_bytes=1) == expected
    assert seen == [("refitting", i, 12) for i in range(13)]
    for name, tensor in net.state_dict().items():
        assert torch.equal(separate.state_dict()[name], tensor)


def test_no_part_of_the_net_is_run_for_every_layer_behind_it() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(5))).eval()
    net = nn.Sequential(
        *(lookup_of(c.weight, c.bias, ConvGeometry((3, 3), padding=(1, 1, 1, 1)), k=2, lookups=1) for c in dense)
    )
    again, ran = copy.deepcopy(net), [0]
    batches = [torch.randn(8, 4, 9, 9) for _ in range(3)]
    handle = net[0].register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
    expected = refit(graph(net), dense, batches)
    handle.remove()
    assert ran[0] == len(batches) + 1  # and once to find the layers
    assert refit(graph(again), dense, batches, pass_bytes=1) == expected  # where nothing is kept it only takes longer
    assert all(torch.equal(x, y) for x, y in zip(net.parameters(), again.parameters(), strict=True))


def test_modes_are_restored_and_dropout_is_off() -> None:
    dense, net = two_layers()
    dense.append(nn.Dropout(0.5)).train()
    batches = [torch.randn(8, 4, 9, 9)]
    again = copy.deepcopy(net)
    assert refit(graph(net), dense, batches) == refit(graph(again), dense, batches)
    assert dense.training
    assert not dense[2]._forward_hooks


def test_a_second_refit_does_not_make_a_layer_worse_whose_input_is_the_same() -> None:
    dense, net = two_layers()
    batches = [torch.randn(8, 4, 9, 9)]
    first, second = refit(graph(net), dense, batches), refit(graph(net), dense, batches)
    assert second["0"][0] == pytest.approx(first["0"][1], rel=1e-12)
    assert second["0"][1] <= second["0"][0]


def test_later_layers_are_solved_on_the_inputs_they_will_get() -> None:
    dense, net = two_layers()
    batches = [torch.randn(40, 4, 9, 9)]
    errors = refit(graph(net), dense, batches)
    # The second layer is the last, so its error is that of the whole net; moments are float64, outputs float32.
    assert errors["2"][1] == pytest.approx(output_error(net, dense, batches), rel=1e-5)
    alone = copy.deepcopy(net)
    alone[2] = copy.deepcopy(two_layers()[1][2])
    alone[0] = dense[0]
    refit(graph(alone), dense, batches)  # the second layer on what the dense first layer gives
    alone[0] = net[0]
    assert output_error(net, dense, batches) < 0.98 * output_error(alone, dense, batches)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_data_choose_a_better_pattern_than_magnitudes(case: Case) -> None:
    dense = dense_conv(case)
    k = case.c_in // case.groups
    by_magnitude, by_data = (lookup_net(dense, case, k=k, lookups=k) for _ in range(2))
    lookup = by_magnitude.get_submodule("layer")
    assert isinstance(lookup, LookupConv2d)
    target = lookup.n_nonzeros // 4
    lookup.restrict_(largest(lookup.sparse_kernel.detach().abs(), target))
    torch.manual_seed(3)
    mix = torch.randn(case.c_in, case.c_in)
    batches = [torch.einsum("dc,nchw->ndhw", mix, x) for x in images(case, n=100)]  # correlated channels of unequal size
    refit(graph(by_magnitude), dense, batches)
    refit(graph(by_data), dense, batches, targets={"layer": target})
    assert by_data.get_submodule("layer").n_nonzeros == target
    assert output_error(by_data, dense, batches) < 0.9 * output_error(by_magnitude, dense, batches)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_rank_deficient_data_does_not_blow_up(scale: float) -> None:
    case = Case()
    dense = dense_conv(case)
    net = lookup_net(dense, case, k=6, lookups=6)
    weights = net.get_submodule("layer").sparse_kernel.detach().clone()
    batches = [scale * torch.ones(2, case.c_in, *case.size)]  # 42 positions, nearly all alike, for 54 unknowns
    before, after = refit(graph(net), dense, batches)["layer"]
    assert after <= before
    change = (net.get_submodule("layer").sparse_kernel - weights).norm() / weights.norm()
    assert change < 0.1


def test_data_that_cannot_be_used() -> None:
    dense, net = two_layers()
    with pytest.raises(DataError, match="calibration data holds 0 images"):
        refit(graph(net), dense, [])
    x = torch.randn(2, 4, 9, 9)
    x[1, 2, 3, 4] = torch.nan
    with pytest.raises(DataError, match="0: activations of the dense net on the calibration data are not finite"):
        refit(graph(net), dense, [x])

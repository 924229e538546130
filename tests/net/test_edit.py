"""Layers replaced, batch norms folded, nets moved: the outputs stay."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from cases import tolerance
from flattened import FLATTENS, Flattened, planes, replaced
from nets import Coordinates, exact_lookup, oddities
from torch import nn

from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import fold_batch_norms, move, replace_layer
from lcnn_compress.net.layers import MAX_BARE_CHANNELS, layers

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_layer_can_be_replaced_by_its_exact_lookup_form():
    x = torch.randn(2, 3, 11, 10, generator=torch.Generator().manual_seed(1))
    model = oddities()
    net = capture(model, x)
    for layer in layers(net, x):
        replace_layer(net, layer, exact_lookup(layer))
    assert sum(isinstance(m, LookupConv2d) for m in net.modules()) == 5
    for got, want in zip(net(x), model(x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    for got, want in zip(net(x[:1]), model(x[:1]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    fold_batch_norms(net)
    left = [type(m) for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout))]
    assert left == [nn.BatchNorm1d]  # it follows a mean, not a layer
    for got, want in zip(net(x), model(x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lookup", [False, True])
def test_batch_norm_after_a_linear_layer_is_folded(lookup):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4, affine=False), nn.ReLU())
    model[1].running_mean.normal_()
    x = torch.randn(5, 6)
    net = capture(model, x)
    for layer in layers(net, x) if lookup else ():
        replace_layer(net, layer, exact_lookup(layer))
    fold_batch_norms(net)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in net.modules())
    torch.testing.assert_close(net(x), model.eval()(x))


def test_moves_with_what_the_graph_makes():
    x = torch.randn(2, 3, 8, 9)
    net = capture(Coordinates(), x)
    move(net, torch.device("meta"))
    assert net(x.to("meta")).device.type == "meta"  # mixing devices is an error


def test_replaced_layer_reads_the_planes_and_gives_the_same_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(160, 12)).eval()
    net = replaced(model, "2")
    assert [str(n.target) for n in net.graph.nodes if n.op == "call_module"] == ["0", "2"]
    assert not any("flatten" in str(node.target) for node in net.graph.nodes)
    x = planes()
    with torch.no_grad():
        allowed = tolerance(net.get_submodule("2"), model[0](x)).flatten(1)
        assert ((net(x) - model(x)).abs() <= allowed).all()


@pytest.mark.parametrize(("flatten", "dropout"), [*itertools.product(FLATTENS, (0.0, 0.5))])
def test_whole_net_is_the_same_with_full_rank_dictionaries(flatten: str, dropout: float) -> None:
    model = Flattened(flatten, dropout=dropout, norm=True).eval()
    model.norm.running_mean.normal_()
    net = replaced(model, "fc1", "fc2").double()  # sums of 160 float64 terms differ by far less than the 1e-7 allowed
    for _ in range(2):
        torch.testing.assert_close(net(planes().double()), copy.deepcopy(model).double()(planes().double()))
        fold_batch_norms(net)
    assert not any(isinstance(m, (nn.Dropout, nn.BatchNorm1d)) for m in net.modules())


def test_dropout_still_drops_in_training() -> None:
    net = replaced(Flattened(dropout=0.5), "fc1").train()
    assert not torch.equal(net(planes()), net(planes()))


@pytest.mark.parametrize("channels", [MAX_BARE_CHANNELS, 8])
def test_input_of_another_size_is_refused_as_before(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.Flatten(), nn.Linear(20 * channels, 12)).eval()
    for net in (model, replaced(model, "2")):
        assert net(planes()).shape == (3, 12)
        with pytest.raises(RuntimeError):
            net(torch.zeros(1, 3, 8, 10))  # four times the plane

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


class Normalised(nn.Module):
    """A layer, and a batch norm over one of the axes that its outputs have afterwards."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.linear = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 16)
        self.norm2d, self.norm1d, self.norm3d = nn.BatchNorm2d(16), nn.BatchNorm1d(16), nn.BatchNorm3d(16)
        for norm in (self.norm2d, self.norm1d, self.norm3d):
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), nn.init.uniform_(norm.weight, 0.5, 2)

    def forward(self, x):
        f, tokens = self.conv(x), self.linear(x.flatten(2).transpose(1, 2)[:, :16])
        match self.kind:
            case "planes":
                return self.norm2d(f)
            case "flattened planes":
                return self.norm1d(f.flatten(2))
            case "rows":
                return self.norm1d(self.linear(x.mean((2, 3))))
            case "tokens":
                return self.norm1d(tokens)  # over 16 tokens of 16 features
            case "features of tokens":
                return self.norm1d(tokens.transpose(1, 2))
            case "permuted planes":
                return self.norm2d(f.transpose(1, 2))
            case "pixels as rows":
                return self.norm1d(f.permute(0, 2, 3, 1).reshape(-1, 16))
            case "volumes":
                return self.norm3d(f.unsqueeze(2))
            case "one row of planes":
                return self.norm1d(f.mean((2, 3)))
        raise AssertionError


@pytest.mark.parametrize(("kind", "folds"), [
    ("planes", True), ("flattened planes", True), ("rows", True), ("tokens", False), ("features of tokens", False),
    ("permuted planes", False), ("pixels as rows", False), ("volumes", False), ("one row of planes", False),
])  # fmt: skip
@pytest.mark.parametrize("lookup", [False, True])
def test_a_batch_norm_is_folded_only_if_it_normalises_the_outputs_of_the_layer(kind: str, folds: bool, lookup: bool) -> None:
    torch.manual_seed(0)
    model = Normalised(kind).eval()
    x = torch.randn(2, 16, 16, 16)
    net = capture(model, x)
    if lookup:
        for layer in layers(net, x):
            replace_layer(net, layer, exact_lookup(layer))
    fold_batch_norms(net)
    left = [n for n in net.graph.nodes if "norm" in str(n.target)]
    assert bool(left) != folds
    torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-4)

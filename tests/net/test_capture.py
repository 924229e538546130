"""Captured nets: same outputs, same names, batch norms folded, layers replaced, written as JSON."""

from __future__ import annotations

import json
import signal
import time

import pytest
import torch
from cases import small_net
from torch import nn
from torch.nn import functional

from lcnn_compress.artefact import graph_json
from lcnn_compress.errors import ArtefactError, ModelError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture, from_program
from lcnn_compress.net.edit import fold_batch_norms, move, replace_layer
from lcnn_compress.net.layers import layers


class Oddities(nn.Module):
    """What real nets do: same padding, functional calls, a shared layer, separate padding, 3-d linear, two outputs."""

    def __init__(self):
        super().__init__()
        self.same = nn.Conv2d(3, 8, (4, 3), padding="same")
        self.shared = nn.Conv2d(8, 8, 3, padding=1, dilation=1)
        self.strided = nn.Conv2d(8, 6, 3, stride=2, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.tokens = nn.Linear(6, 4)
        self.norm1 = nn.BatchNorm1d(4)
        self.weight = nn.Parameter(torch.randn(5, 6, 1, 1))

    def forward(self, x):
        x = functional.relu_(self.same(x))
        x = self.shared(functional.dropout(self.shared(x), training=self.training))
        x = functional.hardswish(self.norm(self.strided(functional.pad(x, (0, 1, 1, 2)))))
        tokens = self.tokens(x.flatten(2).transpose(1, 2))
        return self.norm1(tokens.mean(1)), functional.conv2d(x, self.weight)


class Coordinates(nn.Module):
    """Makes tensors of its own, which torch.export nails to a device."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.offset = torch.randn(8, 1, 1)  # neither a parameter nor a buffer

    def forward(self, x):
        x = self.conv(x)
        return x * torch.arange(x.shape[3], device=x.device) + torch.ones(8, 1, 1) + self.offset


def oddities() -> Oddities:
    torch.manual_seed(0)
    net = Oddities().eval()
    net.norm.running_mean.normal_()
    net.norm1.running_var.uniform_(0.5, 2)
    return net


def lookup_of(layer) -> LookupConv2d:
    """An exact lookup form of a layer: the identity as dictionary."""
    weight = layer.weight().detach()
    groups, m = layer.geometry.groups, weight.shape[1]
    return LookupConv2d(torch.eye(m).repeat(groups, 1), weight, layer.module.bias, layer.geometry)


@pytest.fixture(scope="module")
def captured():
    x = torch.randn(2, 3, 11, 10, generator=torch.Generator().manual_seed(1))
    model = oddities()
    return model, capture(model, x), x


class Attention(nn.Module):
    """Weights that are not called "weight", in modules that have modules of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 5)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.owner = nn.Sequential(nn.Linear(16, 16))
        self.owner.weight = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.owner(nn.functional.linear(x, self.owner.weight)).mean(1))


def test_layers_of_attention_are_found_beside_each_other() -> None:
    model = Attention().eval()
    net = capture(model, torch.zeros(1, 3, 16, 16))
    names = [layer.name for layer in layers(net, torch.zeros(1, 3, 16, 16))]
    inside = [f"block.{name}" for name in ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")]
    assert names == ["patches", *inside, "owner.linear", "owner.0", "head"]
    tokens = [len(layer.sizes) for layer in layers(net, torch.zeros(1, 3, 16, 16))]  # attention puts them before the batch
    assert tokens == [1, 16, 16, 16, 16, 16, 16, 1]
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-5)


def test_capture_keeps_outputs_names_and_the_callers_model(captured):
    model, net, x = captured
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for got, want in zip(net(x), model(x), strict=True):
        assert torch.equal(got, want)
    names = {layer.name for layer in layers(net, x)}
    assert {"same", "shared", "strided", "tokens"} <= names
    assert len(names) == 5
    net_parameter = net.get_submodule("same").weight
    with torch.no_grad():
        net_parameter.add_(1).sub_(1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_geometry_includes_all_zero_padding(captured):
    _, net, x = captured
    found = {layer.name: layer for layer in layers(net, x)}
    assert found["same"].geometry.padding == (1, 1, 2, 1)
    assert found["strided"].geometry.padding == (1, 0, 2, 1)
    assert found["strided"].sizes == ((11, 10),)
    assert found["shared"].sizes == ((11, 10), (11, 10))
    assert found["tokens"].dense_macs == 6 * 4 * 30


def test_every_layer_can_be_replaced_by_its_exact_lookup_form():
    x = torch.randn(2, 3, 11, 10, generator=torch.Generator().manual_seed(1))
    model = oddities()
    net = capture(model, x)
    for layer in layers(net, x):
        replace_layer(net, layer, lookup_of(layer))
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
        replace_layer(net, layer, lookup_of(layer))
    fold_batch_norms(net)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in net.modules())
    torch.testing.assert_close(net(x), model.eval()(x))


def test_other_heights_and_widths_run_where_the_model_allows():
    model = small_net()
    net = capture(model, torch.zeros(1, 3, 16, 16))
    for shape in ((1, 3, 16, 16), (5, 3, 9, 31)):
        x = torch.randn(shape)
        torch.testing.assert_close(net(x), model(x))


def test_program_is_taken_like_a_module():
    model = small_net()
    x = torch.randn(2, 3, 16, 16)
    net = from_program(torch.export.export(model, (x,)))
    torch.testing.assert_close(net(x), model(x))
    assert [layer.name for layer in layers(net, x)] == ["stem", "conv1", "conv2", "fc"]


def test_training_mode_uses_batch_statistics_again():
    net = capture(small_net(), torch.zeros(2, 3, 16, 16))
    before = net.get_submodule("bn").running_mean.clone()
    net.train()(torch.randn(4, 3, 16, 16))
    assert not torch.equal(net.get_submodule("bn").running_mean, before)


def test_json_round_trip_keeps_every_bit():
    x = torch.randn(2, 3, 11, 10, generator=torch.Generator().manual_seed(1))
    net = capture(oddities(), x)
    for layer in layers(net, x):
        if layer.name in ("shared", "tokens"):
            replace_layer(net, layer, lookup_of(layer))
    values, tensors = graph_json.to_json(net)
    again = graph_json.from_json(json.loads(json.dumps(values)), tensors, "here")
    for got, want in zip(again(x), net(x), strict=True):
        assert torch.equal(got, want)
    assert graph_json.to_json(again)[0] == values


@pytest.mark.parametrize(
    "target", ["operator.methodcaller", "os.system", "builtins.eval", "aten.no_such.default", "aten.relu.x.y"]
)
def test_only_known_functions_can_be_read(target):
    values, tensors = graph_json.to_json(capture(small_net(), torch.zeros(2, 3, 16, 16)))
    call = next(n for n in values["nodes"] if n["op"] == "call_function")
    call["target"] = target
    with pytest.raises(ArtefactError, match="here"):
        graph_json.from_json(values, tensors, "here")


def test_missing_or_misshapen_tensors_are_refused():
    values, tensors = graph_json.to_json(capture(small_net(), torch.zeros(2, 3, 16, 16)))
    with pytest.raises(ArtefactError, match=r"'conv1\.weight' is missing"):
        graph_json.from_json(values, {k: v for k, v in tensors.items() if k != "conv1.weight"}, "here")
    with pytest.raises(ArtefactError, match="size mismatch"):
        graph_json.from_json(values, tensors | {"conv1.weight": torch.zeros(1, 2, 3, 3)}, "here")


def test_models_that_cannot_be_captured_say_why():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class TwoInputs(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(ModelError, match="cannot be captured for an input of"):
        capture(Branching(), torch.zeros(2, 3, 4, 4))
    program = torch.export.export(TwoInputs(), (torch.zeros(2), torch.zeros(2)))
    with pytest.raises(ModelError, match="takes 2 inputs"):
        from_program(program)
    with pytest.raises(ModelError, match=r"does not run on an input of \(1, 4, 16, 16\)"):
        layers(capture(small_net(), torch.zeros(2, 3, 16, 16)), torch.zeros(1, 4, 16, 16))


def test_sizes_that_take_forever_to_keep_open_are_fixed(monkeypatch):
    class Pondering(nn.Module):
        """As MobileViTv2, whose formulas for open sizes grow with every layer."""

        def forward(self, x):
            stop = time.monotonic() + 20
            while isinstance(x.shape[2], torch.SymInt) and time.monotonic() < stop:
                pass
            return 2 * x

    monkeypatch.setattr("lcnn_compress.net.capture.MAX_SECONDS", 0.3)
    net = capture(Pondering(), torch.zeros(1, 3, 8, 8))
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    shape = next(node for node in net.graph.nodes if node.op == "placeholder").meta["val"].shape
    assert shape[1:] == (3, 8, 8)
    assert net(torch.ones(5, 3, 8, 8)).tolist() == torch.full((5, 3, 8, 8), 2.0).tolist()


class Standardised(nn.Conv2d):
    """Weight standardisation, Qiao et al. 2019."""

    def forward(self, x):
        var, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        return functional.conv2d(x, (self.weight - mean) / (var + 1e-5).sqrt(), self.bias, padding=self.padding)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_weights_computed_from_parameters_are_layers():
    torch.manual_seed(0)
    norms = nn.utils.parametrizations
    model = nn.Sequential(
        norms.weight_norm(nn.Conv2d(3, 16, 3, padding=1)), nn.ReLU(), nn.utils.weight_norm(nn.Conv2d(16, 12, 3)),
        norms.spectral_norm(nn.Conv2d(12, 16, 3, stride=2)), Standardised(16, 24, 3, padding=1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), norms.spectral_norm(nn.Linear(24, 10)),
    )  # fmt: skip
    x = torch.randn(2, 3, 16, 16)
    model(x)  # a spectral norm is estimated in training
    net = capture(model, x)
    assert [layer.name for layer in layers(net, x)] == ["0", "2", "3", "4", "7"]
    assert sorted(net.state_dict()) == sorted(f"{name}.{leaf}" for name in (0, 2, 3, 4, 7) for leaf in ("weight", "bias"))
    torch.testing.assert_close(net(x), model.eval()(x))


class Functional(nn.Module):
    """A convolution as a function of tensors under any name, some of them read elsewhere too, as in timm's BlurPool."""

    def __init__(self, weight, gain, repeated=1):
        super().__init__()
        self.names = weight, gain
        self.repeated = repeated
        setattr(self, weight, nn.Parameter(torch.randn(4, 4, 3, 3)))
        if gain:
            setattr(self, gain, nn.Parameter(torch.rand(4)))

    def forward(self, x):
        weight, gain = (getattr(self, name) if name else None for name in self.names)
        for _ in range(self.repeated):
            x = functional.conv2d(x, weight, gain if self.names[1] == "bias" else None, padding=1)
        return x if gain is None else x * gain[:, None, None]


def test_functional_convolutions_keep_what_else_is_read():
    torch.manual_seed(0)
    model = nn.Sequential(
        Functional("filt", ""), Functional("kernel", "gain"), Functional("weight", "gain"), Functional("kernel", "", 2),
        Functional("kernel", "bias"), Functional("weight", "bias"),
    )  # fmt: skip
    x = torch.randn(2, 4, 8, 8)
    net = capture(model, x)
    assert [layer.name for layer in layers(net, x)] == ["0", "1.conv2d", "2.conv2d", "3.conv2d", "4", "5"]
    assert [len(layer.sizes) for layer in layers(net, x)] == [1, 1, 1, 2, 1, 1]
    torch.testing.assert_close(net(x), model(x))


class CrossAttention(nn.Module):
    """Weights of queries, keys and values are parts of one tensor where queries are not what is asked."""

    def __init__(self):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 32, 4, 4), nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.attention(tokens[:, :5], tokens, tokens, need_weights=False)[0]


def test_parts_of_one_weight_are_layers_of_their_own():
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = CrossAttention()
    net = capture(model, x)
    names = ["patches", "attention.linear", "attention.linear_2", "attention.out_proj"]
    assert [layer.name for layer in layers(net, x)] == names
    torch.testing.assert_close(net(x), model(x))


class ClassToken(nn.Module):
    """Asks for the number of images by ``len``, which one of torch's tracers takes for a constant, before an encoder."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 1, 16))
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.encoder(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1))[:, 0]


def test_a_net_that_asks_for_the_length_of_its_batch_takes_any():
    model, fused = ClassToken(), torch.backends.mha.get_fastpath_enabled()
    net = capture(model, torch.zeros(1, 3, 16, 16))
    assert torch.backends.mha.get_fastpath_enabled() == fused
    parts = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    names = [layer.name for layer in layers(net, torch.zeros(1, 3, 16, 16))]
    assert names == ["patches", *(f"encoder.layers.{i}.{part}" for i in range(2) for part in parts)]
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net(x), model.eval()(x), rtol=1e-4, atol=1e-5)


class Noisy(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(x, self.weight + torch.randn_like(self.weight), self.bias)


def test_random_weights_stay_random():
    x = torch.randn(2, 3, 8, 8)
    net = capture(Noisy(3, 8, 3), x)
    assert layers(net, x) == []
    assert not torch.equal(net(x), net(x))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_is_not_zeros_is_done_before_the_layer(mode):
    x = torch.randn(2, 3, 11, 10)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=(1, 2), padding_mode=mode), nn.ConstantPad2d(1, 0.5), nn.Conv2d(8, 4, 3))
    net = capture(model, x)
    for layer in layers(net, x):
        assert (layer.obstacle, layer.geometry.padding) == (None, (0, 0, 0, 0))
        replace_layer(net, layer, lookup_of(layer))
    torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-5)


def test_moves_with_what_the_graph_makes():
    x = torch.randn(2, 3, 8, 9)
    net = capture(Coordinates(), x)
    move(net, torch.device("meta"))
    assert net(x.to("meta")).device.type == "meta"  # mixing devices is an error


def test_takes_a_program_of_another_device():
    x, model = torch.randn(2, 3, 8, 9), Coordinates()
    program = torch.export.export(model, (x,))
    for node in program.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda")}
    program.graph_module.recompile()
    assert "device(type='cuda')" in program.graph_module.code
    torch.testing.assert_close(from_program(program)(x), model(x))

"""Captured nets: same outputs, same names, any batch and size that the model takes."""

from __future__ import annotations

import signal
import time

import pytest
import torch
from cases import small_net
from nets import Coordinates
from torch import nn
from torch.nn import functional

from lcnn_compress.errors import ModelError
from lcnn_compress.net.capture import capture, from_program
from lcnn_compress.net.layers import layers


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


def test_sizes_that_take_forever_to_keep_open_are_fixed():
    class Pondering(nn.Module):
        """As MobileViTv2, whose formulas for open sizes grow with every layer."""

        def forward(self, x):
            stop = time.monotonic() + 20
            while isinstance(x.shape[2], torch.SymInt) and time.monotonic() < stop:
                pass
            return 2 * x

    net = capture(Pondering(), torch.zeros(1, 3, 8, 8), max_seconds=0.3)
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


def test_nets_that_draw_random_numbers_are_refused():
    class AlwaysDropping(nn.Module):
        def forward(self, x):
            return functional.dropout(x)  # whose training flag is True by default

    with pytest.raises(ModelError, match=r"'aten\.randn_like\.default' draws random numbers"):
        capture(Noisy(3, 8, 3), torch.randn(2, 3, 8, 8))
    with pytest.raises(ModelError, match=r"'aten\.dropout\.default' draws random numbers.*training=self\.training"):
        capture(AlwaysDropping(), torch.randn(2, 3, 8, 8))


def test_takes_a_program_of_another_device():
    x, model = torch.randn(2, 3, 8, 9), Coordinates()
    program = torch.export.export(model, (x,))
    for node in program.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda")}
    program.graph_module.recompile()
    assert "device(type='cuda')" in program.graph_module.code
    torch.testing.assert_close(from_program(program)(x), model(x))

"""Nets in 8 bits: what they give beside what they gave, and what cannot be done."""

from __future__ import annotations

import pytest
import torch
from flattened import PLANE, flattened_artefact
from nets import exact_lookup
from torch import nn
from torch.nn import functional

from lcnn_compress import zoo
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.int8 import Int8Conv2d, Round8
from lcnn_compress.forms.kinds import LOOKUP, SPARSE
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import finished, with_lookups
from lcnn_compress.net.layers import Captured
from lcnn_compress.quantisation import quantise as module
from lcnn_compress.quantisation.quantise import quantise, reason_against


def captured_of(model: nn.Module, shape: tuple[int, ...]) -> Captured:
    return Captured.of(finished(capture(model.eval(), torch.zeros(shape)), "float32"), shape)


def images(shape: tuple[int, ...], count: int = 16, seed: int = 0) -> list[torch.Tensor]:
    return list(torch.rand(count, *shape[1:], generator=torch.Generator().manual_seed(seed)).split(5))


def names_of(captured: Captured) -> list[str]:
    return [layer.name for layer in captured.layers if reason_against(captured, layer) is None]


class Mixed(nn.Module):
    """Groups, depthwise, stride, padding of its own, a concatenation, a sum, an average, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.wise = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped, self.one = nn.Conv2d(16, 24, 3, padding=1, groups=2), nn.Conv2d(16, 24, 1)
        self.last = nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(self.stem(x), (0, 1, 1, 0)).relu()
        x = self.wise(x).clamp(0, 6)
        x = torch.cat([self.grouped(x) + self.one(x), self.one(x).relu()], 1)
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "shape"), [(zoo.fashion_resnet, (1, 1, 28, 28)), (Mixed, (1, 3, 20, 22)), (zoo.demosaicnet, (1, 3, 24, 24))]
)
def test_outputs_stay_near(make, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    captured = captured_of(make(), shape)
    names = names_of(captured)
    assert names == [layer.name for layer in captured.layers]
    made = quantise(captured, names, images(shape))
    x = torch.cat(images(shape, 8, seed=1))
    with torch.no_grad():
        want, got = captured.net(x), made(x)
    assert 0 < float((got - want).square().mean() / want.var()) < 0.01
    assert {type(made.get_submodule(name)) for name in names} == {Int8Conv2d}
    # The net that was given is as it was.
    with torch.no_grad():
        assert torch.equal(captured.net(x), want)
    assert not any(isinstance(part, Round8) for part in captured.net.modules())


def test_lookups_have_their_dictionary_in_8_bits() -> None:
    shape = (1, 3, 12, 12)
    torch.manual_seed(0)
    captured = captured_of(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)), shape
    )
    lookup = exact_lookup(captured.layers[1])
    turned = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():  # another basis: the same weight
        lookup.dictionary.copy_(turned)
        lookup.sparse_kernel.copy_(torch.einsum("okrc,mk->omrc", lookup.sparse_kernel, turned))
    lookup.is_identity, lookup.kind = False, LOOKUP
    sparse = exact_lookup(captured.layers[2])
    sparse.kind = SPARSE
    mixed = Captured.of(with_lookups(captured, {"2": lookup, "4": sparse}), shape)
    made = quantise(mixed, ["0", "2", "4"], images(shape))
    layers = {name: made.get_submodule(name) for name in "024"}
    assert [layer.dictionary_size for layer in layers.values()] == [0, 16, 0]
    x = torch.cat(images(shape, seed=1))
    with torch.no_grad():
        want = captured.net(x)
        assert float((made(x) - want).square().mean() / want.var()) < 0.005
        # Each entry of S has a scale of its own: all of them use the range.
        s = layers["2"].responses(_input_of(made, x))
    assert float(s.abs().amax((0, 2, 3)).min()) > 60


def _input_of(net, x: torch.Tensor) -> torch.Tensor:
    """Return what layer 2 reads."""
    found = []
    handle = net.get_submodule("2").register_forward_pre_hook(lambda _, given: found.append(given[0]))
    net(x)
    handle.remove()
    return found[0]


def test_linear_layers_on_flattened_planes_are_convolutions() -> None:
    artefact = flattened_artefact()
    captured = Captured.of(artefact.net, PLANE)
    made = quantise(captured, names_of(captured), images(PLANE))
    x = torch.cat(images(PLANE, seed=1))
    with torch.no_grad():
        want = captured.net(x)
        assert made(x).shape == want.shape
        assert float((made(x) - want).square().mean() / want.var()) < 0.02


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(self.conv(x).flatten(2).transpose(1, 2))


def test_layers_on_tokens_stay_in_float32() -> None:
    captured = captured_of(Tokens(), (1, 3, 16, 16))
    assert [reason_against(captured, layer) for layer in captured.layers] == [None, "a linear layer on tokens"]
    made = quantise(captured, ["conv"], images((1, 3, 16, 16)))
    assert isinstance(made.get_submodule("mix"), nn.Linear)


def test_without_data_it_says_what_is_missing() -> None:
    captured = captured_of(zoo.fashion_resnet(), (1, 1, 28, 28))
    for batches in ([], [torch.zeros(0, 1, 28, 28)]):
        with pytest.raises(SettingsError, match="there is no calibration data; add `calib`"):
            quantise(captured, names_of(captured), batches)
    with pytest.raises(SettingsError, match="are not finite"):
        quantise(captured, names_of(captured), [torch.full((2, 1, 28, 28), float("nan"))])


def test_as_many_images_are_taken_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = captured_of(zoo.fashion_resnet(), (1, 1, 28, 28))
    widest = 4 * 32 * 28 * 28
    monkeypatch.setattr(module, "MAX_BYTES", 7 * widest)
    assert sum(map(len, module._few_images(captured, images((1, 1, 28, 28))))) == 7
    monkeypatch.setattr(module, "MAX_BYTES", 0)
    assert sum(map(len, module._few_images(captured, images((1, 1, 28, 28))))) == 1


def test_the_same_data_gives_the_same_net() -> None:
    captured = captured_of(zoo.fashion_resnet(), (1, 1, 28, 28))
    first, second = (quantise(captured, names_of(captured), images((1, 1, 28, 28))).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_net_that_is_only_timed_is_made_without_solving(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = captured_of(zoo.fashion_resnet(), (1, 1, 28, 28))
    forwards, moments, of = [], [], module._moments
    monkeypatch.setattr(module, "_moments", lambda *given: moments.append(given) or of(*given))
    judged = module.Outputs.error
    monkeypatch.setattr(module.Outputs, "error", lambda self, net: forwards.append(net) or judged(self, net))
    rough = quantise(captured, names_of(captured), images((1, 1, 28, 28)), rough=True)
    assert (len(forwards), len(moments)) == (1, 0)
    quantise(captured, names_of(captured), images((1, 1, 28, 28)))
    assert (len(forwards), len(moments)) == (1 + len(module.METHODS), len(captured.layers))
    assert {type(rough.get_submodule(name)) for name in names_of(captured)} == {Int8Conv2d}

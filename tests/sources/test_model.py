"""The net inside wrappers is found, and what is no net of one tensor is refused by what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_files import same, small_net
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lcnn_compress import api
from lcnn_compress.errors import ModelError
from lcnn_compress.sources.load_model import load_model
from lcnn_compress.sources.model import check_supported_module, unwrapped


def test_data_parallel_is_unwrapped(tmp_path: Path) -> None:
    torch.save(nn.DataParallel(nn.DataParallel(small_net())), tmp_path / "net.pt")
    loaded = load_model(str(tmp_path / "net.pt"))
    assert type(loaded.model) is nn.Sequential
    assert same(loaded.model, small_net())


@pytest.mark.parametrize(
    "wrapper", [torch.compile, nn.DataParallel, AveragedModel, lambda net: AveragedModel(torch.compile(net))]
)
def test_a_net_in_memory_is_unwrapped(wrapper: Callable[[nn.Module], nn.Module]) -> None:
    source = api.open_model(wrapper(small_net()), (1, 3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(source.net(x), small_net().eval()(x))
    assert source.origin.spec == "Sequential"


class Two(nn.Module):
    """Takes two tensors, or one and options."""

    def forward(self, x: Tensor, y: Tensor, *, scale: float = 1.0) -> Tensor:
        return scale * x + y


class Named(nn.Module):
    """Needs an option by name."""

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        return scale * x


class Nothing(nn.Module):
    """Takes nothing."""

    def forward(self) -> Tensor:
        return torch.zeros(1)


class Optional(nn.Module):
    """Takes one tensor, and others if they are given."""

    def forward(self, x: Tensor, mask: Tensor | None = None, **rest: Tensor) -> Tensor:  # noqa: ARG002
        return x if mask is None else x * mask


class Anything(nn.Module):
    """Passes on what it is given, as wrappers do."""

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:  # noqa: ARG002
        return args[0]


def exported() -> nn.Module:
    module: nn.Module = torch.export.export(small_net().eval(), (torch.zeros(1, 3, 8, 8),)).module()
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.trace(small_net().eval(), torch.zeros(1, 3, 8, 8)), "is a TorchScript module, which holds no"),
        (lambda: torch.jit.script(nn.ReLU()), "is a TorchScript module"),
        (exported, "is the module of an exported program, which refuses eval(); write the program with torch.export.save"),
        (Two, "takes 2 inputs (x, y); only nets of one tensor are supported"),
        (Named, "takes 2 inputs (x, scale); only nets of one tensor"),
        (Nothing, "takes 0 inputs; only nets of one tensor"),
        (lambda: nn.Bilinear(1, 1, 1), "takes 2 inputs (input1, input2)"),
        (lambda: nn.MultiheadAttention(2, 1), "takes 3 inputs (query, key, value)"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_modules_that_are_no_nets_of_one_tensor_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_supported_module(unwrapped(nn.DataParallel(make())), "Net")
    assert f"Net: {message}" in str(caught.value)


@pytest.mark.parametrize(
    "make", [Optional, Anything, small_net, lambda: nn.LSTM(1, 1), lambda: torch.fx.symbolic_trace(nn.ReLU())]
)
def test_modules_of_one_tensor_are_taken(make: Callable[[], nn.Module]) -> None:
    check_supported_module(make(), "Net")


def test_such_modules_of_files_and_factories_are_refused(tmp_path: Path) -> None:
    torch.save({"model": nn.Bilinear(1, 1, 1)}, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"net\.pt: takes 2 inputs \(input1, input2\)"):
        load_model(str(tmp_path / "net.pt"))
    (tmp_path / "made.py").write_text("import torch\ndef make():\n    return torch.jit.script(torch.nn.ReLU())\n")
    with pytest.raises(ModelError, match=r"made\.py:make: is a TorchScript module"):
        load_model(f"{tmp_path}/made.py:make")


@pytest.mark.parametrize("net", [nn.LazyConv2d(4, 3), nn.Conv2d(3, 4, 3, device="meta"), nn.Sequential(nn.LazyLinear(3))])
@pytest.mark.parametrize("shape", [(1, 3, 8, 8), None])
def test_a_net_in_memory_without_values_is_refused_and_gets_none(net: nn.Module, shape: tuple[int, ...] | None) -> None:
    kinds = [(type(module), type(tensor)) for module in net.modules() for tensor in module.parameters()]
    with pytest.raises(ModelError, match="has no values yet; run the net once or load its weights"):
        api.open_model(net, shape)
    assert [(type(module), type(tensor)) for module in net.modules() for tensor in module.parameters()] == kinds

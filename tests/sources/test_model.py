"""The net inside wrappers is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_files import same, small_net
from torch import nn

from lcnn_compress import api
from lcnn_compress.sources.load_model import load_model


def test_data_parallel_is_unwrapped(tmp_path: Path) -> None:
    torch.save(nn.DataParallel(nn.DataParallel(small_net())), tmp_path / "net.pt")
    loaded = load_model(str(tmp_path / "net.pt"))
    assert type(loaded.model) is nn.Sequential
    assert same(loaded.model, small_net())


@pytest.mark.parametrize("wrapper", [torch.compile, nn.DataParallel])
def test_a_net_in_memory_is_unwrapped(wrapper: Callable[[nn.Module], nn.Module]) -> None:
    source = api.open_model(wrapper(small_net()), (1, 3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(source.net(x), small_net().eval()(x))
    assert source.origin.spec == "Sequential"

"""The small net, captured, its layers by name, and images for it."""

from __future__ import annotations

import pytest
import torch
from cases import small_net
from torch import Tensor, fx

from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Layer, layers

EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="session")
def net() -> fx.GraphModule:
    return capture(small_net(), EXAMPLE)


@pytest.fixture(scope="session")
def found(net: fx.GraphModule) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers(net, EXAMPLE)}


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))

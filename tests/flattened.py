"""A net whose Linear reads a flattened plane, which becomes a lookup convolution as large as the plane."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from nets import exact_lookup
from torch import Tensor, nn

from lcnn_compress import api
from lcnn_compress.compression.plan import PlanSettings
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import replace_layer
from lcnn_compress.net.layers import layers

PLANE = (1, 3, 4, 5)  # not square: catches swapped axes


FLATTENS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(x.shape[0], -1),
    "reshape": lambda x: x.reshape(-1, 160),
}


class Flattened(nn.Module):
    """Conv -> flatten -> (dropout) -> Linear -> (batch norm) -> ReLU -> Linear."""

    def __init__(self, flatten: str = "flatten", *, dropout: float = 0.0, norm: bool = False, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.flatten, self.dropout = FLATTENS[flatten], nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc1 = nn.Linear(channels * 20, 12)
        self.norm = nn.BatchNorm1d(12) if norm else nn.Identity()
        self.fc2 = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.fc1(self.dropout(self.flatten(torch.relu(self.conv(x))))))
        logits: Tensor = self.fc2(torch.relu(x))
        return logits


def replaced(model: nn.Module, *names: str, shape: tuple[int, ...] = PLANE):
    net = capture(model, torch.zeros(shape))
    for layer in layers(net, torch.zeros(shape)):
        if layer.name in names:
            replace_layer(net, layer, exact_lookup(layer))
    return net


def planes(n: int = 3) -> Tensor:
    return torch.randn(n, *PLANE[1:], generator=torch.Generator().manual_seed(1))


@functools.cache
def flattened_artefact() -> api.Artefact:
    """Both linear layers as lookup convolutions."""
    torch.manual_seed(0)
    settings = CompressSettings(PlanSettings("fc1=4,fc2=4", 2, only=("fc*",), keep_slow=True), measure=False)
    return api.compress(api.open_model(Flattened(dropout=0.5), PLANE), settings=settings)

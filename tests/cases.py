"""The lookup convolutions every test of the operator sweeps over, and a small net for the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.operators.geometry import ConvGeometry

EPS32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class LookupConvCase:
    """One operator-level case; str() is the pytest id and can be pasted back into a reproduction."""

    c_in: int = 8
    c_out: int = 5
    k: int = 4
    density: float = 0.4
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    size: tuple[int, int] = (7, 6)
    batch: int = 2

    @property
    def geometry(self) -> ConvGeometry:
        return ConvGeometry(self.kernel, self.stride, self.padding, self.dilation, self.groups)

    def module(self, seed: int = 0) -> LookupConv2d:
        """A random layer; dictionary and coefficients are exact in float16."""
        g = torch.Generator().manual_seed(seed)
        dictionary = torch.randn(self.groups * self.k, self.c_in // self.groups, generator=g).half().float()
        kernel = torch.randn(self.c_out, self.k, *self.kernel, generator=g).half().float()
        kernel *= torch.rand(kernel.shape, generator=g) < self.density
        return LookupConv2d(dictionary, kernel, torch.randn(self.c_out, generator=g), self.geometry)

    def input(self, seed: int = 1) -> Tensor:
        return torch.randn(self.batch, self.c_in, *self.size, generator=torch.Generator().manual_seed(seed))


CASES = [
    LookupConvCase(),
    LookupConvCase(kernel=(1, 7), padding=(0, 3, 0, 3)),  # not square: catches swapped axes
    LookupConvCase(kernel=(5, 3), padding=(0, 2, 1, 0), size=(11, 9)),  # asymmetric
    LookupConvCase(kernel=(1, 1), padding=(0, 0, 0, 0)),
    LookupConvCase(kernel=(1, 1), padding=(0, 0, 0, 0), stride=(2, 2), size=(9, 8)),
    LookupConvCase(stride=(2, 2), size=(14, 14)),
    LookupConvCase(stride=(3, 1), size=(13, 10)),
    LookupConvCase(kernel=(2, 2), stride=(3, 3), padding=(0, 0, 0, 0), size=(11, 11)),  # stride beyond the kernel
    LookupConvCase(kernel=(11, 11), stride=(4, 4), padding=(2, 2, 2, 2), size=(35, 31), c_in=3, k=3),
    LookupConvCase(kernel=(7, 7), stride=(2, 2), padding=(3, 3, 3, 3), size=(29, 30), c_in=3, k=3),
    LookupConvCase(dilation=(2, 3), padding=(2, 3, 2, 3), size=(12, 15)),
    LookupConvCase(dilation=(2, 2), stride=(2, 2), padding=(2, 2, 2, 2), size=(13, 12)),
    LookupConvCase(groups=2, c_out=6),
    LookupConvCase(groups=4, c_in=8, c_out=4, stride=(2, 1)),
    LookupConvCase(padding=(5, 4, 3, 6), size=(3, 2)),  # more padding than image
    LookupConvCase(k=1, density=1.0),
    LookupConvCase(k=12, density=1.0),  # every entry used, more rows than channels
    LookupConvCase(density=0.0),  # no lookups at all
    LookupConvCase(c_out=64, k=16, density=0.02, size=(5, 5)),  # most positions and some filters empty
    LookupConvCase(size=(1, 1)),  # one pixel
    LookupConvCase(kernel=(1, 1), padding=(0, 0, 0, 0), size=(1, 1), c_in=40, c_out=30, k=20, batch=1),  # a Linear
    LookupConvCase(kernel=(1, 1), padding=(0, 0, 0, 0), size=(1, 1), c_in=40, c_out=30, k=20, batch=33),
    LookupConvCase(size=(1, 127)), LookupConvCase(size=(1, 128)), LookupConvCase(size=(1, 129)), LookupConvCase(size=(255, 1)),
    LookupConvCase(batch=0),
    LookupConvCase(batch=33, size=(4, 4)),
    LookupConvCase(c_in=64, c_out=64, k=30, density=0.1, size=(28, 28)),
    LookupConvCase(c_in=32, c_out=40, k=24, density=0.3, size=(7, 7), batch=5),
    LookupConvCase(c_in=17, c_out=13, k=7, size=(19, 23), stride=(2, 2)),
]  # fmt: skip


def tolerance(layer: LookupConv2d, x: Tensor, extra: Tensor | float = 0.0) -> Tensor:
    """Bound of the rounding error for each output: 2 * terms * eps * (sum of the absolute values of all terms)."""
    with torch.no_grad():
        magnitude = LookupConv2d(layer.dictionary.abs(), layer.sparse_kernel.abs(), layer.bias.abs(), layer.geometry).double()
        terms = layer.dictionary.shape[1] + layer.dictionary_size * layer.geometry.taps + 2
        return 2 * terms * EPS32 * (magnitude(x.abs().double()) + extra)


class SmallNet(nn.Module):
    """Two residual stages with batch norm and a classifier: big enough to be compressed, small enough to be fast."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def small_net(seed: int = 0) -> SmallNet:
    """A SmallNet with batch norms that do something."""
    torch.manual_seed(seed)
    net = SmallNet()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


class Noise:
    """Random images with random classes, ``n`` of them."""

    def __init__(self, n: int = 32) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(indices[0]))
        return torch.randn(len(indices), 3, 16, 16, generator=generator), indices % 10

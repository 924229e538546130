"""Nets with what real nets do, and their layers as exact lookup convolutions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lcnn_compress.forms.lookup import LookupConv2d


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


def exact_lookup(layer) -> LookupConv2d:
    """An exact lookup form of a layer: the identity as dictionary."""
    weight = layer.weight().detach()
    groups, m = layer.geometry.groups, weight.shape[1]
    return LookupConv2d(torch.eye(m).repeat(groups, 1), weight, layer.module.bias, layer.geometry)

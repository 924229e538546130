"""Convolutions in bfloat16 as torch modules, as the runtime computes them: factors and inputs in bfloat16, sums in float32.

A product of two such numbers is exact in float32, so that results depend on the order of a sum and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.operators.geometry import ConvGeometry


class RoundBfloat16(nn.Module):
    """Rounds to bfloat16, to even between two; what it gives is float32 still."""

    def forward(self, x: Tensor) -> Tensor:
        """Round x of any shape."""
        return x.to(torch.bfloat16).to(x.dtype)


class Bfloat16Conv2d(nn.Module):
    """A 2-d convolution in bfloat16, dense or a lookup convolution. Its input is rounded if nothing before it did that.

    Attributes:
        weight: (C_out, K, kH, kW) bfloat16 with K = C_in / groups, or the sparse kernel with K = k.
        dictionary: (groups * k, C_in / groups) bfloat16, without rows where the layer has none.
        bias: (C_out) float32.
    """

    weight: Tensor
    dictionary: Tensor
    bias: Tensor

    def __init__(self, factors: Bfloat16Factors, geometry: ConvGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        for name, value in vars(factors).items():
            self.register_buffer(name, value)
        self.out_channels, size = self.weight.shape[:2]
        self.has_dictionary = len(self.dictionary) > 0
        self.in_channels = geometry.groups * int(self.dictionary.shape[1] if self.has_dictionary else size)
        self.dictionary_size = int(size) if self.has_dictionary else 0

    @classmethod
    def of(cls, lookup: LookupConv2d) -> Bfloat16Conv2d:
        """Return a lookup convolution with its factors rounded; one with an identity for a dictionary needs none."""
        kernel = (lookup.sparse_kernel * lookup.support).detach()
        rows = lookup.dictionary.detach()[: 0 if lookup.is_identity else None]
        half = torch.bfloat16
        factors = Bfloat16Factors(kernel.to(half), rows.to(half), lookup.bias.detach().clone())
        return cls(factors, lookup.geometry)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, k={self.dictionary_size}, {self.geometry}"

    def plain(self) -> LookupConv2d:
        """Return the layer that computes the same in float32, without rounding S; dense ones have an identity dictionary."""
        identity = torch.eye(self.in_channels // self.geometry.groups).repeat(self.geometry.groups, 1)
        rows = self.dictionary.float() if self.has_dictionary else identity
        return LookupConv2d(rows, self.weight.float(), self.bias, self.geometry)

    def dense_weight(self) -> Tensor:
        """Return the dense weight this layer stands for, (C_out, C_in / groups, kH, kW) float32."""
        return self.plain().weight().detach() if self.has_dictionary else self.weight.float()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C_in, H, W) to (N, C_out, H', W'), which is not rounded."""
        read = x.to(torch.bfloat16).to(x.dtype)
        groups, stride, dilation = self.geometry.groups, self.geometry.stride, self.geometry.dilation
        if self.has_dictionary:
            responses = functional.conv2d(read, self.dictionary.to(x.dtype)[:, :, None, None], groups=groups)
            read = responses.to(torch.bfloat16).to(x.dtype)
        top, left, bottom, right = self.geometry.padding
        read = functional.pad(read, (left, right, top, bottom))
        return functional.conv2d(read, self.weight.to(x.dtype), self.bias, stride, 0, dilation, groups)


@dataclass(frozen=True)
class Bfloat16Factors:
    """The constants of a ``Bfloat16Conv2d``, with shapes and types as there."""

    weight: Tensor
    dictionary: Tensor
    bias: Tensor

    def check(self, geometry: ConvGeometry) -> None:
        """Raise ValueError where these, which a file may hold, are no layer of this geometry."""
        for name, tensor in vars(self).items():
            kind = torch.float32 if name == "bias" else torch.bfloat16
            if tensor.dtype != kind or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} is {tensor.dtype}; it must be {kind}, and finite")
        fits = self.weight.ndim == 4 and self.dictionary.ndim == 2 and self.bias.shape == self.weight.shape[:1]
        fits = fits and tuple(self.weight.shape[2:]) == geometry.kernel and len(self.bias) % geometry.groups == 0
        if not fits or len(self.dictionary) not in (0, geometry.groups * self.weight.shape[1]):
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in vars(self).items())
            raise ValueError(f"{shapes} are not those of one layer with {geometry}")

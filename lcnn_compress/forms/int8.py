"""Convolutions in 8 bits as torch modules: whole numbers all through, as the runtime computes them.

An activation in 8 bits is a whole number q from 0 to 255 that stands for scale * (q - zero_point); a weight is one from -127 to
127 times the scale of its filter (Jacob et al. 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", section 2). In a lookup convolution S has 8 bits too, and a scale for each entry of the
dictionary. Sums are exact while they stay below 2**24, which float32 holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.operators.geometry import ConvGeometry

MAX_ACTIVATION = 255
# S - ``RESPONSE_ZERO`` is what stands for a response.
RESPONSE_ZERO = 128


@dataclass(frozen=True)
class Grid:
    """The values that an activation in 8 bits can have: ``scale`` * (q - ``zero_point``) for q from 0 to 255."""

    scale: float
    zero_point: int

    @classmethod
    def of(cls, scale: Tensor, zero_point: Tensor) -> Grid:
        """Return the grid that two tensors of files hold.

        Raises:
            ValueError: no grid is so.
        """
        known = scale.shape == zero_point.shape == () and (scale.dtype, zero_point.dtype) == (torch.float32, torch.uint8)
        if not known or not 0 < float(scale) < float("inf"):
            shown = f"scale {scale.dtype} {tuple(scale.shape)} and zero_point {zero_point.dtype} {tuple(zero_point.shape)}"
            raise ValueError(f"{shown} must be a float32 above 0 and an uint8")
        return cls(float(scale), int(zero_point))

    @classmethod
    def covering(cls, low: float, high: float) -> Grid:
        """Return the grid from ``low`` to ``high``, and to 0, which lies on every grid: borders of planes are zeros."""
        low, high = min(low, 0.0), max(high, 0.0)
        # float32 is what files hold; a tensor of zeros has any scale.
        scale = float(torch.tensor((high - low) / MAX_ACTIVATION)) or 1.0
        return cls(scale, min(MAX_ACTIVATION, max(0, round(-low / scale))))


class _StraightThrough(torch.autograd.Function):
    """Rounds to whole numbers, to even between two, and passes gradients back as if it did not (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004  # torch gives it
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient


def rounded(x: Tensor) -> Tensor:
    """Return x rounded to whole numbers, to even between two; gradients pass as they are."""
    result: Tensor = _StraightThrough.apply(x) if x.requires_grad else x.round()  # type: ignore[no-untyped-call]
    return result


class _OnGrid(torch.autograd.Function):
    """Rounds x to ``scale`` times whole numbers from ``low`` to ``high``.

    Within the range x has the gradient g that is given, and the scale g (q - x / scale); outside x has none, and the scale g
    times the end of the range (Esser et al. 2020, "Learned step size quantization", equations 2 and 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
        nearest = (x / scale).round_()
        whole = nearest.clamp(low, high)
        ctx.save_for_backward(x, scale, nearest == whole, whole)
        return whole * scale  # not in place, and not kept: a sum may be added to it in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, scale, inside, whole = ctx.saved_tensors
        of_x = gradient * inside
        if not ctx.needs_input_grad[1]:
            return of_x, None, None, None
        # These two products make no tensor as large as x: it is most of the memory that training in 8 bits moves.
        of_scale = torch.dot(gradient.reshape(-1), whole.reshape(-1)) - torch.dot(of_x.reshape(-1), x.reshape(-1)) / scale
        return of_x, of_scale, None, None


def on_grid(x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """Round x of any shape to ``scale``, (), times whole numbers from ``low`` to ``high``; both may be learnt."""
    if not (x.requires_grad or scale.requires_grad):
        return (x / scale).round().clamp(low, high) * scale
    result: Tensor = _OnGrid.apply(x, scale, low, high)  # type: ignore[no-untyped-call]
    return result


class Round8(nn.Module):
    """Rounds to the values of a grid, to even between two.

    Attributes:
        scale: () float32.
        zero_point: () uint8.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(grid.scale))
        self.register_buffer("zero_point", torch.tensor(grid.zero_point, dtype=torch.uint8))

    @property
    def grid(self) -> Grid:
        """The grid as numbers."""
        return Grid(float(self.scale), int(self.zero_point))

    def extra_repr(self) -> str:
        return f"scale={self.grid.scale:.3g}, zero_point={self.grid.zero_point}"

    def forward(self, x: Tensor) -> Tensor:
        """Round x of any shape."""
        zero = self.zero_point.to(x.dtype)  # a tensor, because it is run without values too
        return (x / self.scale).round().clamp(-zero, MAX_ACTIVATION - zero) * self.scale


class Int8Conv2d(nn.Module):
    """A 2-d convolution of whole numbers, dense or a lookup convolution; its input must lie on its grid.

    Attributes:
        weight: (C_out, K, kH, kW) int8 with K = C_in / groups, or the sparse kernel with K = k.
        weight_scale: (C_out).
        dictionary: (groups * k, C_in / groups) int8, without rows where the layer has none.
        dictionary_scale: (groups * k), of the dictionary over that of S.
        bias: (C_out).
        input_scale, zero_point: (), the grid of the input.
    """

    weight: Tensor
    weight_scale: Tensor
    dictionary: Tensor
    dictionary_scale: Tensor
    bias: Tensor
    input_scale: Tensor
    zero_point: Tensor

    def __init__(self, factors: Int8Factors, geometry: ConvGeometry, grid: Grid) -> None:
        super().__init__()
        self.geometry = geometry
        for name, value in vars(factors).items():
            self.register_buffer(name, value)
        self.register_buffer("input_scale", torch.tensor(grid.scale))
        self.register_buffer("zero_point", torch.tensor(grid.zero_point, dtype=torch.uint8))
        self.out_channels, size = self.weight.shape[:2]
        self.has_dictionary = len(self.dictionary) > 0
        self.in_channels = geometry.groups * int(self.dictionary.shape[1] if self.has_dictionary else size)
        self.dictionary_size = int(size) if self.has_dictionary else 0

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, k={self.dictionary_size}, {self.geometry}"

    def plain(self) -> LookupConv2d:
        """Return the layer that computes the same in float32, without rounding S; dense ones have an identity dictionary."""
        kernel = self.weight * self.weight_scale[:, None, None, None]
        m = self.in_channels // self.geometry.groups
        rows = torch.eye(m).repeat(self.geometry.groups, 1)
        if self.has_dictionary:
            rows = self.dictionary * self.dictionary_scale[:, None]
        return LookupConv2d(rows, kernel, self.bias, self.geometry)

    def dense_weight(self) -> Tensor:
        """Return the dense weight this layer stands for, (C_out, C_in / groups, kH, kW) float32."""
        return self.plain().weight().detach()

    @property
    def factors(self) -> Int8Factors:
        """The constants of the layer."""
        return Int8Factors(self.weight, self.weight_scale, self.bias, self.dictionary, self.dictionary_scale)

    def responses(self, x: Tensor) -> Tensor:
        """Return S - ``RESPONSE_ZERO``, whole numbers as float32 (N, groups * k, H, W), of x (N, C_in, H, W)."""
        return self.factors.responses(x, self.geometry, self.input_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C_in, H, W) on the grid of the input to (N, C_out, H', W'), which is not rounded."""
        return self.factors.convolve(x, self.geometry, self.input_scale)


@dataclass(frozen=True)
class Int8Factors:
    """The constants of an ``Int8Conv2d``, with shapes and types as there; in training whole numbers are float32."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor
    dictionary: Tensor
    dictionary_scale: Tensor

    def check(self, geometry: ConvGeometry) -> None:
        """Raise ValueError where these, which a file may hold, are no layer of this geometry."""
        for name, kind in _TYPES.items():
            tensor = getattr(self, name)
            if tensor.dtype != kind or not bool(torch.isfinite(tensor.float()).all()):
                raise ValueError(f"{name} is {tensor.dtype}; it must be {kind}, and finite")
        filters, rows = len(self.bias), len(self.dictionary)
        fits = self.weight.ndim == 4 and self.weight.shape[0] == filters and tuple(self.weight.shape[2:]) == geometry.kernel
        fits = fits and filters % geometry.groups == 0 and self.weight_scale.shape == self.bias.shape == (filters,)
        fits = fits and self.dictionary.ndim == 2 and self.dictionary_scale.shape == (rows,)
        if not fits or rows not in (0, geometry.groups * self.weight.shape[1]):
            shapes = ", ".join(f"{name} {tuple(getattr(self, name).shape)}" for name in _TYPES)
            raise ValueError(f"{shapes} are not those of one layer with {geometry}")
        if not bool((self.weight_scale > 0).all()) or not bool((self.dictionary_scale > 0).all()):
            raise ValueError("scales must be above 0")

    def responses(self, x: Tensor, geometry: ConvGeometry, input_scale: Tensor) -> Tensor:
        """See ``Int8Conv2d.responses``."""
        whole = rounded(x / input_scale)
        if not len(self.dictionary):
            return whole
        sums = functional.conv2d(whole, self.dictionary.to(x.dtype)[:, :, None, None], groups=geometry.groups)
        factor = (input_scale.double() * self.dictionary_scale.double()).to(x.dtype)
        return on_grid(
            sums * factor[:, None, None], torch.ones_like(input_scale), -RESPONSE_ZERO, MAX_ACTIVATION - RESPONSE_ZERO
        )

    def convolve(self, x: Tensor, geometry: ConvGeometry, input_scale: Tensor) -> Tensor:
        """See ``Int8Conv2d.forward``."""
        top, left, bottom, right = geometry.padding
        read, padding = self.responses(x, geometry, input_scale), (top, left)
        if padding != (bottom, right):
            read, padding = functional.pad(read, (left, right, top, bottom)), (0, 0)
        weight = self.weight.to(x.dtype)
        sums = functional.conv2d(read, weight, None, geometry.stride, padding, geometry.dilation, geometry.groups)
        factor = self.weight_scale if len(self.dictionary) else self.weight_scale.double() * input_scale.double()
        factor, bias = factor.float()[:, None, None], self.bias[:, None, None]
        if factor.requires_grad:  # training can do with two roundings, which take half the time
            return torch.addcmul(bias, sums, factor)
        # In double precision product and sum are exact, so that there is one rounding, as in a fused multiply-add.
        return (sums.double() * factor.double() + bias.double()).to(x.dtype)


_TYPES = {
    "weight": torch.int8, "weight_scale": torch.float32, "bias": torch.float32,
    "dictionary": torch.int8, "dictionary_scale": torch.float32,
}  # fmt: skip

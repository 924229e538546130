"""Geometry of a 2-d convolution and the cost of computing it. Plain integers, no torch.

One multiply-add counts as one MAC. Borders are not discounted: a padded tap counts like any other, for dense and lookup alike.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lcnn_compress.errors import ModelError

# The native library takes kernels up to this size. No net comes near it, and ONNX Runtime may take minutes to pool beyond it.
MAX_EXTENT = 65535


def check_extents(name: str, values: Sequence[object], least: int = 1) -> None:
    """Refuse kernels, strides, dilations (``least`` 1) or padding (``least`` 0) that no net has: files can hold anything.

    Raises:
        ModelError: one of them is not a whole number from ``least`` to ``MAX_EXTENT``.
    """
    if not all(type(value) is int and least <= value <= MAX_EXTENT for value in values):
        shown = ", ".join(f"{value!r:.40}" for value in values[:8])
        raise ModelError(f"{name} is {shown}; it must be whole numbers from {least} to {MAX_EXTENT}")


@dataclass(frozen=True)
class ConvGeometry:
    """Kernel, stride, zero padding, dilation (all height before width) and channel groups.

    Raises:
        ModelError: one of them is of another length, or a number that no convolution has (``check_extents``).
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        for name, length, least in (("kernel", 2, 1), ("stride", 2, 1), ("padding", 4, 0), ("dilation", 2, 1)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != length:
                raise ModelError(f"{name} is {values!r:.60}; it must be {length} whole numbers")
            check_extents(name, values, least)
        if type(self.groups) is not int or not 1 <= self.groups < 2**31:
            raise ModelError(f"groups is {self.groups!r:.40}; it must be a whole number of 1 or more")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the output plane; 0 or less where the input is smaller than the kernel."""
        top, left, bottom, right = self.padding
        reach_h, reach_w = ((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        return (height + top + bottom - reach_h) // self.stride[0] + 1, (width + left + right - reach_w) // self.stride[1] + 1

    @property
    def taps(self) -> int:
        """Number of positions of the kernel, kH * kW."""
        return self.kernel[0] * self.kernel[1]

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ConvGeometry:
        """Invert ``to_json``."""
        return cls(
            tuple(values["kernel"]),
            tuple(values["stride"]),
            tuple(values["padding"]),
            tuple(values["dilation"]),
            values["groups"],
        )


def dense_macs(in_channels: int, out_channels: int, geometry: ConvGeometry, size: tuple[int, int]) -> int:
    """Return the MACs of the dense convolution on one image of (height, width) ``size``."""
    height, width = geometry.output_size(*size)
    return in_channels // geometry.groups * out_channels * geometry.taps * height * width


def lookup_macs(in_channels: int, dictionary_size: int, n_nonzeros: int, geometry: ConvGeometry, size: tuple[int, int]) -> int:
    """Return the MACs of both stages on one image: all rows at each pixel read, then one per non-zero and output pixel."""
    height, width = geometry.output_size(*size)
    return dictionary_size * in_channels * pixels_read(geometry, size) + n_nonzeros * height * width


@functools.cache
def pixels_read(geometry: ConvGeometry, size: tuple[int, int]) -> int:
    """Return how many pixels of an image of (height, width) ``size`` any tap reads: a quarter for a 1x1 of stride 2."""
    pixels = 1
    for axis, output in enumerate(geometry.output_size(*size)):
        stride, dilation, before = geometry.stride[axis], geometry.dilation[axis], geometry.padding[axis]
        read = {y * stride + tap * dilation - before for y in range(output) for tap in range(geometry.kernel[axis])}
        pixels *= sum(0 <= index < size[axis] for index in read)
    return pixels

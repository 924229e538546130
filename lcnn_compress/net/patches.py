"""What a convolution reads for some of its output positions."""

from __future__ import annotations

import torch
from torch import Tensor

from lcnn_compress.operators.geometry import ConvGeometry


def patches(x: Tensor, geometry: ConvGeometry, rows: Tensor, columns: Tensor) -> Tensor:
    """Return (N, groups, m, positions, taps) of what the outputs at (row, column) pairs are made of.

    Args:
        x: the input with its padding, (N, C, H, W).
        geometry: of the convolution; ``m`` is C over its groups.
        rows: of the output positions.
        columns: likewise.
    """
    taps = torch.arange(geometry.taps)
    at_rows = rows[:, None] * geometry.stride[0] + taps // geometry.kernel[1] * geometry.dilation[0]
    at_columns = columns[:, None] * geometry.stride[1] + taps % geometry.kernel[1] * geometry.dilation[1]
    found: Tensor = x[:, :, at_rows, at_columns].unflatten(1, (geometry.groups, -1))
    return found


def seeded_positions(size: tuple[int, int], count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the (rows, columns) of up to ``count`` positions of an output of (height, width) ``size``."""
    chosen = torch.randperm(size[0] * size[1], generator=torch.Generator().manual_seed(seed))[:count]
    return chosen // size[1], chosen % size[1]

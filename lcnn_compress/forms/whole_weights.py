"""Weights in whole numbers: from -127 to 127, and no two side by side larger than 16 bits hold what they are multiplied to.

AVX2, and AVX-512 without VNNI, multiply bytes two by two and add both products in 16 bits (``vpmaddubsw``), about half as fast
again as by way of wider numbers. Activations are at most 255, so that two weights of one sign may be 128 together: 255 * 128 is
below 2**15. Scales are a little larger for that. Other weights are computed right as well, and slower there; but ONNX Runtime
1.31 itself, where it runs our files without the native library on AVX2, gives wrong results with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_WEIGHT, MAX_PAIR = 127, 128
# The largest whole number may stand for these parts of the largest weight of a row.
WEIGHT_PARTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)


def row_scales(rows: Tensor) -> Tensor:
    """Return a scale for each row of (n, K, ...) with which 8 bits leave the least squared error; 1 for rows of zeros."""
    flat = rows.flatten(1)
    largest = flat.abs().amax(1) / MAX_WEIGHT
    for left, right in side_by_side(rows.shape[1:]):
        largest = torch.maximum(largest, _together(flat[:, left], flat[:, right]).amax(1) / MAX_PAIR)
    largest = torch.where(largest > 0, largest, 1.0)
    tried = torch.stack([largest * ratio for ratio in WEIGHT_PARTS])  # (ratios, n)
    spread = [1] * (rows.ndim - 1)
    errors = torch.stack([(whole(rows, scale) * scale.view(-1, *spread) - rows).square().flatten(1).sum(1) for scale in tried])
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]


def whole(rows: Tensor, scale: Tensor) -> Tensor:
    """Return rows (n, K, ...) over their scales as whole numbers, each from -127 to 127, neighbours fitted."""
    return fitted((rows / scale.view(-1, *[1] * (rows.ndim - 1))).round().clamp(-MAX_WEIGHT, MAX_WEIGHT))


def fitted(numbers: Tensor) -> Tensor:
    """Return whole numbers (n, K, ...) of which neighbours that are too large together are both made smaller."""
    flat = numbers.flatten(1).clone()
    for left, right in side_by_side(numbers.shape[1:]):
        a, b = flat[:, left], flat[:, right]
        excess = (_together(a, b) - MAX_PAIR).clamp(min=0)
        half = (excess / 2).ceil()
        flat[:, left], flat[:, right] = a - a.sign() * half, b - b.sign() * (excess - half)
    return flat.view(numbers.shape)


def side_by_side(window: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return which weights of a window (K, kH, kW) or (K,) are neighbours in files: pairs of indices into it, flattened.

    Files have the order (kH, kW, K). The first of two neighbours has an even place in its row (kW, K), or in its tap where taps
    are read apart: with an odd K every two that follow each other count. Layers of one input channel have none: their sums are
    short. No index is twice in one element of the list.
    """
    channels = window[0]
    if channels < 2:
        return []
    place = torch.arange(math.prod(window)).view(channels, -1, window[2] if len(window) > 2 else 1).permute(1, 2, 0)
    if channels % 2 == 0:
        return [(place[..., ::2].flatten(), place[..., 1::2].flatten())]
    rows = place.flatten(1)
    return [(rows[:, first:-1:2].flatten(), rows[:, first + 1 :: 2].flatten()) for first in (0, 1)]


def _together(a: Tensor, b: Tensor) -> Tensor:
    """Return how large two neighbours are together, where they have one sign."""
    return (a.abs() + b.abs()) * (a * b > 0)

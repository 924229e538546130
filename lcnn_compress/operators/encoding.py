"""How a LookupConv node stores its sparse kernel: gaps between non-zeros, and coefficients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# No kernel has more values than this, 4 GB of them.
MAX_POSITIONS = 1 << 30


def encode_positions(sparse_kernel: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Write P (C_out, k, kH, kW) as gaps between the flat positions of its non-zeros in (o, r, c, j) order.

    A gap wider than the integer type is bridged by entries with coefficient 0. uint8 or uint16 is chosen, whichever makes the
    smaller file (a coefficient counts 2 bytes). The list is never empty: a kernel of zeros keeps one zero entry.

    Returns:
        gaps (entries) uint8 or uint16, coefficients (entries) float32.
    """
    flat = np.ascontiguousarray(sparse_kernel.transpose(0, 2, 3, 1)).reshape(-1)
    positions = np.flatnonzero(flat)
    if positions.size == 0:
        positions = np.zeros(1, np.int64)
    gaps = np.diff(positions, prepend=0)
    encodings = [_bridge(gaps, flat[positions], dtype) for dtype in (np.uint8, np.uint16)]
    return min(encodings, key=lambda pair: len(pair[0]) * (pair[0].itemsize + 2))


def decode_positions(gaps: NDArray[Any], coefficients: NDArray[Any], shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Invert ``encode_positions`` for P of ``shape`` (C_out, k, kH, kW).

    Raises:
        ValueError: the gaps are no list of unsigned integers, do not match the coefficients, lead outside the kernel or repeat
            a position; or no kernel has that shape.
    """
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) > MAX_POSITIONS:
        raise ValueError(f"the kernel is {shape!r:.80}; it must be sizes of at most {MAX_POSITIONS} values in all")
    out_channels, size, height, width = shape
    if gaps.ndim != 1 or gaps.dtype.kind != "u" or gaps.shape != coefficients.shape:
        lists = f"gaps {gaps.dtype} {gaps.shape} and coefficients {coefficients.shape}"
        raise ValueError(f"{lists} must be two lists of one length, gaps of unsigned integers")
    positions = np.cumsum(gaps.astype(np.int64))
    if len(gaps) and (positions[-1] >= out_channels * size * height * width or (gaps[1:] == 0).any()):
        raise ValueError(f"gaps reach position {positions[-1]}, outside {shape}, or repeat one")
    flat = np.zeros(out_channels * height * width * size, np.float32)
    flat[positions] = coefficients.astype(np.float32)
    return np.ascontiguousarray(flat.reshape(out_channels, height, width, size).transpose(0, 3, 1, 2))


def _bridge(gaps: NDArray[np.int64], values: NDArray[np.float32], dtype: type) -> tuple[NDArray[Any], NDArray[np.float32]]:
    limit = int(np.iinfo(dtype).max)
    n_bridges = np.maximum(gaps - 1, 0) // limit  # the last step of each gap is 1..limit (or 0 for the first position)
    ends = np.cumsum(n_bridges + 1) - 1
    steps = np.full(int(ends[-1]) + 1, limit, np.int64)
    steps[ends] = gaps - n_bridges * limit
    coefficients = np.zeros(len(steps), np.float32)
    coefficients[ends] = values
    return steps.astype(dtype), coefficients

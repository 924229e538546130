"""Weights in whole numbers: rounded one input after the other, each making up for what the ones before got wrong.

Frantar et al. 2023, "GPTQ", section 3, which is optimal brain quantisation (Hassibi and Stork 1993; Frantar and Alistarh 2022)
in a fixed order: with H the second moments of the inputs, the error of rounding one weight is spread over those not rounded yet
along the rows of the Cholesky factor of the inverse of H.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lcnn_compress.forms.whole_weights import MAX_PAIR, MAX_WEIGHT, side_by_side, whole

# This part of the mean of the diagonal of H is added to it, so that it has an inverse.
DAMPING = 0.01
# Weights are compensated within blocks of this many inputs at once; the others afterwards, in one product.
BLOCK = 64
# Filters with more weights than this are better rounded to nearest: the inverse would take minutes.
MAX_FEATURES = 5000


def round_weights(weight: Tensor, scale: Tensor, moments: Tensor | None) -> Tensor:
    """Return the whole numbers for the weights of filters.

    Args:
        weight: (n, K, ...) float32, F numbers of a filter in all.
        scale: (n), what 1 stands for.
        moments: (F, F) second moments of the inputs; None rounds to nearest. Zeros stay zeros.

    Returns:
        (n, K, ...) int8, neighbours fitted.
    """
    factor = None if moments is None or weight[0].numel() == 1 else _inverse_factor(moments)
    if factor is None:
        return whole(weight, scale).to(torch.int8)
    left = weight.flatten(1).double()
    support = (left != 0).double()
    steps = scale.double()
    partners = _partners(weight.shape[1:])
    # What there is no neighbour for has one that is 0, the last.
    rounded = torch.zeros(len(left), left.shape[1] + 1, dtype=torch.float64)
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        errors = torch.zeros(len(left), end - start, dtype=torch.float64)
        for i in range(start, end):
            beside = rounded[:, partners[i]]
            most = (MAX_PAIR - beside.amax(1)).clamp(max=MAX_WEIGHT)
            least = (-MAX_PAIR - beside.amin(1)).clamp(min=-MAX_WEIGHT)
            rounded[:, i] = (left[:, i] / steps).round().clamp(least, most) * support[:, i]
            error = (left[:, i] - rounded[:, i] * steps) / factor[i, i]
            left[:, i:end] -= error[:, None] * factor[i, i:end] * support[:, i:end]
            errors[:, i - start] = error
        left[:, end:] -= (errors @ factor[start:end, end:]) * support[:, end:]
    return rounded[:, :-1].to(torch.int8).view(weight.shape)


def _partners(window: Sequence[int]) -> Tensor:
    """Return the neighbours of each weight of a window, (F, n), F where there is none."""
    found = torch.full((math.prod(window), 3), math.prod(window))
    for number, (left, right) in enumerate(side_by_side(window)):
        found[left, number], found[right, number] = right, left
    return found


def _inverse_factor(moments: Tensor) -> Tensor | None:
    """Return the upper Cholesky factor of the inverse of damped moments, or None where they are not finite."""
    damped = moments.double().clone()
    mean = float(damped.diagonal().mean())
    if not 0 < mean < float("inf"):
        return None
    damped.diagonal().add_(DAMPING * mean)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):
        return None
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if int(failed) else upper

"""Weights in whole numbers: rounded one input after the other, each making up for what the ones before got wrong.

Frantar et al. 2023, "GPTQ", section 3, which is optimal brain quantisation (Hassibi and Stork 1993; Frantar and Alistarh 2022)
in a fixed order: with H the second moments of the inputs, the error of rounding one weight is spread over those not rounded yet
along the rows of the Cholesky factor of the inverse of H.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcnn_compress.forms.int8 import MAX_WEIGHT, whole

# This part of the mean of the diagonal of H is added to it, so that it has an inverse.
DAMPING = 0.01
# Weights are compensated within blocks of this many inputs at once; the others afterwards, in one product.
BLOCK = 64
# Filters with more weights than this are better rounded to nearest: the inverse would take minutes.
MAX_FEATURES = 5000


def round_weights(weight: Tensor, scale: Tensor, moments: Tensor | None) -> Tensor:
    """Return the whole numbers for the weights of filters.

    Args:
        weight: (n, F) float32.
        scale: (n), what 1 stands for.
        moments: (F, F) second moments of the inputs; None rounds to nearest. Zeros stay zeros.

    Returns:
        (n, F) int8.
    """
    nearest = whole(weight, scale)
    if moments is None or weight.shape[1] == 1:
        return nearest.to(torch.int8)
    factor = _inverse_factor(moments)
    if factor is None:
        return nearest.to(torch.int8)
    left = weight.double().clone()
    support = (weight != 0).double()
    steps = scale.double()
    rounded = torch.zeros_like(left)
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        errors = torch.zeros(len(left), end - start, dtype=torch.float64)
        for i in range(start, end):
            rounded[:, i] = (left[:, i] / steps).round().clamp(-MAX_WEIGHT, MAX_WEIGHT) * support[:, i]
            error = (left[:, i] - rounded[:, i] * steps) / factor[i, i]
            left[:, i:end] -= error[:, None] * factor[i, i:end] * support[:, i:end]
            errors[:, i - start] = error
        left[:, end:] -= (errors @ factor[start:end, end:]) * support[:, end:]
    return rounded.to(torch.int8)


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

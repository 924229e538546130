"""Choose which entries of a sparse kernel stay, by what their loss does to the layer's output on data.

A choice by magnitude ignores that responses differ in size and are correlated, so that one entry can stand in for others.
Here the alternating direction method of multipliers seeks the kernel P with a given number of non-zeros that minimises the
squared error of the output; the number falls along a cubic schedule (Boza, "Fast and effective weight update for pruned large
language models", TMLR 2024, arXiv 2401.02938). All filters share one inverse, so it costs about as much as one least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from lcnn_compress.forms.positive import solve_positive

ROUNDS = 30
# After so many of the rounds only the entries asked for are left.
FALLING_ROUNDS = 20
# The penalty weighs the distance to a sparse kernel, for responses of unit variance.
PENALTY = 1.0
# Damping is added to variances of responses, so that those that hardly vary do not attract large coefficients.
DAMPING = 1e-3


def largest(scores: Tensor, count: int) -> Tensor:
    """Return where the ``count`` largest scores are, as booleans of the same shape; of equal ones the first."""
    flat = scores.reshape(-1)
    if count <= 0 or count >= len(flat):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    # Selecting one value costs less than a sort: kernels have millions of entries.
    least = flat.kthvalue(len(flat) - count + 1).values
    chosen = flat > least
    equal = (flat == least).nonzero()[: count - int(chosen.sum()), 0]
    chosen[equal] = True
    return chosen.view_as(scores)


def shared_scores(scores: Tensor, filters_per_pattern: int) -> Tensor:
    """Give ``filters_per_pattern`` neighbouring filters one score for each entry, the root mean square of theirs.

    Args:
        scores: (groups, O, ...), of the O filters of each group; none below 0.
        filters_per_pattern: 1 changes nothing; the last block of a group may be smaller.
    """
    if filters_per_pattern == 1:
        return scores
    blocks = [(block**2).mean(1, keepdim=True).sqrt().expand_as(block) for block in scores.split(filters_per_pattern, dim=1)]
    return torch.cat(blocks, dim=1)


@torch.no_grad()
def choose_pattern(ff: Tensor, fy: Tensor, support: Tensor, count: int, filters_per_pattern: int = 1) -> Tensor:
    """Return which ``count`` entries of a kernel P to keep so that P f predicts y well.

    Args:
        ff: (groups, F, F) covariance of the features, F for each group of filters.
        fy: (groups, F, O) covariance of features and wanted outputs, O filters for each group.
        support: (groups, O, F) bool, entries that may stay.
        count: how many entries stay in all groups and filters together, which compete by the error they cause.
        filters_per_pattern: how many neighbouring filters get the same pattern, but for ties and what ``support`` forbids.

    Returns:
        (groups, O, F) bool inside ``support``; ``support`` itself where it holds no more than ``count``.
    """
    if int(support.sum()) <= count:
        return support.clone()
    return Prediction(ff, fy).sparse(support, [(count, filters_per_pattern)])[0][0]


class Prediction:
    """The prediction of outputs y from features f by their covariances, which all patterns of a kernel have in common.

    Args:
        ff: as in ``choose_pattern``.
        fy: likewise.
    """

    @torch.no_grad()
    def __init__(self, ff: Tensor, fy: Tensor) -> None:
        variances = ff.diagonal(dim1=1, dim2=2)
        scale = (variances + DAMPING * variances.mean().clamp(min=torch.finfo(ff.dtype).tiny)).sqrt()
        # These are correlations, so single precision holds them well.
        unit = (ff / scale[:, :, None] / scale[:, None, :]).float()
        self.unit = unit + DAMPING * torch.eye(unit.shape[1])
        self.wanted = (fy / scale[:, :, None]).mT.float()  # (groups, O, F)
        self.full = solve_positive(self.unit, self.wanted.mT).mT

    @cached_property
    def inverse(self) -> Tensor:
        """Inverse of the penalised covariance, by which every round of every pattern multiplies."""
        # Its eigenvalues are at least the penalty, so half the work of a general inverse is enough.
        return torch.cholesky_inverse(torch.linalg.cholesky(self.unit + PENALTY * torch.eye(self.unit.shape[1])))

    @torch.no_grad()
    def sparse(self, support: Tensor, wanted: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """Return which entries to keep, (groups, O, F) bool, and nearly their best values, for features of unit variance.

        Args:
            support: (groups, O, F) bool, entries that may stay.
            wanted: for each pattern, how many entries stay and how many neighbouring filters share it; all patterns are
                sought at once, because the inverse is large and comes from memory.
        """
        available = int(support.sum())
        kernels = [self.full * support for _ in wanted]
        multipliers = [torch.zeros_like(self.full) for _ in wanted]
        for done in range(1, ROUNDS + 1):
            left = max(0.0, 1 - done / FALLING_ROUNDS) ** 3
            found: list[tuple[Tensor, Tensor]] = []
            pulled: list[Tensor] = []
            for i, (count, filters_per_pattern) in enumerate(wanted):
                moved = kernels[i] + multipliers[i]
                scores = shared_scores(moved.abs(), filters_per_pattern).masked_fill(~support, -1.0)
                kept = largest(scores, count + round((available - count) * left))
                sparse = moved * kept
                multipliers[i] = moved - sparse
                found.append((kept, sparse))
                pulled.append(self.wanted + PENALTY * (sparse - multipliers[i]))
            kernels = list((torch.cat(pulled, dim=1) @ self.inverse).split(support.shape[1], dim=1))
        return found

    def explained(self, kernel: Tensor) -> float:
        """Return by how much a kernel for unit variances lowers the variance of y, summed over all outputs."""
        squares = ((kernel @ self.unit) * kernel).sum() - DAMPING * kernel.square().sum()
        return float(2 * (kernel * self.wanted).sum() - squares)

"""Linear systems whose matrices are symmetric and positive definite, as those of least squares are."""

from __future__ import annotations

import torch
from torch import Tensor


def solve_positive(matrix: Tensor, right: Tensor) -> Tensor:
    """Return the solutions (..., n, m) of symmetric positive definite systems (..., n, n) for right sides (..., n, m).

    ``torch.linalg.solve`` would do, at twice the work, but its LU decomposition gives wrong numbers, or fails, for batches of
    matrices of more than about 128 rows once a process has called ``torch.set_num_threads`` (seen with torch 2.13 and oneMKL on
    an AMD EPYC).
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not bool(failed.any()):
        solved: Tensor = torch.cholesky_solve(right, factor)
        return solved
    # Rounding has made a smallest eigenvalue negative.
    inverse: Tensor = torch.linalg.pinv(matrix.double(), hermitian=True)
    return (inverse @ right.double()).to(right.dtype)

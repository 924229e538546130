"""Solutions of positive definite systems, in a process that has said how many threads torch may use too."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from command_line import PACKAGE_PARENT

from lcnn_compress.forms.positive import solve_positive

SOLVES = """
import sys
import torch
from lcnn_compress.forms.positive import solve_positive
torch.set_num_threads(int(sys.argv[1]))
random = torch.Generator().manual_seed(0)
for batch, n in ((64, 7), (10, 200), (3, 400)):
    factor = torch.randn(batch, n, n, generator=random)
    matrix, right = factor @ factor.mT / n + 0.1 * torch.eye(n), torch.randn(batch, n, 3, generator=random)
    print(float((matrix @ solve_positive(matrix, right) - right).abs().max()))
"""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_are_solved_whatever_a_process_said_about_threads(threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SOLVES, str(threads)], cwd=PACKAGE_PARENT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    # Eigenvalues lie between 0.1 and 4.1, so that a residual is some roundings of numbers up to 40.
    assert all(float(line) < 40 * 50 * 2.0**-24 for line in done.stdout.split())
    assert len(done.stdout.split()) == 3


def test_a_matrix_that_rounding_made_indefinite_is_solved_for_what_it_determines() -> None:
    matrix = torch.diag(torch.tensor([2.0, 1.0, -1e-9]))
    assert torch.linalg.cholesky_ex(matrix).info > 0
    solved = solve_positive(matrix, torch.tensor([[2.0], [3.0], [0.0]]))
    torch.testing.assert_close(solved, torch.tensor([[1.0], [3.0], [0.0]]))

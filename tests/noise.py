"""Examples of noise, for what needs some data and not what is in it."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPE = (1, 3, 16, 16)


class Noise:
    def __len__(self) -> int:
        return 64

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return torch.randn(len(indices), *SHAPE[1:], generator=torch.Generator().manual_seed(int(indices[0]))), indices % 10

"""A small net and data that it learns in seconds, for tests of training from scratch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SHAPE = (1, 3, 8, 8)
CLASSES = 4
DICTIONARY = "conv1=3,conv2=6,fc1=5"


class TinyNet(nn.Module):
    """Two convolutions, the second with a batch norm, and two linear layers, the first on planes."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 16, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.1)
        self.fc1 = nn.Linear(16 * 16, 24)
        self.fc2 = nn.Linear(24, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv2(torch.relu(self.conv1(x)))))
        logits: Tensor = self.fc2(torch.relu(self.fc1(self.drop(torch.flatten(x, 1)))))
        return logits


def tiny_net(n_classes: int = 7) -> nn.Module:
    return TinyNet(n_classes)


def stripes(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images (n, 3, 8, 8) uint8, bright in one of four quarters, and which (n,)."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % CLASSES
    x = rng.integers(0, 120, (n, *SHAPE[1:]), dtype=np.uint8)
    for image, quarter in zip(x, y, strict=True):
        top, left = 4 * (quarter // 2), 4 * (quarter % 2)
        image[:, top : top + 4, left : left + 4] += 100
    return x, y


def saved(folder: Path, n: int = 96, seed: int = 0, name: str = "data") -> str:
    x, y = stripes(n, seed)
    np.savez(folder / f"{name}.npz", x=x, y=y)
    return str(folder / f"{name}.npz")

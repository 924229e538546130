"""Images whose attributes are known, a table of them, and a net that tells them: it sees how much of each colour there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

NAMES = ("red", "green", "blue")


def colour_net(channels: int = 3) -> nn.Sequential:
    """Return a net whose logits are 10 * (mean of a channel - 0.5), behind a convolution of as many channels as wanted."""
    net = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, padding_mode="zeros"), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(channels, 3))  # fmt: skip
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.zero_()
        net[3].weight.zero_()
        for channel in range(channels):
            net[0].weight[channel, channel % 3, 1, 1] = 1
        for label in range(3):
            copies = range(label, channels, 3)
            net[3].weight[label, list(copies)] = 10 / len(copies)
        net[3].bias.fill_(-5)
    return net.eval()


def write_images(folder: Path, labels: np.ndarray, size: int = 8) -> list[Path]:
    """Write an image for each row of ``labels`` (n, 3) of 0 and 1: a channel is bright, 230, where its label is 1, else 25."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, row in enumerate(labels):
        pixels = np.broadcast_to(np.where(row, 230, 25).astype(np.uint8), (size, size, 3))
        paths.append(folder / f"{number}.png")
        Image.fromarray(np.ascontiguousarray(pixels)).save(paths[-1])
    return paths


def write_table(folder: Path, labels: np.ndarray, names: tuple[str, ...] = NAMES) -> Path:
    """Write images and the table of their labels, folder/table.csv."""
    paths = write_images(folder / "images", labels)
    lines = [",".join((f"images/{path.name}", *map(str, row))) for path, row in zip(paths, labels, strict=True)]
    (folder / "table.csv").write_text("\n".join([",".join(("image", *names)), *lines]) + "\n")
    return folder / "table.csv"


def all_labels(repeats: int = 1) -> np.ndarray:
    """Return every combination of three labels, (8 * repeats, 3)."""
    return np.tile(np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)]), (repeats, 1))

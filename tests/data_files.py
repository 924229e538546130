"""Files of examples that tests of data write, and how they read them whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lcnn_compress.data.examples import Examples

NET = (1, 3, 4, 4)


def bytes_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def everything(examples: Examples) -> tuple[Tensor, Tensor | None]:
    return examples.batch(torch.arange(len(examples)))


def saved(folder: Path, **arrays: object) -> str:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return str(folder / "data.npz")

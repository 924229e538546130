"""What compare_methods.py makes: a net of one method at one speed, from one of the method's candidates, on some images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from methods import CANDIDATES, FROM_FILES, OPENVINO_INT8
from torch import Tensor

from lcnn_compress.data.examples import Examples


@dataclass(frozen=True)
class Choice:
    """One of a method's candidates and a learning rate, 0 for what does not train."""

    candidate: str
    rate: float

    def __str__(self) -> str:
        return f"{self.candidate}, {self.rate:g}" if self.rate else self.candidate


def choices(method: str, rates: Sequence[float]) -> list[Choice]:
    """Return everything a method chooses from."""
    return [Choice(candidate, rate) for candidate in CANDIDATES[method] for rate in ((0.0,) if method in FROM_FILES else rates)]


@dataclass(frozen=True)
class Task:
    """One net to make."""

    method: str
    speed: float
    seed: int

    def path(self, work: Path, net: str) -> Path:
        """Return where its file goes: ONNX, or what OpenVINO writes."""
        name = f"{net}-{self.method.replace(' ', '-')}-{self.speed:g}-{self.seed}".replace("(", "").replace(")", "")
        return work / (name + (".xml" if self.method == OPENVINO_INT8 else ".onnx"))


@dataclass(frozen=True)
class Made:
    """A net, how to run it, and what it cost. ``write`` makes its file."""

    run: Callable[[Tensor], Tensor]
    write: Callable[[Path], None]
    facts: dict[str, Any]


class Part:
    """The first ``count`` images of a seeded order of ``examples``."""

    def __init__(self, examples: Examples, count: int, seed: int) -> None:
        self.examples = examples
        self.chosen = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))[:count]

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        x, y = self.examples.batch(self.chosen[indices])
        return x.contiguous(memory_format=torch.channels_last), y

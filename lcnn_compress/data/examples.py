"""What every source of data gives: normalised inputs, with labels, targets or nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lcnn_compress.errors import SettingsError


@dataclass(frozen=True)
class Preprocessing:
    """What is done to inputs in [0, 1]: (x - mean) / std, with one number for all channels or one for each.

    Raises:
        SettingsError: only one of the two is given, their lengths differ, or a number makes no sense.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise SettingsError(f"mean is {self.mean} and std is {self.std}; give both or none")
        if self.mean is None or self.std is None:
            return
        if len(self.mean) != len(self.std) or not self.mean:
            raise SettingsError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; give one per channel, or one each")
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise SettingsError(f"mean is {self.mean} and std is {self.std}; they must be finite, and std above 0")

    def check_channels(self, input_shape: tuple[int, ...]) -> None:
        """Raise SettingsError where there are not as many numbers as channels of an input (N, C, ...), nor one."""
        if self.mean is not None and len(self.mean) not in (1, *input_shape[1:2]):
            raise SettingsError(
                f"mean and std have {len(self.mean)} numbers, but the net takes {input_shape}; give one per channel, or one"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x, (n, C, ...) float32."""
        if self.mean is None or self.std is None:
            return x
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x - x.new_tensor(self.mean).view(shape)) / x.new_tensor(self.std).view(shape)


class Examples(Protocol):
    """Inputs with class numbers, with float targets, or alone."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return x (n, ...) float32, normalised, and y.

        y is (n,) int64 class numbers, (n, classes) bool with one True in each row, (n, ...) float32 targets, or None.
        """
        ...


@dataclass(frozen=True)
class Part:
    """Some of the examples of ``whole``: those at ``indices`` (n,)."""

    whole: Examples
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return examples of this part, as ``Examples.batch``."""
        return self.whole.batch(self.indices[indices])


def split(examples: Examples, n_held_out: int, seed: int) -> tuple[Part, Part]:
    """Return all examples but ``n_held_out``, and those, which ``seed`` draws at random; each part keeps its original order."""
    drawn = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    held_out, rest = drawn[:n_held_out].sort().values, drawn[n_held_out:].sort().values
    return Part(examples, rest), Part(examples, held_out)


def batches(examples: Examples, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield all examples, or those in ``order`` (n,) int64, ``size`` at a time; the last batch may be smaller.

    Raises:
        SettingsError: size is below 1.
    """
    if size < 1:
        raise SettingsError(f"batch size is {size}; it must be at least 1")
    order = torch.arange(len(examples)) if order is None else order
    for start in range(0, len(order), size):
        yield examples.batch(order[start : start + size])

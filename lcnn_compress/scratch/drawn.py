"""Examples as a training draws them: changed at random, and as many of each class.

Random numbers are torch's own, which a checkpoint of a training holds: an interrupted one draws on as it would have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lcnn_compress.data.arrays import Arrays
from lcnn_compress.data.examples import Examples, Part, batches
from lcnn_compress.data.images import Images
from lcnn_compress.errors import DataError, SettingsError


@dataclass(frozen=True)
class Augmented:
    """Images that are shifted and flipped at random (He et al. 2016, section 4.2).

    Attributes:
        whole: the images, (n, C, H, W).
        shift: pixels of zeros put on every side, out of which an image of the same size is cut; 0 shifts nothing.
        flip: whether one image in two is flipped left to right.

    Raises:
        SettingsError: ``shift`` is negative.
    """

    whole: Examples
    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise SettingsError(f"shift is {self.shift}; it must be 0 or more pixels")

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return examples as ``Examples.batch``; raises DataError where they are no images."""
        x, y = self.whole.batch(indices)
        if x.ndim != 4:
            raise DataError(f"x has shape {tuple(x.shape)}; only images (n, C, H, W) can be shifted and flipped")
        if self.shift:
            x = shifted(x, torch.randint(-self.shift, self.shift + 1, (2, len(x))))
        if self.flip:
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
        return x, y


def shifted(x: Tensor, offsets: Tensor) -> Tensor:
    """Return images (n, C, H, W), each moved up and left by its ``offsets`` (2, n), with zeros where it was not."""
    (n, _, height, width), (down, right) = x.shape, offsets
    rows, columns = torch.arange(height) + down[:, None], torch.arange(width) + right[:, None]
    inside: Tensor = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    moved: Tensor = x[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return (moved * inside).contiguous()


@dataclass(frozen=True)
class Balanced:
    """As many examples as ``whole`` has, whose classes are equally often drawn: first the class, then one of its examples.

    Attributes:
        whole: the examples.
        members: for each class the indices (n,) of its examples; at least one.
    """

    whole: Examples
    members: tuple[Tensor, ...]

    @classmethod
    def of(cls, examples: Examples) -> Balanced:
        """Return balanced examples; raises DataError where there are no classes, or one has no example."""
        numbers = class_numbers(examples)
        members = tuple((numbers == label).nonzero()[:, 0] for label in range(int(numbers.max()) + 1))
        missing = [label for label, found in enumerate(members) if not len(found)]
        if missing:
            raise DataError(f"class {missing[0]} has no example, so that classes cannot be drawn equally often; leave it out")
        return cls(examples, members)

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return examples as ``Examples.batch``: index i draws one of the class i modulo the number of classes."""
        classes = (indices % len(self.members)).tolist()
        part = torch.rand(len(classes)).tolist()
        found = [self.members[label][int(p * len(self.members[label]))] for label, p in zip(classes, part, strict=True)]
        return self.whole.batch(torch.stack(found))


def class_numbers(examples: Examples) -> Tensor:
    """Return the class number of every example, (n,) int64.

    Raises:
        DataError: the examples have no labels, or targets instead of classes.
    """
    y = _labels(examples)
    if y is None:
        raise DataError("the data has no labels; training needs them (class folders, y in the .npz, or idx files of labels)")
    if y.dtype == torch.bool:
        return y.long().argmax(1)
    flat = y.flatten()
    if len(flat) != len(y) or (y.is_floating_point() and not bool(((flat >= 0) & (flat == flat.floor())).all())):
        raise DataError(
            f"y holds targets of shape {tuple(y.shape)}, so that the number of classes is unknown; give class numbers"
        )
    return flat.long()


def _labels(examples: Examples) -> Tensor | None:
    """Return all labels; images are not decoded for them."""
    if isinstance(examples, Augmented):
        return _labels(examples.whole)
    if isinstance(examples, Part):
        whole = _labels(examples.whole)
        return None if whole is None else whole[examples.indices]
    if isinstance(examples, Arrays):
        return examples.y
    if isinstance(examples, Images):
        return examples.labels
    parts = [y for _, y in batches(examples, 256)]
    return torch.cat([y for y in parts if y is not None]) if parts and parts[0] is not None else None

"""What a net is trained and scored for: decided here, once, from the labels and from what the recipe states."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from lcnn_compress.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class Task(str, Enum):
    """What labels mean; the values are those of JSON.

    Attributes:
        CLASSES: one class for each example, (n,) int64; the net returns logits, (n, classes).
        LABELS: several labels for each example, (n, classes) float32 in [0, 1]; the net returns logits of the same shape.
        TARGETS: what the net shall return, (n, ...) float32.
    """

    CLASSES = "classes"
    LABELS = "labels"
    TARGETS = "targets"


def task_of(y: Tensor | None, stated: Task | None = None) -> Task | None:
    """Return the task of a batch: the stated one, else classes for integers and targets for floats; None without labels.

    Args:
        y: (n,) int64, (n, ...) float32, or None.
        stated: needed for several labels only, whose y looks like targets.

    Raises:
        DataError: y is not of the type that the stated task needs.
    """
    if y is None:
        return None
    if stated is None:
        return Task.TARGETS if y.is_floating_point() else Task.CLASSES
    if y.is_floating_point() == (stated == Task.CLASSES):
        kind = "class numbers" if stated == Task.CLASSES else "floats"
        raise DataError(f"y is {str(y.dtype).removeprefix('torch.')}, but the task is '{Task(stated).value}'; give {kind}")
    return Task(stated)  # a configuration holds its value


def check_labels(output: Tensor, y: Tensor) -> None:
    """Refuse several labels that do not fit the output.

    Args:
        output: of the net.
        y: float32 of any shape.

    Raises:
        DataError: the output is not (n, classes) like y, or a label is outside [0, 1].
    """
    if output.ndim != 2 or y.shape != output.shape:
        raise DataError(f"labels are {tuple(y.shape)}, but the net returns {tuple(output.shape)}; both must be (n, classes)")
    if len(y) and not 0 <= float(y.min()) <= float(y.max()) <= 1:
        raise DataError(f"labels run from {float(y.min()):g} to {float(y.max()):g}; several labels must lie in [0, 1]")

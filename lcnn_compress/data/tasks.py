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
    LABELS = "multilabel"
    TARGETS = "targets"


def task_of(output: Tensor, y: Tensor, stated: Task | None = None) -> tuple[Task, Tensor]:
    """Return the task of a batch, and its labels as that task takes them.

    The task is the stated one, else classes for integers and one-hot rows, and targets for floats; but whole numbers are
    class numbers where the net returns classes, because targets would have the shape of the output.

    Args:
        output: of the net.
        y: (n,) int64, (n, classes) bool with one True in each row, or (n, ...) float32.
        stated: needed for several labels only, whose y looks like targets.

    Raises:
        DataError: y is not of the type that the stated task needs, or its rows are one-hot of another number of classes.
    """
    task = None if stated is None else Task(stated)  # a configuration holds its value
    if str(y.dtype) == "torch.bool":
        if task not in (None, Task.CLASSES):
            return task, y.float()
        if output.ndim != 2 or y.shape != output.shape:
            shape = tuple(output.shape)
            raise DataError(f"y is one-hot of {y.shape[1]} classes, but the net returns {shape}; it must return (n, classes)")
        return Task.CLASSES, y.long().argmax(1)
    if task in (None, Task.CLASSES) and y.is_floating_point() and _are_class_numbers(output, y):
        return Task.CLASSES, y.flatten().long()
    if task is None:
        return Task.TARGETS if y.is_floating_point() else Task.CLASSES, y
    if y.is_floating_point() == (task == Task.CLASSES):
        kind = "class numbers" if task == Task.CLASSES else "floats"
        raise DataError(f"y is {str(y.dtype).removeprefix('torch.')}, but the task is '{task.value}'; give {kind}")
    return task, y


def _are_class_numbers(output: Tensor, y: Tensor) -> bool:
    """Tell whether floats are one whole number for each row of an output with several classes."""
    if output.ndim != 2 or output.shape[1] < 2 or y.numel() != len(y):
        return False
    return bool(((y >= 0) & (y == y.floor())).all())


def check_classes(output: Tensor, y: Tensor) -> None:
    """Refuse class numbers that do not fit the output.

    Args:
        output: of the net.
        y: (n,) int64, n at least 1.

    Raises:
        DataError: the output is not (n, classes), or has no class of a number.
    """
    if output.ndim != 2 or output.shape[1] < 2 or not 0 <= int(y.min()) <= int(y.max()) < output.shape[1]:
        raise DataError(
            f"class numbers run from {int(y.min())} to {int(y.max())}, but the net returns {tuple(output.shape)}; "
            "it must return (n, classes) with a class for each number, the first of which is 0"
        )


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

"""What the labels of a data set are: class numbers, one-hot rows or targets. Many tell it: one alone may look like any."""

from __future__ import annotations

from torch import Tensor

from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError


def labels_of(spec: str, y: Tensor, some: Tensor, task: Task | None = None) -> Tensor:
    """Return (n,) int64 class numbers, (n, classes) bool with one True in each row, or (n, ...) float32 targets.

    Args:
        spec: where the labels come from, for errors.
        y: uint8, int64 or float32, (n, ...); one class number for each example may stand in a column, (n, 1).
        some: labels of the same data, perhaps all, that tell whether rows are one-hot.
        task: what labels mean, where it is said; several labels are float32 of 0 and 1, whatever they look like.

    Raises:
        DataError: integers are neither class numbers nor one-hot, some rows are one-hot and others not, or several labels are
            not 0 or 1.
    """
    if task == Task.LABELS:
        return _several(spec, y)
    if y.ndim == 2 and y.shape[1] > 1 and _is_one_hot(some):
        if not _is_one_hot(y):
            raise DataError(f"{spec}: some rows of y are one-hot and some are not; give one class number for each example")
        return y.bool()
    if y.is_floating_point():
        return y
    numbers = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if numbers.ndim != 1:
        raise DataError(
            f"{spec}: y has shape {tuple(y.shape)}; give class numbers of shape ({len(y)},), or float targets, or one-hot rows"
        )
    if len(numbers) and int(numbers.min()) < 0:
        lowest = int(numbers.min())
        raise DataError(f"{spec}: y holds the class number {lowest}; class numbers start at 0, leave out examples without one")
    return numbers.long()


def _several(spec: str, y: Tensor) -> Tensor:
    if y.ndim != 2:
        raise DataError(f"{spec}: y has shape {tuple(y.shape)}; several labels for an image are (n, labels), each 0 or 1")
    wrong = ((y != 0) & (y != 1)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        value = float(y[row, column])
        way_out = "; write 0 for -1" if value == -1 else ""
        raise DataError(f"{spec}: label {column} of example {row} is {value:g}; each must be 0 or 1{way_out}")
    return y.float()


def _is_one_hot(y: Tensor) -> bool:
    return bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())

"""What labels mean: told by their type, or stated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcnn_compress.data.tasks import Task, check_labels, task_of
from lcnn_compress.errors import DataError

INTEGERS, FLOATS = torch.tensor([0, 2]), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("y", "stated", "expected"),
    [
        (None, None, None), (None, Task.LABELS, None), (INTEGERS, None, Task.CLASSES), (FLOATS, None, Task.TARGETS),
        (INTEGERS, Task.CLASSES, Task.CLASSES), (FLOATS, Task.LABELS, Task.LABELS), (FLOATS, Task.TARGETS, Task.TARGETS),
    ],
)  # fmt: skip
def test_the_task_of_labels(y: Tensor | None, stated: Task | None, expected: Task | None) -> None:
    assert task_of(y, stated) == expected


def test_labels_of_another_type_than_the_task_needs() -> None:
    with pytest.raises(DataError, match="y is int64, but the task is 'labels'; give floats"):
        task_of(INTEGERS, Task.LABELS)
    with pytest.raises(DataError, match="y is float32, but the task is 'classes'; give class numbers"):
        task_of(FLOATS, Task.CLASSES)


def test_several_labels_that_do_not_fit() -> None:
    check_labels(FLOATS, torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]))
    with pytest.raises(DataError, match=r"labels are \(2, 2\), but the net returns \(2, 3\); both must be \(n, classes\)"):
        check_labels(FLOATS, torch.zeros(2, 2))
    with pytest.raises(DataError, match=r"labels are \(2, 3, 1\), but the net returns \(2, 3, 1\)"):
        check_labels(FLOATS[..., None], FLOATS[..., None])
    with pytest.raises(DataError, match=r"labels run from -1 to 1.5; several labels must lie in \[0, 1\]"):
        check_labels(FLOATS, torch.tensor([[0.0, 1.5, 0.5], [0.0, -1.0, 1.0]]))

"""What labels mean: told by their type, or stated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcnn_compress.data.tasks import Task, check_classes, check_labels, task_of
from lcnn_compress.errors import DataError

INTEGERS, FLOATS = torch.tensor([0, 2]), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("y", "stated", "expected"),
    [
        (INTEGERS, None, Task.CLASSES), (FLOATS, None, Task.TARGETS),
        (INTEGERS, Task.CLASSES, Task.CLASSES), (FLOATS, Task.LABELS, Task.LABELS), (FLOATS, Task.TARGETS, Task.TARGETS),
    ],
)  # fmt: skip
def test_the_task_of_labels(y: Tensor, stated: Task | None, expected: Task) -> None:
    task, taken = task_of(FLOATS, y, stated)
    assert task == expected
    assert taken is y


@pytest.mark.parametrize("stated", [None, Task.CLASSES])
@pytest.mark.parametrize("y", [torch.eye(3).bool()[[0, 2]], torch.tensor([0.0, 2.0]), torch.tensor([[0.0], [2.0]])])
def test_one_hot_rows_and_whole_floats_are_class_numbers(y: Tensor, stated: Task | None) -> None:
    task, taken = task_of(FLOATS, y, stated)
    assert task == Task.CLASSES
    assert (taken.dtype, taken.tolist()) == (torch.int64, [0, 2])


@pytest.mark.parametrize(
    ("output", "y"),
    [(torch.zeros(2, 1), torch.ones(2, 1)), (torch.zeros(2), torch.ones(2)), (torch.zeros(2, 3), torch.tensor([0.0, 0.5]))],
)
def test_floats_like_the_output_or_between_whole_numbers_stay_targets(output: Tensor, y: Tensor) -> None:
    assert task_of(output, y) == (Task.TARGETS, y)


def test_one_hot_rows_can_be_stated_to_be_several_labels_or_targets() -> None:
    y = torch.eye(3).bool()[:2]
    for stated in (Task.LABELS, Task.TARGETS):
        task, taken = task_of(FLOATS, y, stated)
        assert task == stated
        assert taken.tolist() == [[1, 0, 0], [0, 1, 0]]
    for output in (FLOATS[:, :2], FLOATS[..., None]):
        with pytest.raises(DataError, match=r"y is one-hot of 3 classes, but the net returns \(2, .*\); it must return"):
            task_of(output, y)


def test_class_numbers_that_do_not_fit() -> None:
    check_classes(FLOATS, INTEGERS)
    for output, y in (
        (FLOATS, INTEGERS + 1),
        (FLOATS, INTEGERS - 1),
        (FLOATS[..., None], INTEGERS),
        (FLOATS[:, :1], INTEGERS * 0),
    ):
        with pytest.raises(
            DataError, match=f"class numbers run from {y.min()} to {y.max()}, but the net returns .* first .* is 0"
        ):
            check_classes(output, y)


def test_labels_of_another_type_than_the_task_needs() -> None:
    with pytest.raises(DataError, match="y is int64, but the task is 'multilabel'; give floats"):
        task_of(FLOATS, INTEGERS, Task.LABELS)
    with pytest.raises(DataError, match="y is float32, but the task is 'classes'; give class numbers"):
        task_of(FLOATS, FLOATS, Task.CLASSES)


def test_several_labels_that_do_not_fit() -> None:
    check_labels(FLOATS, torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]))
    with pytest.raises(DataError, match=r"labels are \(2, 2\), but the net returns \(2, 3\); both must be \(n, classes\)"):
        check_labels(FLOATS, torch.zeros(2, 2))
    with pytest.raises(DataError, match=r"labels are \(2, 3, 1\), but the net returns \(2, 3, 1\)"):
        check_labels(FLOATS[..., None], FLOATS[..., None])
    with pytest.raises(DataError, match=r"labels run from -1 to 1.5; several labels must lie in \[0, 1\]"):
        check_labels(FLOATS, torch.tensor([[0.0, 1.5, 0.5], [0.0, -1.0, 1.0]]))

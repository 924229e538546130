"""Labels as people store them become class numbers, one-hot rows or targets, or are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcnn_compress.data.labels import labels_of
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError

ONE_HOT = torch.eye(3, dtype=torch.int64)[[2, 0, 0]]


@pytest.mark.parametrize("numbers", [torch.tensor([2, 0, 0]), torch.tensor([[2], [0], [0]])], ids=["(n,)", "(n, 1)"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_class_numbers_in_a_row_or_a_column(numbers: Tensor, dtype: torch.dtype) -> None:
    y = labels_of("d", numbers.to(dtype), numbers)
    assert (y.dtype, y.tolist()) == (torch.int64, [2, 0, 0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_one_hot_rows_of_any_type(dtype: torch.dtype) -> None:
    y = labels_of("d", ONE_HOT.to(dtype), ONE_HOT)
    assert (y.dtype, y.tolist()) == (torch.bool, ONE_HOT.bool().tolist())


@pytest.mark.parametrize("y", [torch.rand(3), torch.rand(3, 1), torch.rand(3, 2), torch.ones(3, 1), torch.rand(3, 1, 4, 4)])
def test_other_floats_are_targets(y: Tensor) -> None:
    assert labels_of("d", y, y) is y


def test_rows_that_only_look_one_hot_here_stay_what_they_are() -> None:
    y = torch.eye(2)
    assert labels_of("d", y, torch.ones(5, 2)) is y
    with pytest.raises(DataError, match="d: some rows of y are one-hot and some are not"):
        labels_of("d", torch.ones(5, 2), y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, -100]), "y holds the class number -100; class numbers start at 0, leave out examples without one"),
        (torch.tensor([[0], [-1]]), "y holds the class number -1"),
        (ONE_HOT + 1, r"y has shape \(3, 3\); give class numbers of shape \(3,\), or float targets, or one-hot rows"),
        (torch.tensor([[1, 1], [0, 1]]), r"y has shape \(2, 2\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"y has shape \(3, 4, 4\)"),
    ],
)
def test_integers_that_are_no_classes(y: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels_of("d", y, y)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("y", [ONE_HOT, torch.tensor([[1, 1], [0, 0]]), torch.tensor([[1], [0]])])
def test_several_labels_are_floats_even_where_rows_look_one_hot(y: Tensor, dtype: torch.dtype) -> None:
    found = labels_of("d", y.to(dtype), y, Task.LABELS)
    assert (found.dtype, found.tolist()) == (torch.float32, y.tolist())


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([1, 0]), r"d: y has shape \(2,\); several labels for an image are \(n, labels\), each 0 or 1"),
        (torch.tensor([[1, 0], [1, -1]]), "d: label 1 of example 1 is -1; each must be 0 or 1; write 0 for -1"),
        (torch.tensor([[1.0, 0.25]]), r"d: label 1 of example 0 is 0\.25; each must be 0 or 1$"),
    ],
)
def test_other_labels_are_refused(y: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels_of("d", y, y, Task.LABELS)

"""Preprocessing and batches of examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import NET, everything, saved

from lcnn_compress.data.examples import Preprocessing, batches, split
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.errors import SettingsError


def test_normalisation_of_each_channel(tmp_path: Path) -> None:
    x = np.full((1, 3, 4, 4), 255, np.uint8)
    spec = saved(tmp_path, x=x)
    got, _ = everything(load_examples(spec, NET, Preprocessing((0.0, 0.5, 1.0), (1.0, 0.25, 2.0))))
    assert got[0, :, 0, 0].tolist() == [1.0, 2.0, 0.0]
    got, _ = everything(load_examples(spec, NET, Preprocessing((0.5,), (0.5,))))
    assert got.flatten().tolist() == [1.0] * 48


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), None, r"mean is \(0\.5,\) and std is None; give both or none"),
        (None, (0.5,), r"mean is None and std is \(0\.5,\)"),
        ((0.5, 0.5), (0.5,), "mean has 2 numbers and std 1; give one per channel"),
        ((), (), "mean has 0 numbers and std 0"),
        ((0.5,), (0.0,), r"std is \(0\.0,\); they must be finite, and std above 0"),
        ((float("nan"),), (1.0,), r"mean is \(nan,\)"),
    ],
)
def test_preprocessing_is_checked(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Preprocessing(mean, std)


def test_batches(tmp_path: Path) -> None:
    examples = load_examples(saved(tmp_path, x=np.arange(5, dtype=np.float32)[:, None]), (1, 1))
    assert [x[:, 0].tolist() for x, _ in batches(examples, 2)] == [[0, 1], [2, 3], [4]]
    assert [x[:, 0].tolist() for x, _ in batches(examples, 3, torch.tensor([4, 0, 0, 2]))] == [[4, 0, 0], [2]]
    assert [x[:, 0].tolist() for x, _ in batches(examples, 9)] == [[0, 1, 2, 3, 4]]


def test_parts_of_examples_are_drawn_once_and_do_not_meet(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1), y=np.arange(10))
    examples = load_examples(str(tmp_path / "data.npz"), (1, 1, 1, 1))
    rest, held_out = split(examples, 3, seed=1)
    numbers = [part.batch(torch.arange(len(part)))[1].tolist() for part in (rest, held_out)]  # type: ignore[union-attr]
    assert [len(n) for n in numbers] == [7, 3]
    assert sorted(numbers[0] + numbers[1]) == list(range(10))
    assert all(n == sorted(n) for n in numbers)
    again = split(examples, 3, seed=1)[1]
    assert torch.equal(again.indices, held_out.indices)
    assert not torch.equal(split(examples, 3, seed=2)[1].indices, held_out.indices)

"""Examples as a training draws them: shifted, flipped, and of all classes alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_files import everything
from PIL import Image
from torch import Tensor

from lcnn_compress.data.arrays import Arrays
from lcnn_compress.data.examples import Examples, Part, Preprocessing
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.errors import DataError, SettingsError
from lcnn_compress.scratch.drawn import Augmented, Balanced, class_numbers, shifted

X = torch.arange(1.0, 25).reshape(2, 1, 3, 4)


def arrays(x: Tensor, y: Tensor | None) -> Arrays:
    return Arrays(x, y, Preprocessing())


def test_images_move_by_their_own_offsets_with_zeros_around() -> None:
    moved = shifted(X, torch.tensor([[1, -2], [0, 1]]))
    assert moved[0, 0].tolist() == [[5, 6, 7, 8], [9, 10, 11, 12], [0, 0, 0, 0]]
    assert moved[1, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [14, 15, 16, 0]]


def test_every_shift_and_flip_is_drawn_and_nothing_else() -> None:
    image = X[:1].expand(600, -1, -1, -1)
    torch.manual_seed(0)
    seen = {tuple(x.flatten().tolist()) for x in everything(Augmented(arrays(image, None), shift=1, flip=True))[0]}
    offsets = [torch.tensor([[i], [j]]) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    wanted = [shifted(X[:1], offset) for offset in offsets]
    wanted += [x.flip(3) for x in wanted]
    assert seen == {tuple(x.flatten().tolist()) for x in wanted}


def test_nothing_is_changed_unless_asked_for() -> None:
    examples = Augmented(arrays(X, torch.tensor([1, 0])))
    x, y = everything(examples)
    assert torch.equal(x, X)
    assert y is not None
    assert y.tolist() == [1, 0]


def test_only_images_can_be_shifted() -> None:
    with pytest.raises(DataError, match="only images"):
        everything(Augmented(arrays(torch.zeros(2, 3), None), flip=True))
    with pytest.raises(SettingsError, match="shift is -1"):
        Augmented(arrays(X, None), shift=-1)


def test_classes_are_drawn_equally_often_and_all_examples_of_each() -> None:
    y = torch.tensor([0] * 90 + [1] * 6 + [2] * 4)
    balanced = Balanced.of(arrays(torch.arange(100.0)[:, None], y))
    torch.manual_seed(0)
    draws = [balanced.batch(torch.randperm(100)) for _ in range(20)]
    labels = torch.cat([labels for _, labels in draws if labels is not None])
    assert len(balanced) == 100
    assert labels.bincount().tolist() == [680, 660, 660]
    drawn = torch.cat([x for x, _ in draws]).flatten().long()
    assert set(drawn.tolist()) == set(range(100))
    assert drawn.bincount()[90:].min() > 60


def test_random_numbers_are_those_of_torch() -> None:
    examples = Augmented(Balanced.of(arrays(X.repeat(8, 1, 1, 1), torch.tensor([0, 1] * 8))), shift=2, flip=True)
    states = []
    torch.manual_seed(3)
    for _ in range(2):
        states.append((torch.get_rng_state(), everything(examples)[0]))
    for state, wanted in states:
        torch.set_rng_state(state)
        assert torch.equal(everything(examples)[0], wanted)


def folder_of_classes(folder: Path) -> Examples:
    for label in "abc":
        (folder / label).mkdir()
        Image.new("L", (4, 4)).save(folder / label / "image.png")
    return load_examples(str(folder), (1, 1, 4, 4))


def test_class_numbers_of_every_source(tmp_path: Path) -> None:
    numbers = torch.tensor([2, 0, 1])
    whole = arrays(torch.zeros(3, 2), numbers)
    assert class_numbers(whole).tolist() == [2, 0, 1]
    assert class_numbers(Part(whole, torch.tensor([2, 0]))).tolist() == [1, 2]
    assert class_numbers(arrays(torch.zeros(3, 2), torch.eye(3)[numbers].bool())).tolist() == [2, 0, 1]
    assert class_numbers(arrays(torch.zeros(3, 2), numbers.float())).tolist() == [2, 0, 1]
    assert class_numbers(folder_of_classes(tmp_path)).tolist() == [0, 1, 2]
    assert class_numbers(Augmented(whole)).tolist() == [2, 0, 1]


@pytest.mark.parametrize("y", [None, torch.rand(3), torch.rand(3, 2)])
def test_without_classes_their_number_is_unknown(y: Tensor | None) -> None:
    if y is not None:
        y[0] = 0.5
    with pytest.raises(DataError, match="no labels" if y is None else "number of classes is unknown"):
        class_numbers(arrays(torch.zeros(3, 2), y))


def test_a_class_without_examples_cannot_be_balanced() -> None:
    with pytest.raises(DataError, match="class 1 has no example"):
        Balanced.of(arrays(torch.zeros(2, 2), torch.tensor([0, 2])))

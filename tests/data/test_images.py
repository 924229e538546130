"""Folders of images: labels, sizes, modes, and every defect is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import NET, everything
from PIL import Image

from lcnn_compress.data.examples import Preprocessing
from lcnn_compress.data.images import size_of_all
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.errors import DataError


def write_image(path: Path, colour: int | tuple[int, ...], size: tuple[int, int] = (4, 4), mode: str = "RGB") -> None:
    """Write an image of one colour; size is (width, height) as in Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def two_classes(folder: Path) -> None:
    """Write a cat that is green, a cat that is black and, in a deeper folder, a red dog."""
    write_image(folder / "dog" / "deep" / "b.PNG", (255, 0, 51))
    write_image(folder / "cat" / "c.jpg", (0, 0, 0))
    write_image(folder / "cat" / "a.png", (0, 255, 0))


def is_two_classes(folder: Path) -> bool:
    x, y = everything(load_examples(str(folder), NET))
    assert y is not None
    assert x[:, :, 0, 0].tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, pytest.approx(0.2)]]
    return (y.dtype, y.tolist()) == (torch.int64, [0, 0, 1])


def test_class_folders_give_labels_in_sorted_order(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    assert is_two_classes(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "__MACOSX",
        ".ipynb_checkpoints",
        ".DS_Store",
        "@eaDir",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        ".git",
    ],
)
@pytest.mark.parametrize("place", ["", "cat", "dog/deep"])
def test_what_systems_and_tools_leave_is_no_class_and_no_image(name: str, place: str, tmp_path: Path) -> None:
    two_classes(tmp_path)
    write_image(tmp_path / place / name / "cat" / "a.png", (1, 1, 1))
    write_image(tmp_path / place / name / "b.png", (1, 1, 1))
    (tmp_path / place / "._a.png").write_bytes(b"a resource fork")
    (tmp_path / place / "Thumbs.db").write_bytes(b"x")
    assert is_two_classes(tmp_path)
    assert size_of_all(tmp_path) == (4, 4)


def test_a_folder_that_need_not_be_a_class_is_refused_where_labels_are_wanted(tmp_path: Path) -> None:
    two_classes(tmp_path / "data")
    for name in ("bird", "notes"):
        (tmp_path / "data" / name).mkdir()
        (tmp_path / "data" / name / "labels.csv").write_text("no image")
    with pytest.raises(
        DataError, match="each folder in it is a class, but bird, notes holds no images; remove what is no class"
    ):
        load_examples(str(tmp_path / "data"), NET)
    assert len(load_examples(str(tmp_path / "data"), NET, labelled=False)) == 3


@pytest.mark.parametrize("names", [("train", "val"), ("Test",), ("archive",)])
def test_a_folder_around_the_class_folders_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        two_classes(tmp_path / name)
    with pytest.raises(DataError, match=f"holds {', '.join(names)}, not a folder for each class; give .*/{names[0]}$"):
        load_examples(str(tmp_path), NET)
    assert is_two_classes(tmp_path / names[0])


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "b.png", (255, 255, 255))
    write_image(tmp_path / "a.png", (0, 0, 0))
    x, y = everything(load_examples(str(tmp_path), NET, Preprocessing((0.5,), (0.5,))))
    assert x[:, 0, 0, 0].tolist() == [-1, 1]
    assert y is None


@pytest.mark.parametrize(("mode", "colour"), [("L", 102), ("RGB", (102, 102, 102)), ("RGBA", (102, 102, 102, 255)), ("P", 102)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_mode_become_grey_or_rgb(mode: str, colour: int, channels: int, tmp_path: Path) -> None:
    image = Image.new("RGB" if mode == "P" else mode, (4, 4), (102,) * 3 if mode == "P" else colour)
    (image.quantize() if mode == "P" else image).save(tmp_path / "a.png")
    x, _ = everything(load_examples(str(tmp_path), (1, channels, 4, 4)))
    assert x.shape == (1, channels, 4, 4)
    assert x.flatten().tolist() == [pytest.approx(102 / 255)] * (16 * channels)


@pytest.mark.parametrize(("width", "height"), [(12, 4), (4, 12), (24, 8), (3, 9), (4, 4), (1, 1)])
def test_the_shorter_side_is_resized_and_the_centre_is_kept(width: int, height: int, tmp_path: Path) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    if width > height:
        pixels[:, width // 3 : -(width // 3)] = 255
    elif height > width:
        pixels[height // 3 : -(height // 3)] = 255
    else:
        pixels[:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x, _ = everything(load_examples(str(tmp_path), NET))
    assert x.shape == (1, 3, 4, 4)
    assert x[0, :, 1:3, 1:3].flatten().tolist() == [1.0] * 12  # the rim may mix with what was cut away


def test_a_net_that_is_not_square_gets_its_own_height_and_width(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", (255, 0, 0), (50, 50))
    write_image(tmp_path / "b.png", (255, 0, 0), (7, 90))
    x, _ = everything(load_examples(str(tmp_path), (1, 3, 6, 10)))
    assert x.shape == (2, 3, 6, 10)
    assert x[:, 0].flatten().tolist() == [1.0] * 120


def test_defects_of_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds no images; give a folder of images or of one folder per class \(\.bmp .*\.webp\)"
    ):
        load_examples(str(tmp_path), NET)
    write_image(tmp_path / "cat" / "a.png", (0, 0, 0))
    write_image(tmp_path / "b.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"holds images \(b\.png, \.\.\.\) beside folders with images"):
        load_examples(str(tmp_path), NET)
    for shape in ((1, 5, 4, 4), (1, 12), (1, 3, 0, 4)):
        with pytest.raises(DataError) as caught:
            load_examples(str(tmp_path), shape)
        assert f"is a folder of images, but the net takes {shape}; images fit (N, 1 or 3, H, W) only" in str(caught.value)


def test_images_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "good.png", (0, 0, 0), (64, 64))
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    examples = load_examples(str(tmp_path), NET)
    for index, message in enumerate(
        ["bad.png: is not an image that", "cut.png: is not an image that", "deep.png: has pixels of mode I"]
    ):
        with pytest.raises(DataError) as caught:
            examples.batch(torch.tensor([index]))
        assert f"{tmp_path}/{message}" in str(caught.value)
    assert examples.batch(torch.tensor([3]))[0].shape == (1, 3, 4, 4)

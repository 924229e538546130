"""Folders of images: labels, sizes, modes, and every defect is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import NET, everything
from PIL import Image

from lcnn_compress.data.examples import Preprocessing
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.errors import DataError


def write_image(path: Path, colour: int | tuple[int, ...], size: tuple[int, int] = (4, 4), mode: str = "RGB") -> None:
    """Write an image of one colour; size is (width, height) as in Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def test_class_folders_give_labels_in_sorted_order(tmp_path: Path) -> None:
    write_image(tmp_path / "dog" / "deep" / "b.PNG", (255, 0, 51))
    write_image(tmp_path / "cat" / "c.jpg", (0, 0, 0))
    write_image(tmp_path / "cat" / "a.png", (0, 255, 0))
    write_image(tmp_path / ".hidden" / "a.png", (1, 1, 1))
    (tmp_path / "bird").mkdir()  # a class without images keeps its number
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    x, y = everything(load_examples(str(tmp_path), NET))
    assert x.shape == (3, 3, 4, 4)
    assert y is not None
    assert (y.dtype, y.tolist()) == (torch.int64, [1, 1, 2])
    assert x[:, :, 0, 0].tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, pytest.approx(0.2)]]


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

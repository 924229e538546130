"""Folders of images, decoded when they are asked for."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lcnn_compress.data.arrays import scaled
from lcnn_compress.data.examples import Preprocessing
from lcnn_compress.errors import DataError, FileError

# The sizes of at most this many images of a folder are compared.
MAX_SIZES = 1000
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class _Images:
    """Image files, decoded when they are asked for."""

    paths: list[Path]
    labels: Tensor | None  # (n,)
    mode: str  # of Pillow: "L" or "RGB"
    size: tuple[int, int]  # height, width
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = torch.stack([_decode(self.paths[i], self.mode, self.size) for i in indices.tolist()])
        return self.preprocessing(scaled(pixels)), None if self.labels is None else self.labels[indices]


def image_folder(folder: Path, input_shape: tuple[int, ...], preprocessing: Preprocessing) -> _Images:
    mode = {1: "L", 3: "RGB"}.get(input_shape[1]) if len(input_shape) == 4 else None
    if mode is None or 0 in input_shape[2:]:
        raise DataError(f"{folder}: is a folder of images, but the net takes {input_shape}; images fit (N, 1 or 3, H, W) only")
    size = (input_shape[2], input_shape[3])
    try:
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        flat = _images_in(folder.iterdir())
        found = [(path, label) for label, sub in enumerate(classes) for path in _images_in(sub.rglob("*"))]
    except OSError as error:
        raise FileError(f"{folder}: cannot be read: {error.strerror or error}; check its permissions") from error
    if flat and found:
        raise DataError(
            f"{folder}: holds images ({flat[0].name}, ...) beside folders with images; move them into class folders"
        )
    if flat:
        return _Images(flat, None, mode, size, preprocessing)
    if not found:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder}: holds no images; give a folder of images or of one folder per class ({suffixes})")
    return _Images([path for path, _ in found], torch.tensor([label for _, label in found]), mode, size, preprocessing)


def size_of_all(folder: Path) -> tuple[int, int] | None:
    """Return the height and width that all images below a folder have, judged by 1,000 of them; None where they differ.

    Raises:
        OSError: an image cannot be opened.
    """
    paths = _images_in(folder.rglob("*"))
    size: tuple[int, int] | None = None
    for path in paths[:: -(-len(paths) // MAX_SIZES) or 1]:
        with Image.open(path) as image:  # this reads the head of the file only
            found = (image.height, image.width)
        if size not in (None, found):
            return None
        size = found
    return size


def _images_in(entries: Iterable[Path]) -> list[Path]:
    return sorted(e for e in entries if e.suffix.lower() in IMAGE_SUFFIXES and not e.name.startswith(".") and e.is_file())


def _decode(path: Path, mode: str, size: tuple[int, int]) -> Tensor:
    """Return (1 or 3, H, W) uint8: the image resized until it just covers H x W, and its centre."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: has pixels of mode {image.mode}, not 8 bits a channel; convert it to 8 bits")
            pixels = image.convert(mode)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is not an image that can be decoded ({error}); replace or remove it") from error
    height, width = size
    scale = max(height / pixels.height, width / pixels.width)
    pixels = pixels.resize(
        (max(width, round(pixels.width * scale)), max(height, round(pixels.height * scale))), Image.Resampling.BILINEAR
    )
    left, top = (pixels.width - width) // 2, (pixels.height - height) // 2
    array = np.array(pixels.crop((left, top, left + width, top + height)))  # (H, W) or (H, W, 3)
    return torch.from_numpy(array.reshape(height, width, -1)).permute(2, 0, 1)

"""Folders of images, decoded when they are asked for."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lcnn_compress.data.arrays import scaled
from lcnn_compress.data.examples import Preprocessing
from lcnn_compress.data.idx import is_idx
from lcnn_compress.data.pixels import check_bytes
from lcnn_compress.errors import DataError, FileError

# The sizes of at most this many images of a folder are compared.
MAX_SIZES = 1000
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Operating systems, file servers and tools leave folders of these names, or hidden ones, beside the user's own.
NOT_THE_USERS = frozenset({
    "__macosx", "__pycache__", "$recycle.bin", "recycler", "system volume information", "lost+found", "found.000",
    "@eadir", "#recycle", "@recycle", "#snapshot", "@sharebin", "network trash folder", "temporary items",
})  # fmt: skip
# Folders of these names are parts of a data set: their own folders are the classes.
PARTS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})


@dataclass(frozen=True)
class Images:
    """Image files, decoded when they are asked for."""

    paths: list[Path]
    labels: Tensor | None  # (n, ...)
    mode: str  # of Pillow: "L" or "RGB"
    size: tuple[int, int]  # height, width
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = torch.stack([_decode(self.paths[i], self.mode, self.size) for i in indices.tolist()])
        return self.preprocessing(scaled(pixels)), None if self.labels is None else self.labels[indices]


def image_folder(folder: Path, input_shape: tuple[int, ...], preprocessing: Preprocessing, *, labelled: bool = True) -> Images:
    """Open a folder of images, or of one folder for each class; folders that operating systems and tools leave do not count.

    Args:
        labelled: whether labels are wanted: then a class folder without images is refused, because it is not known whether
            it is a class, and all numbers after it depend on that.

    Raises:
        DataError: the folder holds no images, or it is not clear what they are, or the net takes none.
        FileError: the folder cannot be read.
    """
    mode, size = _form_of_images(f"{folder}: is a folder of images", input_shape)
    check_bytes(str(folder), preprocessing)
    try:
        entries = _own(folder)
        classes = [entry for entry in entries if entry.is_dir()]
        flat, by_class = _images_of(entries), {entry: _images_below(entry) for entry in classes}
    except OSError as error:
        raise FileError(f"{folder}: cannot be read: {error.strerror or error}; check its permissions") from error
    if flat and any(by_class.values()):
        raise DataError(
            f"{folder}: holds images ({flat[0].name}, ...) beside folders with images; move them into class folders"
        )
    if flat:
        return Images(flat, None, mode, size, preprocessing)
    found = [(path, label) for label, images in enumerate(by_class.values()) for path in images]
    if not found:
        if idx := next((entry for entry in entries if "images" in entry.name and is_idx(entry)), None):
            raise DataError(f"{folder}: holds idx files; name the one of the images, such as {idx}")
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder}: holds no images; give a folder of images or of one folder per class ({suffixes})")
    if labelled:
        _check_classes(folder, by_class)
    return Images([path for path, _ in found], torch.tensor([label for _, label in found]), mode, size, preprocessing)


def image_files(
    paths: Sequence[Path], input_shape: tuple[int, ...], preprocessing: Preprocessing, labels: Tensor | None = None
) -> Images:
    """Open image files, at least one; ``labels`` (n, ...) are theirs, if they have any.

    Raises:
        DataError: the net takes no images, or mean and std are those of bytes. Files that are no images are found later.
        FileError: a file is not there.
    """
    for path in paths:
        if not path.is_file():
            raise FileError(f"{path}: no such file; check the path")
    mode, size = _form_of_images(f"{paths[0]}: is an image", input_shape)
    check_bytes(str(paths[0]), preprocessing)
    return Images([*paths], labels, mode, size, preprocessing)


def _form_of_images(what: str, input_shape: tuple[int, ...]) -> tuple[str, tuple[int, int]]:
    """Return the mode of Pillow and the size that a net takes; ``what`` is given to it, for errors."""
    mode = {1: "L", 3: "RGB"}.get(input_shape[1]) if len(input_shape) == 4 else None
    if mode is None or 0 in input_shape[2:]:
        raise DataError(f"{what}, but the net takes {input_shape}; images fit (N, 1 or 3, H, W) only")
    return mode, (input_shape[2], input_shape[3])


def _check_classes(folder: Path, by_class: Mapping[Path, Sequence[Path]]) -> None:
    """Refuse folders that need not be classes: their order gives all images their class numbers."""
    empty = [entry.name for entry, images in by_class.items() if not images]
    if empty:
        names = ", ".join(empty[:4]) + (f" and {len(empty) - 4} more" if len(empty) > 4 else "")
        raise DataError(
            f"{folder}: each folder in it is a class, but {names} holds no images; remove what is no class, or, where the net "
            "knows a class that has no images here, give x and y as .npz: class numbers follow the order of the folders"
        )
    first, images = next(iter(by_class.items()))
    is_wrapper = len(by_class) == 1 and first not in {image.parent for image in images}
    if is_wrapper or {entry.name.lower() for entry in by_class} <= PARTS:
        names = ", ".join(entry.name for entry in by_class)
        raise DataError(f"{folder}: holds {names}, not a folder for each class; give the folder that does, such as {first}")


def size_of_all(folder: Path) -> tuple[int, int] | None:
    """Return the height and width that all images below a folder have; see ``common_size``."""
    return common_size(_images_below(folder))


def common_size(paths: Sequence[Path]) -> tuple[int, int] | None:
    """Return the height and width that all images have, judged by 1,000 of them; None where they differ.

    Raises:
        OSError: an image cannot be opened.
    """
    size: tuple[int, int] | None = None
    for path in paths[:: -(-len(paths) // MAX_SIZES) or 1]:
        with Image.open(path) as image:  # this reads the head of the file only
            found = (image.height, image.width)
        if size not in (None, found):
            return None
        size = found
    return size


def _own(folder: Path) -> list[Path]:
    """Return, in order of their names, what the user has put into a folder."""
    return sorted(e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in NOT_THE_USERS)


def _images_of(entries: Iterable[Path]) -> list[Path]:
    return [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]


def _images_below(folder: Path) -> list[Path]:
    """Return, in order, the images in a folder and in the user's folders below it; links to folders are not followed there."""
    images, unread = [], [folder]
    while unread:
        entries = _own(unread.pop())
        images += _images_of(entries)
        unread += [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    return sorted(images)


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

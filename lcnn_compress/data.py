"""Read examples to calibrate, train and test with: image folders, NumPy files, and what a Python function returns.

Every source gives the same thing: float32 inputs, in [0, 1] where they were bytes and then normalised, and with them class
numbers, float targets or nothing. Files are checked when they are opened; images are decoded when a batch asks for them.
"""

from __future__ import annotations

import logging
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from lcnn_compress.errors import DataError, FileError, SettingsError
from lcnn_compress.loading import import_callable, is_callable_spec

_log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# What numpy raises for files that are cut off, changed, or of another kind.
_DAMAGED = (
    ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, ValueError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_NPZ_WAY_OUT = "write it with numpy.savez(file, x=images, y=labels)"


@dataclass(frozen=True)
class Preprocessing:
    """What is done to inputs in [0, 1]: (x - mean) / std, with one number for all channels or one for each.

    Raises:
        SettingsError: only one of the two is given, their lengths differ, or a number makes no sense.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise SettingsError(f"mean is {self.mean} and std is {self.std}; give both or none")
        if self.mean is None or self.std is None:
            return
        if len(self.mean) != len(self.std) or not self.mean:
            raise SettingsError(f"mean has {len(self.mean)} numbers and std {len(self.std)}; give one per channel, or one each")
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise SettingsError(f"mean is {self.mean} and std is {self.std}; they must be finite, and std above 0")

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x, (n, C, ...) float32."""
        if self.mean is None or self.std is None:
            return x
        shape = (1, -1, *[1] * (x.ndim - 2))
        return (x - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)


class Examples(Protocol):
    """Inputs with class numbers, with float targets, or alone."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return x (n, ...) float32, normalised, and y: (n,) int64 class numbers, (n, ...) float32 targets, or None."""
        ...


@dataclass(frozen=True)
class Part:
    """Some of the examples of ``whole``: those at ``indices`` (n,)."""

    whole: Examples
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return examples of this part, as ``Examples.batch``."""
        return self.whole.batch(self.indices[indices])


def split(examples: Examples, n_held_out: int, seed: int) -> tuple[Part, Part]:
    """Return all examples but ``n_held_out``, and those; drawn at random by ``seed``, each part in its original order."""
    drawn = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    held_out, rest = drawn[:n_held_out].sort().values, drawn[n_held_out:].sort().values
    return Part(examples, rest), Part(examples, held_out)


def load_examples(
    spec: str,
    input_shape: tuple[int, ...],
    preprocessing: Preprocessing = Preprocessing(),
    *,
    limit: int | None = None,
    seed: int = 0,
) -> Examples:
    """Open what ``spec`` names.

    Args:
        spec: a folder of images, with one sub-folder per class (numbered in sorted order) or none; an .npz file with x and
            perhaps y; an .npy file with x; or ``pkg.mod:fn`` or ``file.py:fn``, a function without arguments that returns x,
            (x, y), a torch Dataset, or an iterable of batches x or (x, y), which is read to its end.
        input_shape: (N, C, H, W) or (N, features) of the net; x must have this shape but for N. An entry of 0 takes any size.
        limit: use this many examples, drawn at random by ``seed``, in their original order.

    Raises:
        FileError: no such path, or it cannot be read.
        DataError: the data is empty, damaged, not finite, or does not fit together or the net.
        SettingsError: ``limit`` is below 1, or ``preprocessing`` has the wrong number of channels.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"limit is {limit}; use at least 1 example")
    if preprocessing.mean is not None and len(preprocessing.mean) not in (1, input_shape[1]):
        channels = len(preprocessing.mean)
        raise SettingsError(
            f"mean and std have {channels} numbers, but the net takes {input_shape[1]} channels; give as many, or one"
        )
    path = Path(spec)
    examples: Examples
    if path.is_dir():
        examples = _image_folder(path, input_shape, preprocessing)
    elif path.exists():
        examples = _from_arrays(spec, *_read_numpy(path), input_shape, preprocessing)
    elif is_callable_spec(spec):
        examples = _from_callable(spec, input_shape, preprocessing)
    else:
        raise FileError(f"{spec}: no such file or folder; check the path, or name a function as pkg.mod:fn or file.py:fn")
    if len(examples) == 0:
        raise DataError(f"{spec}: holds no examples; give at least one")
    if limit is not None and limit < len(examples):
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
        examples = _Subset(examples, order[:limit].sort().values)
    _log.info("%s: %d examples", spec, len(examples))
    return examples


def batches(examples: Examples, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield all examples, or those in ``order`` (n,) int64, ``size`` at a time; the last batch may be smaller.

    Raises:
        SettingsError: size is below 1.
    """
    if size < 1:
        raise SettingsError(f"batch size is {size}; it must be at least 1")
    order = torch.arange(len(examples)) if order is None else order
    for start in range(0, len(order), size):
        yield examples.batch(order[start : start + size])


@dataclass(frozen=True)
class _Subset:
    examples: Examples
    indices: Tensor  # (n,)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.examples.batch(self.indices[indices])


# Arrays and Datasets


@dataclass(frozen=True)
class _Arrays:
    """Examples in memory; bytes stay bytes until they are asked for."""

    x: Tensor  # (n, ...) uint8 or float32
    y: Tensor | None
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.preprocessing(_scaled(self.x[indices])), None if self.y is None else self.y[indices]


@dataclass(frozen=True)
class _FromDataset:
    """A torch Dataset, whose items are made, and checked, when they are asked for."""

    spec: str
    items: Any  # Dataset with __len__
    input_shape: tuple[int, ...]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        try:
            items = [self.items[i] for i in indices.tolist()]
        except Exception as cause:  # the user's code may raise anything
            raise DataError(f"{self.spec}: an item of {indices.tolist()[:8]} raised {type(cause).__name__}: {cause}") from cause
        arrays = _from_batches(self.spec, items, self.input_shape, self.preprocessing)
        return arrays.batch(torch.arange(len(indices)))


def _scaled(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _read_numpy(path: Path) -> tuple[Any, Any]:
    """Return x and y, or None, of an .npz or .npy file, told apart by content; no pickle in it is loaded."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from error
    try:
        with file:
            held = np.load(file, allow_pickle=False)
            if isinstance(held, np.ndarray):
                return held, None
            if "x" not in held:
                raise DataError(f"{path}: holds {', '.join(held) or 'nothing'}, but no array x; {_NPZ_WAY_OUT}")
            return held["x"], held.get("y")
    except _DAMAGED as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise DataError(f"{path}: is damaged or is no NumPy file of numbers ({reason}); {_NPZ_WAY_OUT}") from error


def _from_callable(spec: str, input_shape: tuple[int, ...], preprocessing: Preprocessing) -> Examples:
    function = import_callable(spec, DataError)
    try:
        made = function()
        if isinstance(made, Dataset) and hasattr(made, "__len__") and not isinstance(made, IterableDataset):
            return _FromDataset(spec, made, input_shape, preprocessing)
        if not _is_array(made) and not _is_pair(made) and isinstance(made, Iterable):
            made = list(made)
    except Exception as cause:  # the user's code may raise anything
        raise DataError(f"{spec}: it raised {type(cause).__name__}: {cause}") from cause
    if isinstance(made, list) and made:
        return _from_batches(spec, made, input_shape, preprocessing)
    if _is_array(made) or _is_pair(made):
        x, y = made if isinstance(made, tuple) else (made, None)
        return _from_arrays(spec, x, y, input_shape, preprocessing)
    what = "nothing" if isinstance(made, list) else f"an object of type {type(made).__name__}"
    raise DataError(f"{spec}: returned {what}; return x, (x, y), a torch Dataset with a length, or an iterable of batches")


def _from_batches(spec: str, items: list[Any], input_shape: tuple[int, ...], preprocessing: Preprocessing) -> _Arrays:
    """Join batches, or single examples, of x or (x, y); they must all be alike."""
    parts: list[tuple[Tensor, Tensor | None]] = []
    for number, item in enumerate(items):
        pair = item if isinstance(item, (tuple, list)) and len(item) == 2 else (item, None)
        if not _is_array(pair[0]):
            kind = type(pair[0]).__name__
            raise DataError(
                f"{spec}: item {number} is of type {kind}; give tensors x or (x, y), for images with a ToTensor transform"
            )
        x, y = pair
        if np.ndim(x) == len(input_shape) - 1:  # one example: a batch of one
            x, y = torch.as_tensor(x)[None], None if y is None else torch.as_tensor(y)[None]
        arrays = _from_arrays(f"{spec}: item {number}", x, y, input_shape, preprocessing)
        parts.append((arrays.x, arrays.y))
    kinds = {(x.dtype, y if y is None else (y.dtype, y.shape[1:])) for x, y in parts}
    if len(kinds) > 1 or len({x.shape[1:] for x, _ in parts}) > 1:
        shapes = sorted({f"{str(x.dtype)[6:]} {tuple(x.shape[1:])} {'without' if y is None else 'with'} y" for x, y in parts})
        raise DataError(f"{spec}: its items differ ({', '.join(shapes)}); give all of them one type and one shape")
    targets = [y for _, y in parts if y is not None]
    return _Arrays(torch.cat([x for x, _ in parts]), torch.cat(targets) if targets else None, preprocessing)


def _is_array(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_array, value))


def _from_arrays(spec: str, x: Any, y: Any, input_shape: tuple[int, ...], preprocessing: Preprocessing) -> _Arrays:
    inputs = _tensor(spec, "x", x)
    if inputs.dtype not in (torch.uint8, torch.float32):
        raise DataError(f"{spec}: x is {x.dtype}; give uint8 (divided by 255 here) or floats as the net takes them")
    fits = inputs.ndim == len(input_shape) and all(
        want in (0, got) for want, got in zip(input_shape[1:], inputs.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(
            f"{spec}: x has shape {tuple(inputs.shape)}, but the net takes {input_shape}; only the first number may differ: "
            "resize the data, or say what the net takes with --input-shape"
        )
    if y is None:
        return _Arrays(inputs, None, preprocessing)
    targets = _tensor(spec, "y", y)
    if targets.ndim == 0 or len(targets) != len(inputs):
        raise DataError(f"{spec}: x has {len(inputs)} examples and y has shape {tuple(targets.shape)}; give one y for each x")
    if not targets.is_floating_point():
        if targets.ndim != 1:
            shape = tuple(targets.shape)
            raise DataError(f"{spec}: y has shape {shape}; give class numbers of shape ({len(inputs)},), or float targets")
        targets = targets.long()
        if len(targets) and int(targets.min()) < 0:
            raise DataError(f"{spec}: y holds the class number {int(targets.min())}; class numbers start at 0")
    return _Arrays(inputs, targets, preprocessing)


def _tensor(spec: str, name: str, value: Any) -> Tensor:
    """Return numbers as uint8, int64 or float32; others and those that are not finite are refused."""
    value = value.detach().cpu() if isinstance(value, Tensor) else np.asarray(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise DataError(f"{spec}: {name} is of type {value.dtype}; give integers or floats")
        if value.dtype.kind == "u" and value.dtype.itemsize > 1:
            value = value.astype(np.int64)
        value = torch.from_numpy(np.asarray(value, value.dtype.newbyteorder("="), order="C"))
    tensor: Tensor = value
    if tensor.is_complex():
        raise DataError(f"{spec}: {name} is complex; give integers or floats")
    if tensor.is_floating_point():
        tensor = tensor.float()
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise DataError(
                f"{spec}: {name} holds {bad} values of {tensor.numel()} that are NaN or infinite; remove those examples"
            )
        return tensor
    return tensor if tensor.dtype == torch.uint8 else tensor.long()


# Image folders


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
        return self.preprocessing(_scaled(pixels)), None if self.labels is None else self.labels[indices]


def _image_folder(folder: Path, input_shape: tuple[int, ...], preprocessing: Preprocessing) -> _Images:
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

"""Examples in memory or from a torch Dataset: checked, and brought to float32 or bytes."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from lcnn_compress.data.examples import Examples, Preprocessing
from lcnn_compress.errors import DataError, FileError
from lcnn_compress.sources.factory import import_callable

# Numpy raises these for files that are cut off, changed, or of another kind.
DAMAGED = (
    ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, ValueError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_NPZ_WAY_OUT = "write it with numpy.savez(file, x=images, y=labels)"


@dataclass(frozen=True)
class Arrays:
    """Examples in memory; bytes stay bytes until they are asked for."""

    x: Tensor  # (n, ...) uint8 or float32
    y: Tensor | None
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.preprocessing(scaled(self.x[indices])), None if self.y is None else self.y[indices]


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


def scaled(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x


def read_numpy(path: Path) -> tuple[Any, Any]:
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
    except DAMAGED as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise DataError(f"{path}: is damaged or is no NumPy file of numbers ({reason}); {_NPZ_WAY_OUT}") from error


def stored_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of the array x in an .npz file, or of that in an .npy file, without reading its values.

    Raises:
        one of DAMAGED: the file has no such array.
    """
    if not zipfile.is_zipfile(path):
        return tuple(np.load(path, mmap_mode="r", allow_pickle=False).shape)
    with zipfile.ZipFile(path) as archive, archive.open("x.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return tuple(read(file)[0])


def from_callable(spec: str, input_shape: tuple[int, ...], preprocessing: Preprocessing) -> Examples:
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
        return from_arrays(spec, x, y, input_shape, preprocessing)
    what = "nothing" if isinstance(made, list) else f"an object of type {type(made).__name__}"
    raise DataError(f"{spec}: returned {what}; return x, (x, y), a torch Dataset with a length, or an iterable of batches")


def _from_batches(spec: str, items: list[Any], input_shape: tuple[int, ...], preprocessing: Preprocessing) -> Arrays:
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
        if np.ndim(x) == len(input_shape) - 1:  # one example is a batch of one
            x, y = torch.as_tensor(x)[None], None if y is None else torch.as_tensor(y)[None]
        arrays = from_arrays(f"{spec}: item {number}", x, y, input_shape, preprocessing)
        parts.append((arrays.x, arrays.y))
    kinds = {(x.dtype, y if y is None else (y.dtype, y.shape[1:])) for x, y in parts}
    if len(kinds) > 1 or len({x.shape[1:] for x, _ in parts}) > 1:
        shapes = sorted({f"{str(x.dtype)[6:]} {tuple(x.shape[1:])} {'without' if y is None else 'with'} y" for x, y in parts})
        raise DataError(f"{spec}: its items differ ({', '.join(shapes)}); give all of them one type and one shape")
    targets = [y for _, y in parts if y is not None]
    return Arrays(torch.cat([x for x, _ in parts]), torch.cat(targets) if targets else None, preprocessing)


def _is_array(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_array, value))


def from_arrays(spec: str, x: Any, y: Any, input_shape: tuple[int, ...], preprocessing: Preprocessing) -> Arrays:
    inputs = _tensor(spec, "x", x)
    if inputs.dtype not in (torch.uint8, torch.float32):
        raise DataError(f"{spec}: x is {x.dtype}; give uint8 (divided by 255 here) or floats as the net takes them")
    fits = inputs.ndim == len(input_shape) and all(
        want in (0, got) for want, got in zip(input_shape[1:], inputs.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(
            f"{spec}: x has shape {tuple(inputs.shape)}, but the net takes {input_shape}; only the first number may differ: "
            "resize the data, or say what the net takes with `input_shape`"
        )
    if y is None:
        return Arrays(inputs, None, preprocessing)
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
    return Arrays(inputs, targets, preprocessing)


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

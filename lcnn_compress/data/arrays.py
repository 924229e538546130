"""Examples in memory or from a torch Dataset: checked, and brought to float32 or bytes."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from lcnn_compress.data.examples import Examples, Preprocessing
from lcnn_compress.data.labels import labels_of
from lcnn_compress.data.pixels import check_bytes, check_floats
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError, FileError
from lcnn_compress.sources.factory import import_callable, in_short

# Numpy raises these for files that are cut off, changed, or of another kind.
DAMAGED = (
    ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, ValueError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
# The labels of so many items of a Dataset tell what they are.
LABELS_LOOKED_AT = 64
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
    task: Task | None = None

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        x, y = self._read(indices.tolist())
        if y is not None:
            y = labels_of(self.spec, y, self._some_labels if y.ndim == 2 and y.shape[1] > 1 else y, self.task)
        return self.preprocessing(scaled(x)), y

    @cached_property
    def _some_labels(self) -> Tensor:
        some = self._read(range(min(LABELS_LOOKED_AT, len(self))))[1]
        assert some is not None
        return some

    def _read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        try:
            items = [self.items[i] for i in indices]
        except Exception as cause:  # the user's code may raise anything
            raise DataError(f"{self.spec}: an item of {[*indices[:8]]} raised {in_short(cause)}") from cause
        return _joined(self.spec, items, self.input_shape, self.preprocessing)


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


def from_callable(spec: str, input_shape: tuple[int, ...], preprocessing: Preprocessing, task: Task | None = None) -> Examples:
    function = import_callable(spec, DataError)
    try:
        made = function()
        if isinstance(made, Dataset) and hasattr(made, "__len__") and not isinstance(made, IterableDataset):
            return _FromDataset(spec, made, input_shape, preprocessing, task)
        if not _is_array(made) and not _is_pair(made) and isinstance(made, Iterable):
            made = list(made)
    except Exception as cause:  # the user's code may raise anything
        raise DataError(f"{spec}: it raised {in_short(cause)}") from cause
    if isinstance(made, list) and made:
        x, y = _joined(spec, made, input_shape, preprocessing)
        return Arrays(x, None if y is None else labels_of(spec, y, y, task), preprocessing)
    if _is_array(made) or _is_pair(made):
        x, y = made if isinstance(made, tuple) else (made, None)
        return from_arrays(spec, x, y, input_shape, preprocessing, task)
    what = "nothing" if isinstance(made, list) else f"an object of type {type(made).__name__}"
    raise DataError(f"{spec}: returned {what}; return x, (x, y), a torch Dataset with a length, or an iterable of batches")


def _joined(
    spec: str, items: list[Any], input_shape: tuple[int, ...], preprocessing: Preprocessing
) -> tuple[Tensor, Tensor | None]:
    """Join batches, or single examples, of x or (x, y), as ``_checked`` returns them; they must all be alike."""
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
            x, y = torch.as_tensor(x)[None], None if y is None else _label(f"{spec}: item {number}", y)[None]
        parts.append(_checked(f"{spec}: item {number}", x, y, input_shape, preprocessing))
    kinds = {(x.dtype, y if y is None else (y.dtype, y.shape[1:])) for x, y in parts}
    if len(kinds) > 1 or len({x.shape[1:] for x, _ in parts}) > 1:
        shapes = sorted({f"{str(x.dtype)[6:]} {tuple(x.shape[1:])} {'without' if y is None else 'with'} y" for x, y in parts})
        raise DataError(f"{spec}: its items differ ({', '.join(shapes)}); give all of them one type and one shape")
    targets = [y for _, y in parts if y is not None]
    return torch.cat([x for x, _ in parts]), torch.cat(targets) if targets else None


def _label(spec: str, y: Any) -> Tensor:
    """Return the label of one example as a tensor."""
    try:
        return torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{spec}: y is of type {type(y).__name__}; give a class number, or a tensor of targets") from error


def _is_array(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_array, value))


def from_arrays(
    spec: str, x: Any, y: Any, input_shape: tuple[int, ...], preprocessing: Preprocessing, task: Task | None = None
) -> Arrays:
    inputs, targets = _checked(spec, x, y, input_shape, preprocessing)
    return Arrays(inputs, None if targets is None else labels_of(spec, targets, targets, task), preprocessing)


def _checked(
    spec: str, x: Any, y: Any, input_shape: tuple[int, ...], preprocessing: Preprocessing
) -> tuple[Tensor, Tensor | None]:
    """Return x as uint8 or float32, and y, if there is one, as ``_tensor`` returns it: one for each x."""
    inputs = _tensor(spec, "x", x)
    if inputs.dtype not in (torch.uint8, torch.float32):
        raise DataError(f"{spec}: x is {x.dtype}; give uint8 (divided by 255 here) or floats as the net takes them")
    if not _fits(inputs.shape, input_shape):
        raise DataError(
            f"{spec}: x has shape {tuple(inputs.shape)}, but the net takes {input_shape}; only the first number may differ: "
            + _way_to_fit(inputs, input_shape)
        )
    if inputs.dtype == torch.uint8:
        check_bytes(spec, preprocessing)
    else:
        check_floats(spec, inputs, preprocessing)
    if y is None:
        return inputs, None
    targets = _tensor(spec, "y", y)
    if targets.ndim == 0 or len(targets) != len(inputs):
        raise DataError(f"{spec}: x has {len(inputs)} examples and y has shape {tuple(targets.shape)}; give one y for each x")
    return inputs, targets


def _fits(shape: Sequence[int], input_shape: tuple[int, ...]) -> bool:
    if len(shape) != len(input_shape):
        return False
    return all(want in (0, got) for want, got in zip(input_shape[1:], shape[1:], strict=True))


def _way_to_fit(x: Tensor, input_shape: tuple[int, ...]) -> str:
    """Say what to do with an x whose shape is not that of the net's input."""
    if x.ndim == 4 and _fits(x.permute(0, 3, 1, 2).shape, input_shape):
        return "its channels come last, give x.transpose(0, 3, 1, 2)"
    if x.ndim == 3 and _fits(x[:, None].shape, input_shape):
        return "it has no axis of channels, give x[:, None]"
    return "resize the data, or say what the net takes with `input_shape`"


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

"""Read examples to calibrate, train and test with: image folders, NumPy files, and what a Python function returns.

Every source gives the same thing: float32 inputs, in [0, 1] where they were bytes and then normalised, and with them class
numbers, float targets or nothing. Files are checked when they are opened; images are decoded when a batch asks for them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lcnn_compress.data.arrays import DAMAGED, from_arrays, from_callable, read_numpy, stored_shape
from lcnn_compress.data.examples import Examples, Preprocessing, batches, split
from lcnn_compress.data.images import image_folder, size_of_all
from lcnn_compress.data.settings import DataSettings
from lcnn_compress.errors import DataError, FileError, SettingsError
from lcnn_compress.sources.factory import is_callable_spec

_log = logging.getLogger(__name__)
BATCH = 64  # calibration images in a batch
MAX_HELD_OUT = 10_000


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
        examples = image_folder(path, input_shape, preprocessing)
    elif path.exists():
        examples = from_arrays(spec, *read_numpy(path), input_shape, preprocessing)
    elif is_callable_spec(spec):
        examples = from_callable(spec, input_shape, preprocessing)
    else:
        raise FileError(f"{spec}: no such file or folder; check the path, or name a function as pkg.mod:fn or file.py:fn")
    if len(examples) == 0:
        raise DataError(f"{spec}: holds no examples; give at least one")
    if limit is not None and limit < len(examples):
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
        examples = _Subset(examples, order[:limit].sort().values)
    _log.info("%s: %d examples", spec, len(examples))
    return examples


@dataclass(frozen=True)
class _Subset:
    examples: Examples
    indices: Tensor  # (n,)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.examples.batch(self.indices[indices])


@dataclass(frozen=True)
class LoadedData:
    """What ``DataSettings`` name: batches x (n, ...) float32 to calibrate with, and examples to train with and to judge by."""

    calibration: list[Tensor]
    examples: Examples | None
    held_out: Examples | None


def load_parts(settings: DataSettings, input_shape: tuple[int, ...], *, seed: int = 0, limit: int | None = None) -> LoadedData:
    """Load what ``settings`` name; where only training data is given, its first ``samples`` examples calibrate.

    Args:
        input_shape: of the net, as for ``load_examples``.
        seed: of what is drawn: the calibration images and the held-out examples.
        limit: use at most so many examples of ``settings.data``.

    Raises:
        DataError, FileError, SettingsError: as ``load_examples``, or too few examples to hold some out.
    """
    preprocessing = Preprocessing(settings.mean, settings.std)
    calibration: list[Tensor] = []
    if settings.calib is not None:
        drawn = load_examples(settings.calib, input_shape, preprocessing, limit=settings.samples, seed=seed)
        calibration = [x for x, _ in batches(drawn, BATCH)]
    if settings.data is None:
        return LoadedData(calibration, None, None)
    training = load_examples(settings.data, input_shape, preprocessing, limit=limit, seed=seed)
    held_out: Examples | None = None
    if settings.held_out:
        count = min(MAX_HELD_OUT, round(settings.held_out * len(training)))
        if count <= 1:
            raise SettingsError(f"{settings.data}: holds {len(training)} examples, too few to hold out some; give more")
        training, held_out = split(training, count, seed)
    if settings.calib is None:
        first = torch.arange(min(settings.samples, len(training)))
        calibration = [x for x, _ in batches(training, BATCH, first)]
    return LoadedData(calibration, training, held_out)


def image_size(settings: DataSettings) -> tuple[int, int] | None:
    """Return the height and width that all images to calibrate with have, or those to train with where there are none.

    None where they differ, are no images, or cannot be read: whoever loads them then says what is wrong.
    """
    spec = settings.calib or settings.data
    if spec is None:
        return None
    path = Path(spec)
    try:
        if path.is_dir():
            return size_of_all(path)
        if path.exists():
            shape = stored_shape(path)
        elif is_callable_spec(spec):  # an entry of 0 takes any size
            shape = tuple(from_callable(spec, (1, 0, 0, 0), Preprocessing()).batch(torch.tensor([0]))[0].shape)
        else:
            return None
    except (DataError, *DAMAGED) as error:
        _log.debug("%s: its images have no size that can be read: %s", spec, error)
        return None
    return (shape[2], shape[3]) if len(shape) == 4 and min(shape) > 0 else None

"""Load the data of a compression: what calibrates, what trains, what is held out, and the size its images have."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lcnn_compress.data.arrays import DAMAGED, from_callable, stored_shape
from lcnn_compress.data.data_settings import CALIBRATION_BATCH, DataSettings
from lcnn_compress.data.examples import Examples, Preprocessing, batches, split
from lcnn_compress.data.idx import idx_shape, is_idx
from lcnn_compress.data.images import common_size, size_of_all
from lcnn_compress.data.label_table import is_table, read_table, require_images
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.errors import DataError, FileError, SettingsError
from lcnn_compress.sources.factory import is_callable_spec

log = logging.getLogger(__name__)
MAX_HELD_OUT = 10_000


@dataclass(frozen=True)
class LoadedData:
    """What ``DataSettings`` name: batches x (n, ...) float32 to calibrate with, and examples to train with and to judge by."""

    calibration: list[Tensor]
    examples: Examples | None
    held_out: Examples | None


def load_parts(settings: DataSettings, input_shape: tuple[int, ...], *, seed: int = 0, limit: int | None = None) -> LoadedData:
    """Load what ``settings`` name.

    Args:
        input_shape: input shape of the net, as for ``load_examples``.
        seed: decides which calibration images, training examples and held-out examples are drawn.
        limit: use at most so many examples of ``settings.data``.

    Raises:
        DataError, FileError, SettingsError: as for ``load_examples``, or there are too few examples to hold some out.
    """
    preprocessing = Preprocessing(settings.mean, settings.std)
    calibration: list[Tensor] = []
    if settings.calib is not None:
        drawn = load_examples(settings.calib, input_shape, preprocessing, limit=settings.samples, seed=seed, labelled=False)
        calibration = [x for x, _ in batches(drawn, CALIBRATION_BATCH)]
    if settings.data is None:
        return LoadedData(calibration, None, None)
    if settings.strict:
        require_images(settings.data)
    training = load_examples(settings.data, input_shape, preprocessing, limit=limit, seed=seed, task=settings.task)
    held_out: Examples | None = None
    if settings.held_out:
        count = min(MAX_HELD_OUT, round(settings.held_out * len(training)))
        if count <= 1:
            raise SettingsError(f"{settings.data}: holds {len(training)} examples, too few to hold out some; give more")
        training, held_out = split(training, count, seed)
    return LoadedData(calibration, training, held_out)


def image_size(settings: DataSettings) -> tuple[int, int] | None:
    """Return the height and width that all images to calibrate with have, or those to train with where there are none.

    Return None where sizes differ, or the data is no images or cannot be read: whoever loads it then says what is wrong.
    """
    spec = settings.calib or settings.data
    if spec is None:
        return None
    path = Path(spec)
    try:
        if path.is_dir():
            return size_of_all(path)
        if path.exists() and is_table(path):
            return common_size(read_table(path).paths)
        if path.exists():
            shape = idx_shape(path) if is_idx(path) else stored_shape(path)
        elif is_callable_spec(spec):  # an entry of 0 takes any size
            as_they_are = Preprocessing((0.0,), (1.0,))  # the scale plays no part here
            shape = tuple(from_callable(spec, (1, 0, 0, 0), as_they_are).batch(torch.tensor([0]))[0].shape)
        else:
            return None
    except (DataError, FileError, *DAMAGED) as error:
        log.debug("%s: its images have no size that can be read: %s", spec, error)
        return None
    return (shape[2], shape[3]) if len(shape) == 4 and min(shape) > 0 else None

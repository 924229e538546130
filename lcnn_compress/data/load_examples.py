"""Read examples to calibrate, train and test with: image folders, NumPy files, idx files, and what a Python function returns.

Every source gives the same thing: float32 inputs, in [0, 1] where they were bytes and then normalised, and with them class
numbers, float targets or nothing. Files are checked when they are opened; images are decoded when a batch asks for them.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from lcnn_compress.data.arrays import from_arrays, from_callable, read_numpy
from lcnn_compress.data.examples import Examples, Part, Preprocessing
from lcnn_compress.data.idx import is_idx, read_idx
from lcnn_compress.data.images import image_files, image_folder
from lcnn_compress.data.label_table import is_table, read_table
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError, FileError, SettingsError
from lcnn_compress.net.ordinary import ordinary
from lcnn_compress.sources.factory import is_callable_spec

_log = logging.getLogger(__name__)


@ordinary
def load_examples(
    spec: str,
    input_shape: tuple[int, ...],
    preprocessing: Preprocessing = Preprocessing(),
    *,
    limit: int | None = None,
    seed: int = 0,
    labelled: bool = True,
    task: Task | None = None,
) -> Examples:
    """Open what ``spec`` names.

    Args:
        spec: a folder of images, with one sub-folder per class (numbered in sorted order) or none; an .npz file with x and
            perhaps y; an .npy file with x; an idx file of images, with that of their labels beside it; a .csv file of images
            and several labels, see ``label_table``; or ``pkg.mod:fn`` or ``file.py:fn``, a function without arguments that
            returns x, (x, y), a torch Dataset, or an iterable of batches x or (x, y), which is read to its end.
        input_shape: (N, C, H, W) or (N, features) of the net; x must have this shape but for N. An entry of 0 takes any size.
        limit: use this many examples, drawn at random by ``seed``, in their original order.
        labelled: False where only inputs are wanted, so that folders need not be classes.
        task: what labels mean, where their type does not tell; needed for several labels.

    Raises:
        FileError: there is no such path, or it cannot be read.
        DataError: the data is empty, damaged, not finite, or does not fit together or the net.
        SettingsError: ``limit`` is below 1, or ``preprocessing`` has the wrong number of channels.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"limit is {limit}; use at least 1 example")
    preprocessing.check_channels(input_shape)
    path = Path(spec)
    examples: Examples
    if path.is_dir():
        examples = image_folder(path, input_shape, preprocessing, labelled=labelled)
    elif path.exists() and is_table(path):
        examples = _of_table(path, input_shape, preprocessing, several=not labelled or task == Task.LABELS)
    elif path.exists():
        x, y = read_idx(path) if is_idx(path) else read_numpy(path)
        examples = from_arrays(spec, x, y if labelled else None, input_shape, preprocessing, task)
    elif is_callable_spec(spec):
        examples = from_callable(spec, input_shape, preprocessing, task)
    else:
        raise FileError(f"{spec}: no such file or folder; check the path, or name a function as pkg.mod:fn or file.py:fn")
    if len(examples) == 0:
        raise DataError(f"{spec}: holds no examples; give at least one")
    if limit is not None and limit < len(examples):
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
        examples = Part(examples, order[:limit].sort().values)
    _log.info("%s: %d examples", spec, len(examples))
    return examples


def _of_table(path: Path, input_shape: tuple[int, ...], preprocessing: Preprocessing, *, several: bool) -> Examples:
    """Open a table of labels; it is said what labels mean, so that nobody trains or scores them as something else."""
    if not several:
        raise DataError(
            f"{path}: is a table of several labels for each image; say so with `task` multilabel, or give it as `calib`"
        )
    table = read_table(path)
    if (note := table.note(path)) is not None:
        _log.warning(note)
    return image_files(table.paths, input_shape, preprocessing, table.labels)

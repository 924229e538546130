"""Where data comes from and how it is prepared. Nothing heavy is imported: options of commands are made from these fields."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field

from lcnn_compress.artefact.field_rules import check_fields
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import SettingsError

CALIBRATION_IMAGES = 512
CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class DataSettings:
    """Where data comes from and how it is prepared; all of it is written into the configuration.

    Attributes:
        calib, data: what ``load_examples`` opens: a folder of images, an .npz or .npy file, or ``pkg.mod:fn``.
        samples: how many images calibrate; they are drawn from ``calib``, or without it are training images at even distances.
        mean, std: mean and standard deviation of each channel, or one number for all; see ``Preprocessing``.
        held_out: fraction of ``data`` that is not trained on, but judged by.
        task: what labels of ``data`` mean, where their type does not tell; needed for several labels. Training has the same in
            its recipe.
        strict: whether images of a table of labels that are not there are an error; else they are left out.

    Raises:
        SettingsError: a value is of another type, or a number makes no sense.
    """

    calib: str | None = field(default=None, metadata={
        "help": "Unlabelled data to refit with: image folder, .npz, .npy or pkg.mod:fn", "metavar": "DATA",
    })  # fmt: skip
    samples: int = field(default=CALIBRATION_IMAGES, metadata={
        "help": "Images to calibrate with: drawn from `calib`, or without it of `data`", "metavar": "N", "min": 1,
    })  # fmt: skip
    data: str | None = field(default=None, metadata={
        "help": "Training data: image folder, .npz or pkg.mod:fn", "metavar": "DATA",
    })  # fmt: skip
    mean: tuple[float, ...] | None = field(default=None, metadata={
        "help": "Channel means to subtract from data, e.g. 0.485,0.456,0.406", "metavar": "NUMBERS",
    })  # fmt: skip
    std: tuple[float, ...] | None = field(default=None, metadata={
        "help": "Channel standard deviations to divide data by", "metavar": "NUMBERS",
    })  # fmt: skip
    held_out: float = 0.0
    task: Task | None = field(default=None, metadata={
        "help": "What labels mean: classes, targets, or multilabel: 0 or 1 for each of several labels of an image, from a .csv "
                "file (image,NAME,NAME,...) or y (n, labels)",
        "metavar": "NAME", "shown_default": "by their type",
    })  # fmt: skip
    strict: bool = field(default=False, metadata={"help": "An image of a .csv file that is not there is an error"})

    def __post_init__(self) -> None:
        for name in ("calib", "data"):
            if isinstance(path := getattr(self, name), os.PathLike):  # the configuration holds text
                object.__setattr__(self, name, os.fspath(path))
        check_fields(self)
        if self.samples < 1:
            raise SettingsError(f"`samples` is {self.samples}; it must be at least 1")
        if not 0 <= self.held_out < 1:
            raise SettingsError(f"held_out is {self.held_out:g}; it must be 0 or more and below 1")

    def recorded(self) -> dict[str, object] | None:
        """Return what the configuration says of the data, None where there is none."""
        if self.calib is None and self.data is None:
            return None
        values = asdict(self) | {"task": None if self.task is None else Task(self.task).value}
        return {name: value for name, value in values.items() if value or name not in ("held_out", "task", "strict")}

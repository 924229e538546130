"""Where data comes from and how it is prepared. Nothing heavy is imported: options of commands are made from these fields."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

CALIBRATION_IMAGES = 512
CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class DataSettings:
    """Where data comes from and how it is prepared; all of it is written into the configuration.

    Attributes:
        calib, data: what ``load_examples`` opens: a folder of images, an .npz or .npy file, or ``pkg.mod:fn``.
        samples: how many images calibrate; they are drawn from ``calib``, or without it are the first training images.
        mean, std: mean and standard deviation of each channel, or one number for all; see ``Preprocessing``.
        held_out: fraction of ``data`` that is not trained on, but judged by.
    """

    calib: str | None = field(default=None, metadata={
        "help": "Unlabelled data to refit with: image folder, .npz, .npy or pkg.mod:fn", "metavar": "DATA",
    })  # fmt: skip
    samples: int = field(default=CALIBRATION_IMAGES, metadata={
        "help": "Images to calibrate with: drawn from `calib`, or without it the first of `data`", "metavar": "N", "min": 1,
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

    def recorded(self) -> dict[str, object] | None:
        """Return what the configuration says of the data, None where there is none."""
        if self.calib is None and self.data is None:
            return None
        return {name: value for name, value in asdict(self).items() if name != "held_out" or value}

"""Whether pixels lie on the scale that the preprocessing is for, [0, 1] or that of bytes: a net scores either silently."""

from __future__ import annotations

from torch import Tensor

from lcnn_compress.data.examples import Preprocessing
from lcnn_compress.errors import DataError

CHANNELS = (1, 3, 4)
# Images in [0, 1] hold no value above this after any usual normalisation, and images of bytes nearly all do.
BRIGHT = 50.0
# A mean or standard deviation of values in [0, 1] is smaller than this, one of bytes usually much larger.
LARGEST = 2.0


def check_bytes(spec: str, preprocessing: Preprocessing) -> None:
    """Refuse mean and std of bytes for pixels that are divided by 255. Raises DataError, which names the data by ``spec``."""
    if _is_for_bytes(preprocessing):
        given = f"`mean` is {preprocessing.mean} and `std` {preprocessing.std}"
        raise DataError(f"{spec}: bytes are divided by 255, but {given}; divide `mean` and `std` by 255 too")


def _is_for_bytes(preprocessing: Preprocessing) -> bool:
    return max(*(preprocessing.mean or (0,)), *(preprocessing.std or (0,))) > LARGEST


def check_floats(spec: str, x: Tensor, preprocessing: Preprocessing) -> None:
    """Refuse images whose scale is not that of the preprocessing; a mean of 0 and a std of 1 say that the scale is right.

    Args:
        spec: where the images come from, for errors.
        x: (n, ...) float32, not yet normalised.

    Raises:
        DataError: mean and std are for the other scale, or there are none and the values look like those of bytes.
    """
    mean, std = preprocessing.mean or (), preprocessing.std or ()
    if x.ndim != 4 or x.shape[1] not in CHANNELS or x.numel() == 0 or ({*mean}, {*std}) == ({0}, {1}):
        return
    low, high = float(x.min()), float(x.max())
    given = f"`mean` is {mean} and `std` {std}"
    if 0 <= low <= high <= 1 and _is_for_bytes(preprocessing):
        raise DataError(f"{spec}: x lies in [0, 1], but {given}; divide `mean` and `std` by 255")
    if low >= 0 and high > BRIGHT and not _is_for_bytes(preprocessing):
        said = f"{given}, for values in [0, 1]" if mean else "nothing says that the net takes such values"
        raise DataError(
            f"{spec}: x holds floats from {low:g} to {high:g}, but {said}; divide x by 255 or give uint8, or say that the net "
            "takes x as it is with `mean` 0 and `std` 1"
        )

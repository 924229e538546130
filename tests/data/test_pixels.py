"""Pixels on another scale than mean and std are refused, whichever of the two is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcnn_compress.data.examples import Preprocessing
from lcnn_compress.data.pixels import check_bytes, check_floats
from lcnn_compress.errors import DataError

UNIT = torch.linspace(0, 1, 2 * 3 * 16).view(2, 3, 4, 4)
OF_UNIT, OF_BYTES = Preprocessing((0.5, 0.4, 0.4), (0.2, 0.2, 0.2)), Preprocessing((123.0,), (58.0,))


@pytest.mark.parametrize(
    ("x", "preprocessing"),
    [
        (UNIT, Preprocessing()),
        (UNIT, OF_UNIT),
        (UNIT * 255, OF_BYTES),
        (UNIT * 255, Preprocessing((0.0,), (255.0,))),
        (UNIT * 255, Preprocessing((0.0,), (1.0,))),  # whoever says so knows it
        (UNIT * 255 - 123, Preprocessing()),  # normalised already
        (UNIT.view(2, 6, 2, 4) * 255, Preprocessing()),  # no images
        (UNIT.flatten(1) * 255, Preprocessing()),
        (UNIT[:0], OF_BYTES),
    ],
)
def test_pixels_on_the_scale_of_the_preprocessing(x: Tensor, preprocessing: Preprocessing) -> None:
    check_floats("d", x, preprocessing)


@pytest.mark.parametrize(
    ("x", "preprocessing", "message"),
    [
        (
            UNIT * 255,
            Preprocessing(),
            "d: x holds floats from 0 to 255, but nothing says that the net takes such values; divide",
        ),
        (
            UNIT * 255,
            OF_UNIT,
            r"from 0 to 255, but `mean` is \(0.5, 0.4, 0.4\) and `std` \(0.2, 0.2, 0.2\), for values in \[0, 1\]",
        ),
        (
            UNIT[:, :1] * 250,
            Preprocessing((0.5,), (0.5,)),
            "divide x by 255 or give uint8, or say that the net takes x as it is",
        ),
        (
            UNIT,
            OF_BYTES,
            r"d: x lies in \[0, 1\], but `mean` is \(123.0,\) and `std` \(58.0,\); divide `mean` and `std` by 255",
        ),
        (UNIT, Preprocessing((0.0,), (255.0,)), "divide `mean` and `std` by 255"),
    ],
)
def test_pixels_on_the_other_scale(x: Tensor, preprocessing: Preprocessing, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_floats("d", x, preprocessing)


def test_bytes_are_always_divided() -> None:
    for preprocessing in (Preprocessing(), OF_UNIT, Preprocessing((0.0,), (2.0,))):
        check_bytes("d", preprocessing)
    for preprocessing in (OF_BYTES, Preprocessing((0.0,), (255.0,))):
        with pytest.raises(DataError, match="d: bytes are divided by 255, but `mean` is"):
            check_bytes("d", preprocessing)

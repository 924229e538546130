"""What is said of a finished compression: figures worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from lcnn_compress.artefact.report import LayerReport, Report, Totals, TrainingReport
from lcnn_compress.compress.advice import advice, coarse_filters, few_images, missed_target

ROW = LayerReport(
    "conv", "Conv2d", "lookup", "", "", 8, 4, (3, 3), 1, ((5, 5),), macs_dense=4 * 8 * 9 * 25, macs=0, weight_bytes_dense=0,
    weight_bytes=0, n_nonzeros=40, relative_error=0.1,
)  # fmt: skip
TOTALS = Totals(1, 1, 1, 1, 1.0)


def report(row: Mapping[str, Any] = {}, totals: Mapping[str, float] = {}, **changes: Any) -> Report:
    """One layer, 3x3, 8>4 channels on 5x5 outputs: 4 * 8 * 9 * 25 MACs, and 40 coefficients in 4 filters."""
    plain = Report((1, 8, 5, 5), (replace(ROW, **row),), replace(TOTALS, **totals), 0, None, {}, settings={"data": None})
    return replace(plain, **changes)


def test_nothing_to_say() -> None:
    assert advice(report()) == []


def test_coarse_filters_without_data() -> None:
    coarse = report(row={"relative_error": 0.31})
    assert coarse_filters(coarse) == (
        "the filters of 1 layers differ from the trained ones by more than 30% (conv) and no data was given: check the result "
        "with 'lcnn eval'; `calib` or `data` helps"
    )
    assert advice(coarse) == [coarse_filters(coarse)]
    assert coarse_filters(report(row={"relative_error": 0.3})) is None
    assert coarse_filters(report(row={"relative_error": 0.31}, settings={"data": {"calib": "x.npz"}})) is None
    assert coarse_filters(report(row={"kind": "dense", "relative_error": 0.0})) is None


def test_few_images() -> None:
    # A filter has 10 coefficients. An image has 25 positions, of which 20 are enough for one: 25 / 20 of a coefficient.
    assert few_images(report(calibration_images=8)) is None
    said = few_images(report(calibration_images=7))
    assert said == (
        "7 calibration images are few for the 10 coefficients of each filter of conv: the net suits these images better than "
        "others; about 8 are enough (`calib`, `samples`)"
    )
    # One position an image: five images are enough for a coefficient, more than 20 positions would be.
    one = {"macs_dense": 4 * 8 * 9}
    assert few_images(report(calibration_images=49, row=one)) is not None
    assert few_images(report(calibration_images=50, row=one)) is None
    assert few_images(report(calibration_images=7, training=TrainingReport(1, (1.0,), {}))) is None


def test_a_missed_target() -> None:
    def of(**totals: float) -> str | None:
        return missed_target(report(totals=totals, budget={"target": {"speedup": 2.0}}))

    assert of(speedup=1.84, lookup_ms=1.0) is None
    assert of(speedup=1.8, lookup_ms=1.0) == (
        "the net reached 90% of the target when it was measured last; on a quiet machine try again"
    )
    assert of(lookup_ms=1.0) is None
    slow = report(totals={"speedup": 3.0, "lookup_ms": 5.0}, budget={"target": {"latency_ms": 4.0}})
    assert missed_target(slow) is not None
    assert missed_target(report(totals={"speedup": 0.5, "lookup_ms": 5.0})) is None


@pytest.mark.parametrize(
    ("target", "totals", "said"),
    [
        ({"speedup": 4.0}, {"speedup": 3.0, "lookup_ms": 2.0}, "reached 75% of the target"),
        ({"latency_ms": 1.0}, {"speedup": 3.0, "lookup_ms": 2.0}, "reached 50% of the target"),
        ({"speedup": 4.0}, {"speedup": 3.9, "lookup_ms": 2.0}, ""),
        ({"size_mb": 4.0}, {"speedup": 3.9, "lookup_ms": 2.0}, ""),
    ],
)
def test_a_missed_target_is_said(target: dict[str, float], totals: dict[str, float], said: str) -> None:
    found = missed_target(report(totals=totals, budget={"target": target}))
    assert (said in str(found)) if said else found is None


@pytest.mark.parametrize(
    ("images", "size", "training", "said"),
    [
        # 57 coefficients for each filter, 49 positions of an image: 20 for each after 23.3 images
        (16, 7, None, "16 calibration images are few for the 57 coefficients of each filter of conv"),
        (16, 7, None, "about 24 are enough"),
        (24, 7, None, ""),
        (16, 7, TrainingReport(1, (1.0,), {}), ""),
        (0, 7, None, ""),
        (284, 1, None, "about 285 are enough"),  # 5 images for each, where an image is one position
        (285, 1, None, ""),
    ],
)
def test_few_calibration_images_are_said(images: int, size: int, training: Any, said: str) -> None:
    macs = size**2 * 32 * 64 * 9
    conv = replace(ROW, kind="sparse", in_channels=64, out_channels=32, macs_dense=macs, n_nonzeros=32 * 57)
    easy, dense = replace(conv, name="easy", n_nonzeros=32), replace(ROW, name="fc", kind="dense", n_nonzeros=None)
    found = few_images(report(calibration_images=images, layers=(dense, easy, conv), training=training))
    assert (said in str(found)) if said else found is None

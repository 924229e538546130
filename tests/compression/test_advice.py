"""What is said of a finished compression: figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from report_cases import CONV, REPORT, STEM, TOTALS

from lcnn_compress.artefact.report import Report, TrainingReport
from lcnn_compress.compression.advice import advice, coarse_filters, few_images, missed_target

TRAINED = TrainingReport(1, (1.0,), {})


def report(row: dict[str, Any] | None = None, totals: dict[str, float] | None = None, **changes: Any) -> Report:
    """One layer, 3x3, 8>4 channels on 5x5 outputs: 4 * 8 * 9 * 25 MACs, and 40 coefficients in 4 filters."""
    conv = replace(
        CONV, name="conv", in_channels=8, out_channels=4, kernel=(3, 3), macs_dense=4 * 8 * 9 * 25, n_nonzeros=40,
        relative_error=0.1,
    )  # fmt: skip
    times = {"dense_ms": None, "lookup_ms": None, "speedup": None} | (totals or {})
    sums, settings = replace(TOTALS, **times), {"data": None}
    return replace(REPORT, **({"layers": (replace(conv, **(row or {})),), "totals": sums, "settings": settings} | changes))


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
    assert few_images(report(calibration_images=7, training=TRAINED)) is None


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
        (16, 7, TRAINED, ""),
        (0, 7, None, ""),
        (284, 1, None, "about 285 are enough"),  # 5 images for each, where an image is one position
        (285, 1, None, ""),
    ],
)
def test_few_calibration_images_are_said(images: int, size: int, training: Any, said: str) -> None:
    conv = replace(
        CONV, name="conv", kind="sparse", in_channels=64, out_channels=32, kernel=(3, 3), macs_dense=size**2 * 32 * 64 * 9,
        n_nonzeros=32 * 57,
    )  # fmt: skip
    layers = (STEM, replace(conv, name="easy", n_nonzeros=32), conv)
    found = few_images(report(calibration_images=images, layers=layers, training=training))
    assert (said in str(found)) if said else found is None

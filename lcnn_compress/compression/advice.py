"""What a user should know about a finished compression that its figures do not say: sentences made from the report."""

from __future__ import annotations

import math

from lcnn_compress.artefact.report import LayerReport, Report

# Beyond this relative error of a layer's filters a net without calibration usually loses much.
COARSE = 0.3
# A net has missed its target below this fraction of it: two measurements of one net differ by less.
MIN_OF_TARGET = 0.92
# A coefficient of a filter has seen enough with this many positions or with this many images: positions of one image are alike.
FIT_POSITIONS, FIT_IMAGES = 20, 5


def advice(report: Report) -> list[str]:
    """Return what there is to say about a report, most important first."""
    return [line for line in (coarse_filters(report), few_images(report), missed_target(report)) if line is not None]


def coarse_filters(report: Report) -> str | None:
    """Say so where accuracy has probably fallen far: nothing has made up for coarse filters."""
    far = [row.name for row in report.layers if (row.relative_error or 0.0) > COARSE]
    if not far or (report.settings or {}).get("data") is not None:
        return None
    return (
        f"the filters of {len(far)} layers differ from the trained ones by more than {COARSE:.0%} ({', '.join(far[:3])}"
        f"{', ...' if len(far) > 3 else ''}) and no data was given: check the result with 'lcnn eval'; `calib` or `data` helps"
    )


def few_images(report: Report) -> str | None:
    """Say so where least squares saw too few images: their error is then well below that of others."""
    images, rows = report.calibration_images, [row for row in report.layers if row.n_nonzeros]
    if not images or not rows or report.training is not None:
        return None
    seen, row = min(((_seen(row, images), row) for row in rows), key=lambda pair: pair[0])
    if seen >= 1:
        return None
    return (
        f"{images} calibration images are few for the {(row.n_nonzeros or 0) // row.out_channels} coefficients of each filter "
        f"of {row.name}: the net suits these images better than others; about {math.ceil(images / seen)} are enough "
        "(`calib`, `samples`)"
    )


def _seen(row: LayerReport, images: int) -> float:
    """Return what a filter sees for each of its coefficients, as a fraction of what is enough."""
    inputs = row.in_channels // row.groups * math.prod(row.kernel)
    positions = row.macs_dense / (row.out_channels * inputs)
    return max(positions / FIT_POSITIONS, 1 / FIT_IMAGES) * images * row.out_channels / (row.n_nonzeros or 1)


def missed_target(report: Report) -> str | None:
    """Say so where the finished net is slower than asked for by more than two measurements of one net differ."""
    asked = (report.budget or {}).get("target", {})
    speedup, lookup_ms = report.totals.speedup, report.totals.lookup_ms
    if speedup is None or lookup_ms is None:
        return None
    part = float(speedup / asked["speedup"] if "speedup" in asked else asked.get("latency_ms", math.inf) / lookup_ms)
    if part >= MIN_OF_TARGET:
        return None
    return f"the net reached {part:.0%} of the target when it was measured last; on a quiet machine try again"

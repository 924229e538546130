"""Rows and totals of a report, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from cases import small_net

from lcnn_compress.bench.gain import Gain
from lcnn_compress.compress.plan import LayerPlan
from lcnn_compress.compress.report import add_times, layer_rows, make_report
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import with_lookups
from lcnn_compress.net.layers import Captured, layers

SHAPE = (1, 3, 16, 16)


@pytest.fixture
def rows():
    """Those of a net whose conv2 keeps one entry of the weight out of two, by an identity dictionary."""
    dense = capture(small_net(), torch.zeros(SHAPE))
    found = layers(dense, torch.zeros(SHAPE))
    conv2 = found[2]
    kernel = conv2.weight().detach().clone()
    kernel[:, ::2] = 0
    lookup = LookupConv2d(torch.eye(32), kernel, None, conv2.geometry)
    plans = [LayerPlan(layer.name, "sparse" if layer is conv2 else "dense", "", note="here") for layer in found]
    return layer_rows(with_lookups(Captured.of(dense, SHAPE), {"conv2": lookup}), found, plans, "float16")


def test_rows_count_macs_and_bytes(rows) -> None:
    stem, _, conv2, _ = rows
    assert (stem["kind"], stem["note"], stem["macs"], stem["weight_bytes"]) == (
        "dense",
        "here",
        16 * 27 * 256,
        4 * (16 * 27 + 16),
    )
    half = 32 * 16 * 9
    assert (conv2["n_nonzeros"], conv2["macs_stage1"], conv2["macs_stage2"], conv2["rows_used"]) == (half, 0, 64 * half, 16)
    # A dictionary and coefficients of 2 bytes, gaps of 1, 4 for each bias.
    assert conv2["weight_bytes"] == 2 * 32 * 32 + 3 * half + 4 * 32
    assert 0 < conv2["relative_error"] < 1


def test_totals_are_the_sums_of_the_rows(rows) -> None:
    report = make_report(rows, SHAPE, 40, None, None)
    totals = report["totals"]
    assert totals["macs"] == sum(row["macs"] for row in rows) < totals["macs_dense"]
    assert totals["macs_ratio"] == totals["macs_dense"] / totals["macs"]
    assert (report["input_shape"], report["calibration_images"], report["training"]) == ([1, 3, 16, 16], 40, None)
    assert "speedup" not in totals


def test_measured_times_go_into_the_rows_of_their_layers(rows) -> None:
    assert add_times(rows, Gain({"conv2": (0.5, 0.25)}, 3.0, 2.0)) == {"dense_ms": 3.0, "lookup_ms": 2.0, "speedup": 1.5}
    assert [row.get("lookup_ms") for row in rows] == [None, None, 0.25, None]

"""Layers and totals of a report, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
import torch
from cases import small_net

from lcnn_compress import api
from lcnn_compress.benchmark.gain import Gain
from lcnn_compress.compression.make_report import layer_reports, make_report, timed
from lcnn_compress.compression.plan import LayerPlan, PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
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
    return layer_reports(with_lookups(Captured.of(dense, SHAPE), {"conv2": lookup}), found, plans, "float16")


@pytest.fixture
def report(rows):
    west = timezone(timedelta(hours=-5))
    return make_report(rows, SHAPE, 40, None, datetime(2026, 1, 2, 16, 4, 5, 999_999, west))


def test_layers_count_macs_and_bytes(rows) -> None:
    stem, _, conv2, _ = rows
    assert (stem.kind, stem.note, stem.macs, stem.weight_bytes) == ("dense", "here", 16 * 27 * 256, 4 * (16 * 27 + 16))
    half = 32 * 16 * 9
    assert (conv2.n_nonzeros, conv2.macs_stage1, conv2.macs_stage2, conv2.rows_used) == (half, 0, 64 * half, 16)
    # A dictionary and coefficients of 2 bytes, gaps of 1, 4 for each bias.
    assert conv2.weight_bytes == 2 * 32 * 32 + 3 * half + 4 * 32
    assert 0 < conv2.relative_error < 1


def test_totals_are_the_sums_of_the_layers(report) -> None:
    totals = report.totals
    assert totals.macs == sum(row.macs for row in report.layers) < totals.macs_dense
    assert totals.macs_ratio == totals.macs_dense / totals.macs
    assert (report.input_shape, report.calibration_images, report.training) == (SHAPE, 40, None)
    assert totals.speedup is None


def test_the_date_is_that_of_utc_to_the_second(report) -> None:
    assert report.date == "2026-01-02T21:04:05+00:00"


def test_measured_times_go_into_a_new_report(report) -> None:
    with_times = timed(report, Gain({"conv2": (0.5, 0.25)}, 3.0, 2.0))
    assert (with_times.totals.dense_ms, with_times.totals.lookup_ms, with_times.totals.speedup) == (3.0, 2.0, 1.5)
    assert [row.lookup_ms for row in with_times.layers] == [None, None, 0.25, None]
    assert [row.dense_ms for row in with_times.layers] == [None, None, 0.5, None]
    assert {row.lookup_ms for row in report.layers} == {report.totals.lookup_ms} == {None}


def test_layers_in_8_bits_and_bfloat16_count_their_bytes() -> None:
    source = api.open_model(small_net(), (1, 3, 16, 16))
    settings = CompressSettings(PlanSettings("0.25", 1.0), measure=False, arithmetic="int8")
    made = api.compress_source(source, settings, TrainingData(calibration=[torch.rand(4, 3, 16, 16)]))
    for row in made.report.layers:
        layer = made.net.get_submodule(row.name)
        constants = ("weight", "weight_scale", "bias", "dictionary", "dictionary_scale")
        assert row.arithmetic == "int8"
        assert row.weight_bytes == sum(getattr(layer, name).nbytes for name in constants)
    made = api.compress_source(source, replace(settings, arithmetic="bfloat16"))
    assert {row.kind for row in made.report.layers} == {"dense", "lookup"}
    for row in made.report.layers:
        layer = made.net.get_submodule(row.name)
        assert row.arithmetic == "bfloat16"
        assert row.weight_bytes == sum(getattr(layer, name).nbytes for name in ("weight", "bias", "dictionary"))
    plain = api.compress_source(source, CompressSettings(PlanSettings("0.25", 1.0), measure=False))
    assert "arithmetic" not in plain.report.layers[0].to_json()

"""A report of two layers, one dense and one of lookups, for tests of what reads reports."""

from __future__ import annotations

from lcnn_compress.artefact.report import LayerReport, Report, Totals

STEM = LayerReport(
    name="stem", type="Conv2d", kind="dense", reason="first layer", note="", in_channels=3, out_channels=16, kernel=(3, 3),
    groups=1, input_sizes=((8, 8),), macs_dense=27_648, macs=27_648, weight_bytes_dense=1792, weight_bytes=1792,
    dense_ms=0.25, lookup_ms=0.25,
)  # fmt: skip
CONV = LayerReport(
    name="block.conv1", type="Conv2d", kind="lookup", reason="", note="", in_channels=16, out_channels=32, kernel=(3, 5),
    groups=1, input_sizes=((8, 8),), dictionary_size=4, n_nonzeros=48, lookups_per_position=0.1, macs_dense=491_520,
    macs_stage1=4096, macs_stage2=3072, macs=7168, weight_bytes_dense=30_848, weight_bytes=528, relative_error=0.125,
    rows_used=3, dense_ms=2.0, lookup_ms=0.5,
)  # fmt: skip
TOTALS = Totals(519_168, 34_816, 32_640, 2320, macs_ratio=14.9, dense_ms=2.25, lookup_ms=0.75, speedup=3.0)
REPORT = Report(
    input_shape=(1, 3, 8, 8), layers=(STEM, CONV), totals=TOTALS, calibration_images=0, training=None,
    machine={"cpu": "Test CPU", "isa": "avx2"}, date="2026-01-02T03:04:05+00:00", model="../nets/tiny.pt",
    settings={"seed": 7},
)  # fmt: skip

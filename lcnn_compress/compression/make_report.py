"""Fill the report of a compression: what was done to each layer and what it costs now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone

from torch import fx, nn

from lcnn_compress.artefact.report import LayerReport, Report, Totals, TrainingReport
from lcnn_compress.benchmark.gain import Gain
from lcnn_compress.compression.settings import LayerPlan
from lcnn_compress.forms.arithmetic import FLOAT32
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import coefficient_type, dictionary_bytes, narrow_bytes
from lcnn_compress.machine import machine
from lcnn_compress.net.layers import Layer
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.geometry import lookup_macs


def layer_reports(
    net: fx.GraphModule, found: Sequence[Layer], plans: Sequence[LayerPlan], storage: str
) -> tuple[LayerReport, ...]:
    """Describe every layer: ``found`` are the layers of the dense net, ``net`` holds the lookup convolutions."""
    return tuple(_layer_report(net.get_submodule(p.name), layer, p, storage) for layer, p in zip(found, plans, strict=True))


def _layer_report(module: nn.Module, layer: Layer, plan: LayerPlan, storage: str) -> LayerReport:
    weight = layer.weight().detach()
    dense_bytes = 4 * (weight.numel() + layer.out_channels)
    report = LayerReport(
        name=layer.name, type=type(layer.module).__name__, kind=plan.kind, reason=plan.reason, note=plan.note,
        in_channels=layer.in_channels, out_channels=layer.out_channels, kernel=tuple(layer.geometry.kernel),
        groups=layer.geometry.groups, input_sizes=tuple(tuple(size) for size in layer.sizes),
        macs_dense=layer.dense_macs, macs=layer.dense_macs, weight_bytes_dense=dense_bytes, weight_bytes=dense_bytes,
    )  # fmt: skip
    if isinstance(module, LookupConv2d):
        report = _with_lookups(report, module, layer, storage)
    if plan.arithmetic == FLOAT32:
        return report
    rows = 0 if not report.form.is_coded or report.form.is_identity else report.dictionary_size or 0
    n_bytes = narrow_bytes(
        plan.arithmetic, report.out_channels, math.prod(report.kernel), report.in_channels // report.groups,
        groups=report.groups, rows=rows,
    )  # fmt: skip
    return replace(report, arithmetic=plan.arithmetic, weight_bytes=n_bytes)


def _with_lookups(report: LayerReport, lookup: LookupConv2d, layer: Layer, storage: str) -> LayerReport:
    weight = layer.weight().detach()
    stage1 = sum(lookup_macs(lookup.in_channels, lookup.projected_rows, 0, layer.geometry, s) for s in layer.sizes)
    macs = sum(lookup.macs(s) for s in layer.sizes)
    gaps, _ = encode_positions((lookup.sparse_kernel * lookup.support).detach().numpy())
    entry_bytes = len(gaps) * (gaps.itemsize + coefficient_type(storage).itemsize)
    return replace(
        report,
        dictionary_size=lookup.dictionary_size,
        n_nonzeros=lookup.n_nonzeros,
        lookups_per_position=lookup.n_nonzeros / (lookup.out_channels * layer.geometry.taps),
        macs_stage1=stage1,
        macs_stage2=macs - stage1,
        macs=macs,
        weight_bytes=dictionary_bytes(storage, lookup.dictionary.numel()) + 4 * lookup.out_channels + entry_bytes,
        relative_error=float((lookup.weight().detach() - weight).norm()) / (float(weight.norm()) or 1.0),
        rows_used=_rows_used(lookup),
    )


def _rows_used(lookup: LookupConv2d) -> int:
    groups = lookup.geometry.groups
    return int(lookup.support.unflatten(0, (groups, -1)).any(dim=(1, 3, 4)).sum())


def make_report(
    rows: tuple[LayerReport, ...],
    input_shape: tuple[int, ...],
    calibration_images: int,
    training: TrainingReport | None,
    date: datetime,
) -> Report:
    """Put layers, totals and facts about the machine together; ``date`` has a time zone."""
    macs_dense, macs = sum(row.macs_dense for row in rows), sum(row.macs for row in rows)
    bytes_dense, n_bytes = sum(row.weight_bytes_dense for row in rows), sum(row.weight_bytes for row in rows)
    totals = Totals(macs_dense, macs, bytes_dense, n_bytes, macs_ratio=macs_dense / max(1, macs))
    written = date.astimezone(timezone.utc).isoformat(timespec="seconds")
    return Report(input_shape, rows, totals, calibration_images, training, asdict(machine()), written)


def timed(report: Report, times: Gain) -> Report:
    """Return a report with measured times of its layers and of the whole net."""

    def with_times(row: LayerReport) -> LayerReport:
        if row.name not in times.layers:
            return row
        dense_ms, lookup_ms = times.layers[row.name]
        return replace(row, dense_ms=dense_ms, lookup_ms=lookup_ms)

    speedup = times.dense_ms / times.lookup_ms
    totals = replace(report.totals, dense_ms=times.dense_ms, lookup_ms=times.lookup_ms, speedup=speedup)
    return replace(report, layers=tuple(map(with_times, report.layers)), totals=totals)

"""The report of a compression as plain values: what was done to each layer and what it costs now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from lcnn_compress.compress.settings import LayerPlan
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import coefficient_type, dictionary_bytes
from lcnn_compress.geometry import lookup_macs
from lcnn_compress.machine import machine
from lcnn_compress.net.layers import Layer
from lcnn_compress.operators.encoding import encode_positions

if TYPE_CHECKING:
    from lcnn_compress.bench.gain import Gain


def layer_rows(net: fx.GraphModule, found: Sequence[Layer], plans: Sequence[LayerPlan], storage: str) -> list[dict[str, Any]]:
    """Return one row for each layer: ``found`` are the dense layers, ``net`` holds the lookup convolutions.

    MACs are for one image, all calls of a layer together. ``relative_error`` is |W - PD| / |W| (Frobenius).
    """
    return [_row(net.get_submodule(p.name), layer, p, storage) for layer, p in zip(found, plans, strict=True)]


def _row(module: nn.Module, layer: Layer, plan: LayerPlan, storage: str) -> dict[str, Any]:
    weight = layer.weight().detach()
    dense_bytes = 4 * (weight.numel() + layer.out_channels)
    row: dict[str, Any] = {
        "name": layer.name, "type": type(layer.module).__name__, "kind": plan.kind, "reason": plan.reason, "note": plan.note,
        "in_channels": layer.in_channels, "out_channels": layer.out_channels, "kernel": list(layer.geometry.kernel),
        "groups": layer.geometry.groups,
        "input_sizes": [list(size) for size in layer.sizes], "macs_dense": layer.dense_macs, "macs": layer.dense_macs,
        "weight_bytes_dense": dense_bytes, "weight_bytes": dense_bytes,
    }  # fmt: skip
    if isinstance(module, LookupConv2d):
        row |= _lookup_row(module, layer, weight, storage)
    return row


def _lookup_row(lookup: LookupConv2d, layer: Layer, weight: torch.Tensor, storage: str) -> dict[str, Any]:
    nonzeros, size = lookup.n_nonzeros, lookup.dictionary_size
    channels = lookup.in_channels
    stage1 = sum(lookup_macs(channels, lookup.projected_rows, 0, layer.geometry, s) for s in layer.sizes)
    macs = sum(lookup.macs(s) for s in layer.sizes)
    gaps, _ = encode_positions((lookup.sparse_kernel * lookup.support).detach().numpy())
    entry_bytes = len(gaps) * (gaps.itemsize + coefficient_type(storage).itemsize)
    norm = float(weight.norm()) or 1.0
    return {
        "dictionary_size": size,
        "n_nonzeros": nonzeros,
        "lookups_per_position": nonzeros / (lookup.out_channels * layer.geometry.taps),
        "macs_stage1": stage1,
        "macs_stage2": macs - stage1,
        "macs": macs,
        "weight_bytes": dictionary_bytes(storage, lookup.dictionary.numel()) + 4 * lookup.out_channels + entry_bytes,
        "relative_error": float((lookup.weight().detach() - weight).norm()) / norm,
        "rows_used": int(_rows_used(lookup)),
    }


def _rows_used(lookup: LookupConv2d) -> int:
    groups = lookup.geometry.groups
    return int(lookup.support.unflatten(0, (groups, -1)).any(dim=(1, 3, 4)).sum())


def add_times(rows: list[dict[str, Any]], times: Gain) -> dict[str, float]:
    """Write measured times into the rows of layers; return those of the net."""
    for row in rows:
        if row["name"] in times.layers:
            row["dense_ms"], row["lookup_ms"] = times.layers[row["name"]]
    return {"dense_ms": times.dense_ms, "lookup_ms": times.lookup_ms, "speedup": times.dense_ms / times.lookup_ms}


def make_report(
    rows: list[dict[str, Any]],
    input_shape: tuple[int, ...],
    calibration_images: int,
    training: dict[str, Any] | None,
    times: Gain | None,
) -> dict[str, Any]:
    """Put rows, totals, measured times (ms, one image) and the machine together."""
    sums = {key: sum(row[key] for row in rows) for key in ("macs_dense", "macs", "weight_bytes_dense", "weight_bytes")}
    sums["macs_ratio"] = sums["macs_dense"] / max(1, sums["macs"])
    if times is not None:
        sums |= add_times(rows, times)
    return {
        "command": "compress", "input_shape": list(input_shape), "layers": rows, "totals": sums,
        "calibration_images": calibration_images, "training": training, "evaluation": None, "machine": asdict(machine()),
    }  # fmt: skip

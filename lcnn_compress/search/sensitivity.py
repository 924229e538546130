"""What compressing one layer alone costs: its drop, or the error it makes in the outputs, at several sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch

from lcnn_compress.artefact.report import Json
from lcnn_compress.compression.make import make_lookup
from lcnn_compress.compression.plan import planned_macs, reasons_against, size_limits
from lcnn_compress.compression.settings import LayerPlan, TrainingData
from lcnn_compress.data.examples import Examples
from lcnn_compress.data.score import score, torch_runner
from lcnn_compress.errors import DataError, SettingsError
from lcnn_compress.forms.kinds import LOOKUP
from lcnn_compress.forms.size_rules import DEFAULT_LOOKUPS
from lcnn_compress.net.layers import Captured, Layer
from lcnn_compress.net.output_error import Outputs, some_images
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.budget_report import OPTIONAL, as_json
from lcnn_compress.search.effects import replaced
from lcnn_compress.search.layer_fit import gather
from lcnn_compress.search.target import SensitivitySettings

# Outputs are compared on at most this many images.
IMAGES = 128
# These sizes of the picture are in pixels.
CELL_WIDTH, CELL_HEIGHT, NAME_WIDTH = 90, 24, 260
LIGHT, DARK = (236, 241, 247), (23, 79, 134)


@dataclass(frozen=True)
class LayerForm:
    """One layer in one form: MACs of one image, the error of the outputs and, with labels, the drop in points or dB.

    ``share`` is the dictionary as a share of the channels. ``error`` is the root mean square difference of the outputs,
    relative to their standard deviation.
    """

    share: float
    dictionary_size: int
    macs: int
    error: float
    drop: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class SensitiveLayer:
    """What one layer alone does to the net in each of its forms."""

    name: str
    macs_dense: int
    forms: tuple[LayerForm, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What ``lcnn sensitivity --json`` prints.

    ``metric`` and ``dense``, the score of the dense net, are None without labels; ``n`` counts the images. ``dense_layers``
    says why layers were not tried.
    """

    command: str
    input_shape: tuple[int, ...]
    sizes: tuple[float, ...]
    lookups: float
    init: str
    metric: str | None
    dense: float | None
    n: int
    layers: tuple[SensitiveLayer, ...]
    dense_layers: Mapping[str, str]


def sensitivity(
    captured: Captured,
    settings: SensitivitySettings,
    data: TrainingData,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compress one layer at a time and measure what that does; the answer is ``Sensitivity`` as JSON.

    Coefficients are solved for the layer's own inputs on the calibration data.

    Args:
        captured: the net, which is not changed, and its layers.
        settings: sizes, layers, start of the dictionaries.
        data: with calibration inputs, and examples where the drop is wanted.
        progress: gets ("trying layers", forms tried, in total), and what ``gather`` says.

    Raises:
        DataError: no calibration inputs.
        SettingsError: no layer can be compressed.
    """
    if not data.calibration:
        raise DataError("calibration data holds 0 images; sensitivity needs at least 1")
    net, found = copy.deepcopy(captured.net), captured.layers
    reasons = reasons_against(found, settings.plan)
    free = [layer for layer, reason in zip(found, reasons, strict=True) if reason is None]
    if not free:
        raise SettingsError("no layer can be compressed; name layers with `only`")
    judge = Outputs(net, some_images(data.calibration, IMAGES))
    labelled = data.examples if data.examples is not None and _labelled(data.examples) else None
    base = None if labelled is None else score(torch_runner(net), labelled)
    rows: list[SensitiveLayer] = []
    total = len(free) * len(settings.sizes)
    errors = judge.errors_behind(net, [layer.name for layer in free])
    for layer, moments, error_now in zip(free, gather(net, free, data.calibration, progress), errors, strict=True):
        forms: list[LayerForm] = []
        for share in settings.sizes:
            progress("trying layers", len(rows) * len(settings.sizes) + len(forms), total)
            plan = _plan(layer, share)
            lookup = make_lookup(layer, plan, settings.init, settings.seed)
            factors = lookup.dictionary.detach(), lookup.sparse_kernel.detach()
            drop = None
            with replaced(net, layer, *moments.solve(*factors, layer.weight().detach())):
                error = error_now() ** 0.5
                if base is not None and labelled is not None:
                    drop = base.value - score(torch_runner(net), labelled).value
            forms.append(LayerForm(share, plan.dictionary_size, planned_macs(layer, plan), error, drop))
        rows.append(SensitiveLayer(layer.name, layer.dense_macs, tuple(forms)))
    progress("trying layers", total, total)
    return as_json(Sensitivity(
        "sensitivity", captured.input_shape, settings.sizes, DEFAULT_LOOKUPS, settings.init,
        metric=None if base is None else base.metric, dense=None if base is None else base.value,
        n=sum(map(len, judge.batches)) if base is None else base.n, layers=tuple(rows),
        dense_layers={layer.name: reason for layer, reason in zip(found, reasons, strict=True) if reason is not None},
    ))  # fmt: skip


def _labelled(examples: Examples) -> bool:
    return examples.batch(torch.tensor([0]))[1] is not None


def _plan(layer: Layer, share: float) -> LayerPlan:
    size = max(1, min(size_limits(layer)[0], round(share * layer.in_channels / layer.geometry.groups)))
    return LayerPlan(layer.name, LOOKUP.name, "", size, max(1, round(DEFAULT_LOOKUPS * size)))


def picture(result: Json) -> str:
    """Return the answer of ``sensitivity`` as SVG: a row for each layer, a column for each size, dark where it costs much."""
    key = "drop" if result["metric"] else "error"
    title = f"{key} when only this layer is compressed"
    most = max((form[key] for row in result["layers"] for form in row["forms"]), default=0.0) or 1.0
    shapes = [f'<text x="8" y="18" font-weight="bold">{escape(title)}</text>']
    for column, size in enumerate(result["sizes"]):
        shapes.append(f'<text x="{NAME_WIDTH + (column + 0.5) * CELL_WIDTH}" y="40" text-anchor="middle">{size:g}</text>')
    for number, row in enumerate(result["layers"]):
        y = 48 + number * CELL_HEIGHT
        shapes.append(f'<text x="{NAME_WIDTH - 8}" y="{y + 16}" text-anchor="end">{escape(row["name"])}</text>')
        for column, form in enumerate(row["forms"]):
            share = min(1.0, max(0.0, form[key] / most))
            colour = ",".join(str(round(light + share * (dark - light))) for light, dark in zip(LIGHT, DARK, strict=True))
            x = NAME_WIDTH + column * CELL_WIDTH
            shapes.append(f'<rect x="{x}" y="{y}" width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" fill="rgb({colour})"/>')
            ink = "#fff" if share > 0.5 else "#14181d"
            shown = f"{form[key]:.2f}" if key == "drop" else f"{form[key]:.3f}"
            shapes.append(f'<text x="{x + CELL_WIDTH / 2 - 1}" y="{y + 16}" text-anchor="middle" fill="{ink}">{shown}</text>')
    width, height = NAME_WIDTH + len(result["sizes"]) * CELL_WIDTH + 8, 56 + len(result["layers"]) * CELL_HEIGHT
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'{head} font-family="system-ui, sans-serif" font-size="12">{"".join(shapes)}</svg>\n'

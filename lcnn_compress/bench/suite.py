"""Well-known nets at the dictionaries and densities the paper and its code published, with SYNTHETIC patterns.

What a lookup convolution costs depends on how many rows and non-zeros it has, not on their values: dictionaries, positions and
coefficients here are random, so the figures are of speed and memory only and say nothing of accuracy. Each net is timed as
dense float32 and int8 in ONNX Runtime, in OpenVINO where that is installed, and at every setting, all in turn.

Dictionaries: Bagherinezhad et al., "LCNN", CVPR 2017, section 4; densities: the README of github.com/ildoonet/tf-lcnn.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lcnn_compress import runtime, zoo
from lcnn_compress.bench.child import run_child
from lcnn_compress.bench.compare import compare
from lcnn_compress.bench.engines import DENSE, OPENVINO, EngineFile, has_openvino, time_files, write_int8
from lcnn_compress.bench.settings import BenchSettings
from lcnn_compress.errors import SettingsError
from lcnn_compress.export.settings import ExportSettings
from lcnn_compress.export.to_onnx import export_onnx, to_onnx
from lcnn_compress.files import write_atomically
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.size_rules import parse_dictionary
from lcnn_compress.forms.storage import round_factors
from lcnn_compress.geometry import lookup_macs
from lcnn_compress.machine import int8_extensions, machine
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import fold_batch_norms, with_lookups
from lcnn_compress.net.layers import Captured, Layer
from lcnn_compress.progress import Progress, silent

log = logging.getLogger(__name__)
LABEL = "synthetic patterns: speed and memory only, no accuracy"


@dataclass(frozen=True)
class Net:
    """A net, its input, and the MACs of the wider net its published ratios may refer to."""

    name: str
    factory: Callable[[], nn.Module]
    input_shape: tuple[int, int, int, int] = (1, 3, 224, 224)
    wide_macs: int | None = None


@dataclass(frozen=True)
class Setting:
    """What becomes of a net. Layers that would need more MACs than dense ones stay dense.

    Without ``densities`` and ``macs_ratio`` there is one lookup per kernel position on average.
    """

    net: Net
    name: str
    dictionary: str  # as --dict; layers it does not name stay dense
    densities: tuple[float, ...] = ()  # non-zeros as a share of k * C_out * kH * kW: for each layer named, or one for all
    macs_ratio: float | None = None  # instead: the same density everywhere, so that the whole net has so many times fewer MACs
    filters_per_pattern: int = 1  # neighbouring filters with the same pattern
    storage: str = "float16"  # type of the factors
    published_ratio: float | None = None  # the paper's speed-up, an operation count
    note: str = ""


# The LCNN code's dense AlexNet has 96-256-384-384-256 ungrouped channels, its lookup form 64-192-384-256-256.
ALEXNET = Net("alexnet", zoo.alexnet, wide_macs=1_135_256_096)
RESNET18 = Net("resnet18", zoo.resnet18)
VGG16 = Net("vgg16", zoo.vgg16)
DEMOSAICNET = Net("demosaicnet", zoo.demosaicnet, (1, 3, 256, 256))
LAST = "classifier.6 was not published: given the dictionary and density of classifier.4 (FC7)"
SHARED = "eight neighbouring filters look the same places up, unlike those published"
BYTES = "dictionaries of 2^18 entries and more as int8, the others as float16"
UNPUBLISHED = (
    "densities were not published: one lookup per position on average, in shortcuts too, which the published code leaves dense"
)
LIKE_RESNET = (
    "nothing was published for this net: the dictionaries of ResNet-18's layers of 64 channels, one lookup per position"
)
FAST = Setting(
    ALEXNET, "LCNN-fast", "features.0=3,features.*=30,classifier.*=512",
    (0.083, 0.034, 0.008, 0.013, 0.027, 0.001, 0.002, 0.002),
)  # fmt: skip
PAPER = (
    replace(FAST, published_ratio=37.6, note=LAST),
    replace(FAST, name="LCNN-fast, shared", filters_per_pattern=8, note=SHARED),
    replace(FAST, name="LCNN-fast, 8 bits", storage="int8", note=BYTES),
    replace(FAST, name="LCNN-fast, shared, 8 bits", filters_per_pattern=8, storage="int8", note=f"{SHARED}; {BYTES}"),
    Setting(
        ALEXNET, "LCNN-accurate", "features.0=3,features.*=500,classifier.*=1024",
        (0.129, 0.040, 0.029, 0.034, 0.071, 0.006, 0.007, 0.007), published_ratio=3.2, note=LAST,
    ),
    Setting(
        RESNET18, "LCNN-fast", "conv1=3,layer1.*=16,layer2.*=32,layer3.*=64,layer4.*=128",
        published_ratio=29.2, note=UNPUBLISHED,
    ),
    Setting(
        RESNET18, "LCNN-fast, shared", "conv1=3,layer1.*=16,layer2.*=32,layer3.*=64,layer4.*=128",
        filters_per_pattern=8, note=SHARED,
    ),
    Setting(
        RESNET18, "LCNN-accurate", "conv1=3,layer1.*=128,layer2.*=256,layer3.*=512,layer4.*=1024",
        published_ratio=5.0, note=UNPUBLISHED,
    ),
    Setting(RESNET18, "10x", "conv1=3,layer*=0.25", macs_ratio=10),
    Setting(RESNET18, "10x, shared", "conv1=3,layer*=0.25", macs_ratio=10, filters_per_pattern=8, note=SHARED),
    Setting(RESNET18, "4x", "conv1=3,layer*=0.5", macs_ratio=4),
    Setting(RESNET18, "4x, shared", "conv1=3,layer*=0.5", macs_ratio=4, filters_per_pattern=8, note=SHARED),
    Setting(RESNET18, "4x, low rank", "layer*=0.18", (1.0,)),
    Setting(RESNET18, "2x", "conv1=3,layer*=0.5", macs_ratio=2),
    Setting(RESNET18, "2x, low rank", "layer*=0.414", (1.0,)),
    Setting(VGG16, "10x", "features.0=3,*=0.25", macs_ratio=10),
    Setting(VGG16, "10x, shared", "features.0=3,*=0.25", macs_ratio=10, filters_per_pattern=8, note=SHARED),
    Setting(DEMOSAICNET, "LCNN-fast", "main_processor.conv*=16", note=LIKE_RESNET),
    Setting(
        DEMOSAICNET, "LCNN-fast, shared", "main_processor.conv*=16", filters_per_pattern=8,
        note=f"{LIKE_RESNET}; {SHARED}",
    ),
    Setting(DEMOSAICNET, "LCNN-accurate", "main_processor.conv*=128", note=LIKE_RESNET),
    Setting(DEMOSAICNET, "4x", "main_processor.conv*=0.5", macs_ratio=4),
    Setting(DEMOSAICNET, "4x, shared", "main_processor.conv*=0.5", macs_ratio=4, filters_per_pattern=8, note=SHARED),
)  # fmt: skip
SUITES = {"paper": PAPER}


@dataclass(frozen=True)
class Coding:
    """One layer as k = ``size`` rows and ``nonzeros`` lookups of all its filters; dense for a ``reason`` where k is 0."""

    layer: Layer
    size: int
    nonzeros: int = 0
    reason: str = ""

    @property
    def macs_stage1(self) -> int:
        """MACs of the dictionary on one image."""
        channels, geometry = self.layer.in_channels, self.layer.geometry
        return sum(lookup_macs(channels, self.size, 0, geometry, size) for size in self.layer.sizes)

    @property
    def macs_stage2(self) -> int:
        """MACs of the lookups on one image."""
        return sum(lookup_macs(0, 0, self.nonzeros, self.layer.geometry, size) for size in self.layer.sizes)

    @property
    def macs(self) -> int:
        """MACs of the layer on one image."""
        return self.macs_stage1 + self.macs_stage2 if self.size else self.layer.dense_macs


def code_layers(found: Sequence[Layer], setting: Setting) -> list[Coding]:
    """Return what becomes of each layer.

    Raises:
        SettingsError: no density reaches ``macs_ratio``.
    """
    rules = parse_dictionary(setting.dictionary)
    named = []
    for layer in found:
        rule = next((r for r in rules if fnmatchcase(layer.name, r.glob)), None)
        if rule is not None:
            vectors = layer.out_channels * layer.geometry.taps
            named.append((layer, rule.rows(min(layer.in_channels // layer.geometry.groups, vectors))))
    if setting.macs_ratio is not None:
        densities = [solve_density(found, named, setting)] * len(named)
    else:
        densities = [*setting.densities] or [1 / size for _, size in named]
        densities *= len(named) if len(densities) == 1 else 1
    codings = {
        layer.name: _code(layer, size, density) for (layer, size), density in zip(named, densities, strict=True)
    }  # fmt: skip
    return [codings.get(layer.name, Coding(layer, 0, reason="no dictionary is stated for it")) for layer in found]


def _code(layer: Layer, size: int, density: float) -> Coding:
    coding = Coding(layer, size, max(1, round(density * _positions(layer, size))))
    if coding.macs < layer.dense_macs:
        return coding
    return Coding(layer, 0, reason="lookup would take no fewer MACs")


def _positions(layer: Layer, size: int) -> int:
    return size * layer.out_channels * layer.geometry.taps


def solve_density(found: Sequence[Layer], named: Sequence[tuple[Layer, int]], setting: Setting) -> float:
    """Return the density at which the net has ``macs_ratio`` times fewer MACs; MACs are linear in it.

    Raises:
        SettingsError: it is not between 0 and 1.
    """
    assert setting.macs_ratio is not None
    total = sum(layer.dense_macs for layer in found)
    full = {layer.name: Coding(layer, size, _positions(layer, size)) for layer, size in named}
    while True:
        fixed = sum(full[layer.name].macs_stage1 if layer.name in full else layer.dense_macs for layer in found)
        lookups = sum(coding.macs_stage2 for coding in full.values())
        density = (total / setting.macs_ratio - fixed) / max(1, lookups)
        if not 0 < density <= 1:
            raise SettingsError(
                f"{setting.net.name} {setting.name}: {setting.macs_ratio:g}x fewer MACs would take a density of {density:.3f}; "
                "it must be above 0 and at most 1: choose other dictionaries"
            )
        paying = {n: c for n, c in full.items() if c.macs_stage1 + density * c.macs_stage2 < c.layer.dense_macs}
        if len(paying) == len(full):
            return density
        full = paying  # the others stay dense, which takes another density of the rest


def _density(codings: Sequence[Coding]) -> float:
    """Return the share of non-zeros in all sparse kernels together."""
    return sum(c.nonzeros for c in codings) / max(1, sum(_positions(c.layer, c.size) for c in codings))


def synthetic_lookup(coding: Coding, rng: np.random.Generator, filters_per_pattern: int = 1) -> LookupConv2d:
    """Return a lookup convolution with random rows and coefficients, exact in float16, at random positions.

    ``filters_per_pattern`` neighbouring filters have the same positions.
    """
    layer, (height, width) = coding.layer, coding.layer.geometry.kernel
    groups, out_channels = layer.geometry.groups, layer.out_channels
    channels = layer.in_channels // groups
    dictionary = rng.standard_normal((groups * coding.size, channels), np.float32) / np.float32(math.sqrt(channels))
    places = _positions(layer, coding.size) // out_channels
    blocks = -(-out_channels // filters_per_pattern)
    pattern = np.zeros(blocks * places, bool)
    pattern[rng.choice(pattern.size, max(1, round(coding.nonzeros / out_channels * blocks)), replace=False)] = True
    used = pattern.reshape(blocks, places).repeat(filters_per_pattern, axis=0)[:out_channels]
    # The scale keeps activations of the same size through a ReLU (He et al. 2015); no coefficient is near 0.
    scale = math.sqrt(2 / max(1.0, coding.nonzeros / out_channels))
    values = rng.uniform(0.5, 1.5, used.shape) * rng.choice((-scale, scale), used.shape)
    kernel = np.where(used, values, 0).astype(np.float16).astype(np.float32)
    sparse = torch.from_numpy(kernel.reshape(out_channels, coding.size, height, width))
    return LookupConv2d(torch.from_numpy(dictionary), sparse, layer.module.bias, layer.geometry)


def run_suite(settings: BenchSettings, cases: Sequence[Setting] = PAPER, progress: Progress = silent) -> dict[str, Any]:
    """Measure every net of ``cases``; return the object of ``lcnn bench --suite --json``.

    ``rows`` has a row for each form of each net (dense, int8, openvino, and lookup at each setting), batch size and number of
    threads; ``layers`` a row for each layer of each setting. MACs, and the times of layers, are of one image.

    Raises:
        SettingsError: a batch does not fit the memory or the time limit.
        ModelError: an exported net does not compute what torch computes.
        ChildError: a measuring process crashed.
    """
    rows: list[dict[str, Any]] = []
    layer_rows: list[dict[str, Any]] = []
    extensions = ", ".join(int8_extensions()) or "none"
    notes = [f"int8: static QDQ per channel, uint8 activations; this processor's int8 products: {extensions}"]
    if not has_openvino():
        notes.append("OpenVINO is not installed: no figures of it (pip install openvino)")
    if runtime.library_path() is None:
        notes.append("no native library: lookup runs as dense convolutions")
    for net in dict.fromkeys(case.net for case in cases):
        with tempfile.TemporaryDirectory(prefix="lcnn-") as folder:
            measured = _NetFiles(net, [case for case in cases if case.net == net], Path(folder), settings, progress)
            rows += measured.rows()
            layer_rows += measured.layer_rows()
            notes += measured.notes()
        log.info("measured %s", net.name)
    return {
        "command": "bench", "suite": "paper", "label": LABEL, "isa": runtime.isa(), "int8_extensions": int8_extensions(),
        "onnxruntime": runtime.onnxruntime_version(), "rows": rows, "layers": layer_rows, "notes": notes, "machine": machine(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip


class _NetFiles:
    """The files of one net and what is measured of them."""

    def __init__(self, net: Net, cases: Sequence[Setting], folder: Path, settings: BenchSettings, progress: Progress) -> None:
        self.net, self.cases, self.folder, self.settings, self.progress = net, cases, folder, settings, progress
        self.pairs = [(batch, threads) for batch in settings.batches for threads in settings.threads]
        self.done, self.total = 0, 2 + len(cases) + len(self.pairs) + (len(cases) if settings.per_layer else 0)
        progress(net.name, 0, self.total)
        torch.manual_seed(settings.seed)
        dense = capture(net.factory(), torch.zeros(net.input_shape))
        fold_batch_norms(dense)  # before lookups are put in, so that no scale spoils coefficients exact in float16
        captured = Captured.of(dense, net.input_shape)
        self.codings = {case.name: code_layers(captured.layers, case) for case in cases}
        self.forms = {DENSE: EngineFile(folder / "dense.onnx"), "int8": EngineFile(folder / "int8.onnx")}
        model = to_onnx(dense, net.input_shape, ExportSettings(), {})
        write_atomically(self.forms[DENSE].path, model.SerializeToString())
        self._step()
        write_int8(self.forms[DENSE].path, self.forms["int8"].path, net.input_shape, settings)
        self._step()
        if has_openvino():
            self.forms["openvino"] = EngineFile(self.forms[DENSE].path, OPENVINO)
        for case in cases:
            self.forms[case.name] = EngineFile(folder / f"{case.name}.onnx")
            self._export(captured, case)
            self._step()

    def _step(self) -> None:
        self.done += 1
        self.progress(self.net.name, self.done, self.total)

    def _export(self, captured: Captured, case: Setting) -> None:
        rng = np.random.default_rng(self.settings.seed)
        lookups = {c.layer.name: synthetic_lookup(c, rng, case.filters_per_pattern) for c in self.codings[case.name] if c.size}
        net = with_lookups(captured, lookups)
        round_factors(net, case.storage)
        export_onnx(net, self.forms[case.name].path, self.net.input_shape, ExportSettings(case.storage))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each form, batch size and number of threads."""
        rows = []
        for batch, threads in self.pairs:
            times = time_files(self.forms, (batch, *self.net.input_shape[1:]), threads, self.settings)
            self._step()
            for name, form in self.forms.items():
                row: dict[str, Any] = {"net": self.net.name, "form": name, "setting": None, "engine": form.engine}
                row |= {"batch": batch, "threads": threads} | self._macs(name) | times[name]
                row |= {"file_bytes": form.path.stat().st_size}
                if name in self.codings:
                    realised = times[name]["speedup_p50"] / row["macs_ratio"]
                    row |= {"form": "lookup", "setting": name, "realised_fraction": realised}
                rows.append(row)
        return rows

    def _macs(self, name: str) -> dict[str, Any]:
        dense = sum(coding.layer.dense_macs for coding in next(iter(self.codings.values())))
        if name not in self.codings:
            return {"macs_dense": dense, "macs": dense, "macs_ratio": 1.0}
        codings = self.codings[name]
        macs, case = sum(coding.macs for coding in codings), self._case(name)
        return {
            "macs_dense": dense, "macs": macs,
            "macs_stage1": sum(c.macs_stage1 for c in codings), "macs_stage2": sum(c.macs_stage2 for c in codings),
            "macs_ratio": dense / macs, "density": _density(codings),
            "macs_ratio_wide": self.net.wide_macs / macs if self.net.wide_macs is not None else None,
            "published_ratio": case.published_ratio,
        }  # fmt: skip

    def _case(self, name: str) -> Setting:
        return next(case for case in self.cases if case.name == name)

    def layer_rows(self) -> list[dict[str, Any]]:
        """Return a row for each layer of each setting."""
        rows = []
        for name, codings in self.codings.items():
            times = self._layer_times(name) if self.settings.per_layer else {}
            for coding in codings:
                dense_ms, lookup_ms = times.get(coding.layer.name, (None, None))
                rows.append({
                    "net": self.net.name, "setting": name, "name": coding.layer.name, "reason": coding.reason,
                    "kind": "lookup" if coding.size else "dense", "dictionary_size": coding.size, "n_nonzeros": coding.nonzeros,
                    "macs_dense": coding.layer.dense_macs, "macs": coding.macs, "macs_stage1": coding.macs_stage1,
                    "macs_stage2": coding.macs_stage2, "dense_ms": dense_ms, "lookup_ms": lookup_ms,
                })  # fmt: skip
        return rows

    def _layer_times(self, name: str) -> dict[str, tuple[float, float]]:
        files = {"dense": self.forms[DENSE].path, "lookup": self.forms[name].path}
        job = {"job": "layers", "threads": self.settings.threads[0], "seed": self.settings.seed, **files}
        times: dict[str, tuple[float, float]] = run_child(job, compare.__module__, self.settings.timeout_s)["layers"]
        self._step()
        return times

    def notes(self) -> list[str]:
        """Return what a reader of the rows must know: choices of ours, densities solved for, layers that stay dense."""
        names: dict[str, list[str]] = {}
        for case in self.cases:
            for remark in _remarks(case, self.codings[case.name]):
                names.setdefault(remark, []).append(case.name)
        return [f"{self.net.name} {', '.join(cases)}: {remark}" for remark, cases in names.items()]


def _remarks(case: Setting, codings: Sequence[Coding]) -> list[str]:
    remarks = [case.note] if case.note else []
    if case.macs_ratio is not None:
        remarks.append(f"dictionaries {case.dictionary} at the density solved for, {_density(codings):.4f}")
    for reason in dict.fromkeys(coding.reason for coding in codings if coding.reason):
        remarks.append(f"{', '.join(c.layer.name for c in codings if c.reason == reason)}: dense, {reason}")
    return remarks

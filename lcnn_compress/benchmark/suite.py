"""Time the nets of ``suite_cases`` in every form a user could run: speed and memory only.

Each net is timed as dense float32 in ONNX Runtime, in every other way of ``rivals`` that is here, and at every setting, all in
turn.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from torch import fx

from lcnn_compress import runtime
from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.benchmark.compare import DENSE, BestOther, FormFigures, Timed, layer_pairs, time_files
from lcnn_compress.benchmark.rivals import KINDS, RivalKind, file_bytes, make_rivals
from lcnn_compress.benchmark.suite_cases import PAPER, Coding, Net, Setting, code_layers, density_of, synthetic_lookup
from lcnn_compress.benchmark.timing import EngineFile, random_values
from lcnn_compress.export.export_settings import ExportSettings
from lcnn_compress.export.to_onnx import export_onnx, only_timed, to_onnx
from lcnn_compress.files import temporary_folder, write_atomically
from lcnn_compress.forms.arithmetic import BFLOAT16, FLOAT32
from lcnn_compress.forms.storage import round_factors
from lcnn_compress.machine import Machine, int8_extensions, machine
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import fold_batch_norms, with_lookups
from lcnn_compress.net.layers import Captured
from lcnn_compress.net.ordinary import seeded
from lcnn_compress.progress import Progress, silent
from lcnn_compress.quantisation.in_bfloat16 import in_bfloat16
from lcnn_compress.quantisation.quantise import quantise, reason_against

log = logging.getLogger(__name__)
LABEL = "synthetic patterns: speed and memory only, no accuracy"


@dataclass(frozen=True)
class FormRow:
    """One form of a net at one batch size and number of threads; MACs are of one image, ``peak_rss_bytes`` is the most held."""

    net: str
    form: str
    # The setting is None where nothing was rewritten.
    setting: str | None
    engine: str
    batch: int
    threads: int
    macs_dense: int
    macs: int
    macs_ratio: float
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p99: float
    latency_ms_min: float
    throughput_per_s: float
    peak_rss_bytes: int
    speedup_p50: float
    speedup_ci95: tuple[float, float]
    file_bytes: int


@dataclass(frozen=True)
class LookupRow(FormRow):
    """A net rewritten at a setting.

    ``macs_ratio_wide`` compares it with the wider net the published ratio may mean, if any. ``best_other`` is the fastest of
    dense and its rivals.
    """

    macs_stage1: int
    macs_stage2: int
    density: float
    macs_ratio_wide: float | None
    published_ratio: float | None
    realised_fraction: float
    best_other: BestOther


@dataclass(frozen=True)
class SuiteLayer:
    """One layer at one setting; its MACs and ms are of one image, its ms None where it was not timed."""

    net: str
    setting: str
    name: str
    reason: str
    kind: str
    dictionary_size: int
    n_nonzeros: int
    macs_dense: int
    macs: int
    macs_stage1: int
    macs_stage2: int
    dense_ms: float | None
    lookup_ms: float | None


@dataclass(frozen=True)
class SuiteResult:
    """What ``lcnn bench --suite --json`` prints.

    ``rows`` has a row for each form of each net (dense, its rivals by name, and lookup at each setting), batch size and number
    of threads; ``layers`` a row for each layer of each setting; ``notes`` what a reader of the rows must know.
    """

    command: str
    suite: str
    label: str
    isa: str | None
    int8_extensions: tuple[str, ...]
    onnxruntime: str
    rows: tuple[FormRow, ...]
    layers: tuple[SuiteLayer, ...]
    notes: tuple[str, ...]
    machine: Machine
    date: str


def run_suite(
    settings: BenchSettings,
    cases: Sequence[Setting] = PAPER,
    progress: Progress = silent,
    rivals: Sequence[RivalKind] = KINDS,
    *,
    name: str = "paper",
) -> SuiteResult:
    """Measure every net of ``cases``.

    Args:
        settings: batches, threads and iterations; whether layers and rivals are timed.
        cases: nets and what becomes of them.
        progress: gets (name of the net, steps done, in total).
        rivals: what the nets are held against, where it is installed.
        name: of the suite.

    Raises:
        SettingsError: a batch does not fit the memory or the time limit.
        ModelError: an exported net does not compute what torch computes.
        ChildError: a measuring process crashed.
    """
    rows: list[FormRow] = []
    layer_rows: list[SuiteLayer] = []
    notes = _notes_on_machine()
    for net in dict.fromkeys(case.net for case in cases):
        with temporary_folder() as folder:
            chosen = [case for case in cases if case.net == net]
            measured = _NetFiles(chosen, folder, settings, progress, rivals)
            rows += measured.rows()
            layer_rows += measured.layer_rows()
            notes += measured.notes()
        log.info("measured %s", net.name)
    return SuiteResult(
        command="bench", suite=name, label=LABEL, isa=runtime.isa(), int8_extensions=tuple(int8_extensions()),
        onnxruntime=runtime.onnxruntime_version(), rows=tuple(rows), layers=tuple(layer_rows), notes=tuple(notes),
        machine=machine(), date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )  # fmt: skip


def _notes_on_machine() -> list[str]:
    notes = [f"this processor's int8 products: {', '.join(int8_extensions()) or 'none'}"]
    if runtime.library_path() is None:
        notes.append("no native library: lookup runs as dense convolutions")
    return notes


class _NetFiles:
    """The files of one net and what is measured of them."""

    def __init__(
        self,
        cases: Sequence[Setting],
        folder: Path,
        settings: BenchSettings,
        progress: Progress,
        kinds: Sequence[RivalKind],
    ) -> None:
        self.net: Net = cases[0].net
        self.cases, self.folder, self.settings, self.progress = cases, folder, settings, progress
        self.pairs = [(batch, threads) for batch in settings.batches for threads in settings.threads]
        self.done, self.total = 0, 2 + len(cases) + len(self.pairs) + (len(cases) if settings.per_layer else 0)
        progress(self.net.name, 0, self.total)
        with seeded(settings.seed):
            dense = capture(self.net.factory(), torch.zeros(self.net.input_shape))
        # This comes before lookups are put in, so that no scale spoils coefficients exact in float16.
        fold_batch_norms(dense)
        captured = Captured.of(dense, self.net.input_shape)
        self.codings = {case.name: code_layers(captured.layers, case) for case in cases}
        self.dense_macs = sum(layer.dense_macs for layer in captured.layers)
        dense_file = folder / "dense.onnx"
        model = to_onnx(dense, self.net.input_shape, ExportSettings(), {})
        write_atomically(dense_file, model.SerializeToString())
        self._step()
        self.rivals = make_rivals(dense_file, folder, self.net.input_shape, settings, kinds=kinds)
        self._step()
        self.forms = {DENSE: EngineFile(dense_file)} | self.rivals.files
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
        net = self._narrow(net, case.arithmetic)
        export_onnx(net, self.forms[case.name].path, self.net.input_shape, only_timed(case.storage))

    def _narrow(self, net: fx.GraphModule, arithmetic: str) -> fx.GraphModule:
        if arithmetic == FLOAT32:
            return net
        captured = Captured.of(net, self.net.input_shape)
        names = [layer.name for layer in captured.layers if reason_against(captured, layer) is None]
        if arithmetic == BFLOAT16:
            return in_bfloat16(captured, names)
        images = torch.from_numpy(random_values(self.net.input_shape, self.settings.seed))
        return quantise(captured, names, [images], rough=True)

    def rows(self) -> list[FormRow]:
        """Return a row for each form, batch size and number of threads."""
        rows = []
        for batch, threads in self.pairs:
            timed = time_files(self.forms, (batch, *self.net.input_shape[1:]), threads, self.settings)
            self._step()
            cases = {case.name: case for case in self.cases}
            for name in self.forms:
                row = self._row(name, batch, threads, timed.figures[name])
                rows.append(self._lookup_row(row, cases[name], timed) if name in cases else row)
        return rows

    def _row(self, name: str, batch: int, threads: int, figures: FormFigures) -> FormRow:
        form, codings = self.forms[name], self.codings.get(name)
        macs = self.dense_macs if codings is None else sum(coding.macs for coding in codings)
        return FormRow(
            net=self.net.name, form=name if codings is None else "lookup", setting=None if codings is None else name,
            engine=form.engine, batch=batch, threads=threads, macs_dense=self.dense_macs, macs=macs,
            macs_ratio=self.dense_macs / macs, **vars(figures), file_bytes=file_bytes(form.path),
        )  # fmt: skip

    def _lookup_row(self, row: FormRow, case: Setting, timed: Timed) -> LookupRow:
        codings, wide = self.codings[case.name], self.net.wide_macs
        return LookupRow(
            **vars(row), macs_stage1=sum(c.macs_stage1 for c in codings), macs_stage2=sum(c.macs_stage2 for c in codings),
            density=density_of(codings), macs_ratio_wide=None if wide is None else wide / row.macs,
            published_ratio=case.published_ratio, realised_fraction=row.speedup_p50 / row.macs_ratio,
            best_other=timed.best_other(case.name, (DENSE, *self.rivals.files)),
        )  # fmt: skip

    def layer_rows(self) -> list[SuiteLayer]:
        """Return a row for each layer of each setting."""
        rows = []
        for name, codings in self.codings.items():
            times = self._layer_times(name) if self.settings.per_layer else {}
            rows += [self._layer_row(name, coding, times.get(coding.layer.name, (None, None))) for coding in codings]
        return rows

    def _layer_row(self, setting: str, coding: Coding, ms: tuple[float | None, float | None]) -> SuiteLayer:
        return SuiteLayer(
            net=self.net.name, setting=setting, name=coding.layer.name, reason=coding.reason,
            kind="lookup" if coding.size else "dense", dictionary_size=coding.size, n_nonzeros=coding.nonzeros,
            macs_dense=coding.layer.dense_macs, macs=coding.macs, macs_stage1=coding.macs_stage1,
            macs_stage2=coding.macs_stage2, dense_ms=ms[0], lookup_ms=ms[1],
        )  # fmt: skip

    def _layer_times(self, name: str) -> dict[str, tuple[float, float]]:
        times = layer_pairs(self.forms[DENSE].path, self.forms[name].path, self.settings)
        self._step()
        return times

    def notes(self) -> list[str]:
        """Return what a reader of the rows must know: rivals, choices of ours, densities solved for, layers that stay dense."""
        names: dict[str, list[str]] = {}
        for case in self.cases:
            for remark in _remarks(case, self.codings[case.name]):
                names.setdefault(remark, []).append(case.name)
        on_rivals = [
            f"{self.net.name} {rival.name}: {rival.problem or f'outputs off by {rival.output_error:.3f} of their spread'}"
            for rival in self.rivals.rows
        ]
        return on_rivals + [f"{self.net.name} {', '.join(cases)}: {remark}" for remark, cases in names.items()]


def _remarks(case: Setting, codings: Sequence[Coding]) -> list[str]:
    remarks = [case.note] if case.note else []
    if case.macs_ratio is not None:
        remarks.append(f"dictionaries {case.dictionary} at the density solved for, {density_of(codings):.4f}")
    for reason in dict.fromkeys(coding.reason for coding in codings if coding.reason):
        remarks.append(f"{', '.join(c.layer.name for c in codings if c.reason == reason)}: dense, {reason}")
    return remarks

"""Measure a net layer by layer against its dense form and keep what is faster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
from torch import fx

from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.artefact.report import Report
from lcnn_compress.benchmark.gain import Gain, TimingPlan
from lcnn_compress.benchmark.timers import Timers
from lcnn_compress.compression.make_report import timed
from lcnn_compress.compression.settings import CompressSettings, LayerPlan
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.template import with_factors
from lcnn_compress.export.to_onnx import for_timing
from lcnn_compress.files import temporary_folder, write_atomically
from lcnn_compress.forms.kinds import DENSE
from lcnn_compress.net.edit import finished
from lcnn_compress.net.layers import NARROW_TYPES, calls
from lcnn_compress.progress import Progress, silent

# A lookup layer counts as faster only below this fraction of the dense time: two medians of one layer differ by a few per cent.
MIN_GAIN = 0.95


def measured_report(
    artefact: Artefact,
    settings: CompressSettings,
    template: onnx.ModelProto | None,
    progress: Progress = silent,
    timers: Timers = Timers(),
) -> Report:
    """Measure a finished net against its dense form; return its report with the times."""
    timing = Timing(artefact.input_shape, settings, template, timers)
    timing.export(artefact.net, progress)
    return timed(artefact.report, timing.times)


class Timing:
    """Measures a net layer by layer against its dense form, both in ONNX Runtime."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        settings: CompressSettings,
        template: onnx.ModelProto | None,
        timers: Timers = Timers(),
    ) -> None:
        self.input_shape, self.settings, self.template, self.timers = input_shape, settings, template, timers
        self.model: onnx.ModelProto
        self.is_narrow: bool
        self.times: Gain

    def export(self, net: fx.GraphModule, progress: Progress) -> None:
        """Export ``net`` and measure it."""
        progress("exporting", 0, 1)
        storage = self.settings.storage
        # Factors are measured as the file stores them: normalisation can magnify rounding.
        done = finished(net, storage)
        self.is_narrow = any(calls(net, NARROW_TYPES))
        if self.template is None or self.is_narrow:
            self.model = for_timing(done, self.input_shape, storage)
        else:  # the template spares the exporter, which takes minutes for some nets
            self.model = with_factors(self.template, done, storage)
        progress("exporting", 1, 1)
        self.measure(progress)

    def measure(self, progress: Progress) -> None:
        self.times = self._measured(dense_form(self.model), progress)

    def _measured(self, dense: onnx.ModelProto, progress: Progress = silent) -> Gain:
        with self._written(dense, self.model) as paths:
            return self.timers.measure_gain(*paths, plan=TimingPlan(threads=self.settings.threads), progress=progress)

    @contextmanager
    def _written(self, first: onnx.ModelProto, second: onnx.ModelProto) -> Iterator[tuple[Path, Path]]:
        with temporary_folder() as folder:
            paths = folder / "first.onnx", folder / "second.onnx"
            for path, model in zip(paths, (first, second), strict=True):
                write_atomically(path, model.SerializeToString())
            yield paths

    def revert_slow_layers(self, plans: Sequence[LayerPlan], keep_slow: bool, progress: Progress) -> list[LayerPlan]:
        """Turn lookup layers back to dense where that makes the net faster.

        Candidates are those not measured faster than dense, by more than the noise. They go all at once or, if the net is
        slower then (a dense layer between lookups costs two changes of layout), one by one, the slowest first. Layers in 8 bits
        or bfloat16 are held against dense ones in the same.
        """
        coded = [plan.name for plan in plans if plan.form.is_coded and not keep_slow]
        beside = self._measured(dense_form(self.model, set(coded))) if self.is_narrow and coded else self.times
        timed = {name: beside.layers.get(name, (0.0, 0.0)) for name in coded}
        slow = {n: lookup / max(dense, 1e-9) for n, (dense, lookup) in timed.items() if lookup >= MIN_GAIN * dense}
        full, dropped = self.model, set[str]()
        trials = (set(slow), *({name} for name in sorted(slow, key=lambda name: -slow[name])))
        for done, names in enumerate(trials if slow else ()):
            progress("choosing layers", done, len(trials))
            if names <= dropped:
                continue
            trial = dense_form(full, dropped | names)
            with self._written(self.model, trial) as paths:
                faster = self.timers.time_ratio(*paths, threads=self.settings.threads) > 1
            if faster:
                self.model, dropped = trial, dropped | names
        if dropped:
            self.measure(progress)
        return [
            self._with_times(plan, plan.name in dropped, *timed[plan.name]) if plan.name in slow else plan for plan in plans
        ]

    @staticmethod
    def _with_times(plan: LayerPlan, dropped: bool, dense_ms: float, lookup_ms: float) -> LayerPlan:
        measured = f"measured: lookup {lookup_ms:.3f} ms, dense {dense_ms:.3f} ms"
        if dropped:
            return LayerPlan(plan.name, DENSE.name, measured, note=plan.note, arithmetic=plan.arithmetic)
        return replace(plan, note="; ".join(filter(None, [plan.note, f"{measured}, but the net is faster with it"])))

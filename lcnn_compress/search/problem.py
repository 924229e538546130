"""What a net can become within a budget: every layer's options with their measured times and effects, and the best choice.

The net's time is the sum of its layers' times and of everything else, which does not change; its error is the sum of the
layers' effects. Both are predictions, which ``meet_target`` holds against the built net.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from lcnn_compress.benchmark.profile import NetTimes
from lcnn_compress.benchmark.timers import Timers
from lcnn_compress.compression.make import make_lookups
from lcnn_compress.compression.pipeline import Reusable
from lcnn_compress.compression.plan import reasons_against
from lcnn_compress.compression.settings import CompressSettings, LayerPlan
from lcnn_compress.errors import SettingsError
from lcnn_compress.export.template import with_factors
from lcnn_compress.export.to_onnx import only_timed, to_onnx
from lcnn_compress.files import temporary_folder, write_atomically
from lcnn_compress.forms.kinds import LOOKUP
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import finished, fold_batch_norms, with_lookups
from lcnn_compress.net.layers import Captured, Layer
from lcnn_compress.parallel import in_parallel
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.budget_report import PlannedLayer
from lcnn_compress.search.candidates import Candidate, candidates, dense_candidate, timed
from lcnn_compress.search.effects import estimate
from lcnn_compress.search.knapsack import choose_options


@dataclass(frozen=True)
class Choice:
    """One allocation: the option of every layer, and what that should give; ``error`` is relative to the outputs' spread."""

    picked: tuple[Candidate, ...]
    ms: float | None
    weight_bytes: int
    error: float

    @property
    def plans(self) -> list[LayerPlan]:
        """The decision for every layer."""
        return [candidate.plan for candidate in self.picked]

    @property
    def macs(self) -> int:
        """MACs of one image."""
        return sum(candidate.macs for candidate in self.picked)


@dataclass(frozen=True)
class Corrections:
    """What measured nets have told about the times that were foreseen; every correction is a new value.

    Attributes:
        time_correction: by layer, the time of its lookups in a built net over the time foreseen; 1 where it is missing.
        dense_ms_in_net: by layer, the ms of a layer that stayed dense between lookups, where a built net had one.
        other_ms: ms of one image that no option changes.
        quiet_over_busy: ms of the dense net on a quiet machine over its ms on one as busy as this machine is.
    """

    time_correction: Mapping[str, float] = field(default_factory=dict)
    dense_ms_in_net: Mapping[str, float] = field(default_factory=dict)
    other_ms: float = 0.0
    quiet_over_busy: float = 1.0


@dataclass(frozen=True)
class Problem:
    """A net and the options of each of its layers; the first option of a layer is to stay dense.

    Times are in ms of one image on a machine that does nothing else, the least of several medians.

    Attributes:
        captured: the net and its layers.
        settings: which layers may change, threads, stored type, training.
        options: candidates of each layer.
        effects: squared error that each option adds to the outputs, relative to their variance.
        measured_effects: whether effects are of outputs; else they are the errors of the filters.
        dense_ms: time of the whole dense net; None where nothing was timed.
        corrections: what measured nets have told about times; ``meet_target`` returns problems with others.
        recovery_exponent: when choices are compared, an effect is divided by (fraction of parameters kept) to this power: 0
            without training; above 0 because options with more parameters recover more.
        reusable: what was built and exported. Problems made from one another share its lookup convolutions by plan: they are a
            memo, since a plan always gives the same one.
        timers: what built nets are measured with.
    """

    captured: Captured
    settings: CompressSettings
    options: Sequence[Sequence[Candidate]]
    effects: Sequence[Sequence[float]]
    measured_effects: bool
    dense_ms: float | None = None
    corrections: Corrections = field(default_factory=Corrections)
    recovery_exponent: float = 0.0
    reusable: Reusable = field(default_factory=Reusable)
    timers: Timers = field(default_factory=Timers)

    def ms(self, candidate: Candidate) -> float:
        """Return the expected time of an option."""
        name = candidate.plan.name
        if not candidate.plan.form.is_coded:
            return self.corrections.dense_ms_in_net.get(name, candidate.ms)
        return candidate.ms * self.corrections.time_correction.get(name, 1.0)

    def within_ms(self, budget: float) -> Choice | None:
        """Return the choice of least error that takes at most ``budget``; None where there is none."""
        return self._best(self.ms, budget - self.corrections.other_ms)

    def within_bytes(self, budget: float) -> Choice | None:
        """Return the choice of least error whose layers take at most ``budget`` in a file; None where there is none."""
        return self._best(lambda candidate: float(candidate.weight_bytes), budget)

    def within_macs(self, budget: float) -> Choice | None:
        """Return the choice of least error with at most ``budget`` MACs; None where there is none."""
        return self._best(lambda candidate: float(candidate.macs), budget)

    def fastest(self) -> Choice:
        """Return the choice of least time."""
        return self._chosen([int(np.argmin([self.ms(c) for c in listed])) for listed in self.options])

    def stay_dense(self) -> Choice:
        """Return the choice that changes nothing."""
        return self._chosen([0] * len(self.options))

    def smallest(self) -> Choice:
        """Return the choice of least bytes."""
        return self._chosen([int(np.argmin([c.weight_bytes for c in listed])) for listed in self.options])

    def _best(self, cost: Callable[[Candidate], float], budget: float) -> Choice | None:
        answer = choose_options([[cost(c) for c in listed] for listed in self.options], self._weighed(), budget)
        return None if answer is None else self._chosen(answer)

    def _weighed(self) -> list[list[float]]:
        rows = zip(self.captured.layers, self.options, self.effects, strict=True)
        return [
            [
                effect * _kept(candidate, layer) ** -self.recovery_exponent
                for candidate, effect in zip(listed, effects, strict=True)
            ]
            for layer, listed, effects in rows
        ]

    def _chosen(self, answer: Sequence[int]) -> Choice:
        picked = tuple(listed[i] for listed, i in zip(self.options, answer, strict=True))
        error = sum(effects[i] for effects, i in zip(self.effects, answer, strict=True))
        ms = None if self.dense_ms is None else self.corrections.other_ms + sum(map(self.ms, picked))
        return Choice(picked, ms, sum(c.weight_bytes for c in picked), error**0.5)

    def model(self, choice: Choice, progress: Progress = silent) -> onnx.ModelProto:
        """Return the net of a choice as ONNX; only layers that were never built before are factorised."""
        storage = self.settings.storage
        lookups = make_lookups(self.captured.layers, choice.plans, self.settings, self.reusable.built, progress)
        assert self.reusable.template is not None
        return with_factors(self.reusable.template, finished(with_lookups(self.captured, lookups), storage), storage)

    def table(self, choice: Choice) -> tuple[PlannedLayer, ...]:
        """Return one row for each layer: what it becomes and what that is expected to cost."""
        parts = zip(self.captured.layers, choice.picked, self.effects, self.options, strict=True)
        return tuple(self._row(*part) for part in parts)

    def _row(self, layer: Layer, candidate: Candidate, effects: Sequence[float], listed: Sequence[Candidate]) -> PlannedLayer:
        plan, is_timed = candidate.plan, self.dense_ms is not None
        slots = layer.out_channels * layer.geometry.taps * max(1, plan.dictionary_size)
        return PlannedLayer(
            name=plan.name, kind=plan.kind, reason=plan.reason, in_channels=layer.in_channels,
            out_channels=layer.out_channels, kernel=layer.geometry.kernel, dictionary_size=plan.dictionary_size,
            density=candidate.nonzeros / slots, macs=candidate.macs, macs_dense=layer.dense_macs,
            predicted_ms=self.ms(candidate) if is_timed else None, dense_ms=listed[0].ms if is_timed else None,
            error=effects[listed.index(candidate)] ** 0.5,
        )  # fmt: skip


def prepare(
    captured: Captured,
    settings: CompressSettings,
    calibration: Sequence[Tensor] = (),
    *,
    with_times: bool = True,
    cache: Path | None = None,
    progress: Progress = silent,
    timers: Timers = Timers(),
) -> Problem:
    """Find out what each layer of a net can become and what that costs.

    Args:
        captured: the net and its layers; an image of its input shape is timed.
        settings: which layers, threads, stored type.
        calibration: inputs the effects are measured on; without any, the error of the filters stands for them.
        with_times: False leaves times out.
        cache: folder of layer times; None is the user's.
        progress: called as work goes on.
        timers: what nets and layers are measured with, here and later.

    Raises:
        SettingsError: no layer can be compressed.
        MissingError: times are wanted and the native library is not there.
    """
    found = captured.layers
    reasons = reasons_against(found, settings.plan)
    template = _template(captured, reasons, settings.storage, progress)
    measured: NetTimes | None = None
    times: dict[str, float] = {}
    if with_times:
        measured = _dense_times(captured, template, settings.threads, timers, progress)
        times = {layer.name: measured.layers[layer.name] for layer in found if layer.name in measured.layers}
        reasons = [
            reason or (None if layer.name in times else "its time was not found in the profile")
            for layer, reason in zip(found, reasons, strict=True)
        ]
    free = [layer for layer, reason in zip(found, reasons, strict=True) if reason is None]
    if not free:
        listed = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
        raise SettingsError(f"no layer can be compressed: {listed}; name layers with `only`")
    options = in_parallel(lambda layer: candidates(layer, settings.storage, settings.seed), free, "listing options", progress)
    if with_times:
        options = timed(
            free, options, times, threads=settings.threads, cache=cache, progress=progress, time_forms=timers.time_forms
        )
        # A form that takes longer than dense is never worth an error.
        options = [[c for c in o if c.ms < times[layer.name]] for layer, o in zip(free, options, strict=True)]
    if calibration:
        effects = estimate(captured.net, free, options, calibration, progress)
    else:
        effects = [[candidate.weight_error for candidate in listed] for listed in options]
    by_name = {layer.name: (o, e) for layer, o, e in zip(free, options, effects, strict=True)}
    more = [by_name.get(layer.name, ([], [])) for layer in found]
    dense = [
        dense_candidate(layer, reason or "chosen: dense is worth its time here", times.get(layer.name, 0.0))
        for layer, reason in zip(found, reasons, strict=True)
    ]
    all_options = [[first, *listed] for first, (listed, _) in zip(dense, more, strict=True)]
    all_effects = [[0.0, *harm] for _, harm in more]
    reusable = Reusable(template=template)
    problem = Problem(captured, settings, all_options, all_effects, bool(calibration), reusable=reusable, timers=timers)
    return problem if measured is None else _with_times(problem, measured, times)


def _with_times(problem: Problem, measured: NetTimes, times: Mapping[str, float]) -> Problem:
    """Return a problem with the times of its dense net, of which ``times`` are those of layers."""
    dense_ms = sum(measured.layers.values())
    known = Corrections(other_ms=dense_ms - sum(times.values()), quiet_over_busy=dense_ms / measured.whole_ms)
    return replace(problem, dense_ms=dense_ms, corrections=known)


def _template(captured: Captured, reasons: Sequence[str | None], storage: str, progress: Progress) -> onnx.ModelProto:
    """Return the net as ONNX with a trivial lookup convolution in the place of every layer that may become one."""
    progress("exporting", 0, 1)
    stand_ins: dict[str, LookupConv2d] = {}
    for layer, reason in zip(captured.layers, reasons, strict=True):
        if reason is None:
            groups = layer.geometry.groups
            dictionary = torch.zeros(groups, layer.in_channels // groups)
            kernel = torch.zeros(layer.out_channels, 1, *layer.geometry.kernel)
            # This is the only entry of its support.
            kernel.view(-1)[0] = 1.0
            stand_ins[layer.name] = LookupConv2d(dictionary, kernel, layer.module.bias, layer.geometry, kind=LOOKUP)
    net = with_lookups(captured, stand_ins)
    fold_batch_norms(net)
    for number, name in enumerate(stand_ins, 1):
        # The exporter gives equal lists one name, and layers are told by it; a batch norm may have scaled them by 0.
        folded = net.get_submodule(name)
        assert isinstance(folded, LookupConv2d)
        with torch.no_grad():
            folded.sparse_kernel.view(-1)[0] = number
    model = to_onnx(net, captured.input_shape, only_timed(storage), {})
    progress("exporting", 1, 1)
    return model


def _dense_times(captured: Captured, template: onnx.ModelProto, threads: int, timers: Timers, progress: Progress) -> NetTimes:
    """Time the dense net and its layers."""
    progress("measuring", 0, 1)
    model = with_factors(template, finished(captured.net, "float32"), "float32")
    with temporary_folder() as folder:
        path = folder / "dense.onnx"
        write_atomically(path, model.SerializeToString())
        measured = timers.net_times(path, threads=threads)
    progress("measuring", 1, 1)
    return measured


def _kept(candidate: Candidate, layer: Layer) -> float:
    """Return the parameters of an option as a fraction of the layer's weights, at most 1."""
    form = candidate.plan.form
    if not form.is_coded:
        return 1.0
    rows = form.projected_rows(candidate.plan.dictionary_size)
    return min(1.0, (candidate.nonzeros + rows * layer.in_channels) / layer.weight().numel())

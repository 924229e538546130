"""What a net can become within a budget: every layer's options with their measured times and effects, and the best choice.

The net's time is the sum of its layers' times and of everything else, which does not change; its error is the sum of the
layers' effects. Both are predictions, which ``meet_target`` holds against the built net. A net with layers in 8 bits or
bfloat16 keeps such numbers between them, so that a layer in another arithmetic among them costs the steps there and back, too.
A choice is made for each arithmetic that the layers around may have, and the best of these counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import torch
from torch import Tensor

from lcnn_compress.benchmark.profile import NetTimes
from lcnn_compress.benchmark.timers import Timers
from lcnn_compress.compression.make import make_lookups
from lcnn_compress.compression.pipeline import Reusable, in_arithmetic
from lcnn_compress.compression.plan import reasons_against
from lcnn_compress.compression.settings import CompressSettings, LayerPlan
from lcnn_compress.errors import SettingsError
from lcnn_compress.export.template import with_factors
from lcnn_compress.export.to_onnx import for_timing
from lcnn_compress.files import temporary_folder, write_atomically
from lcnn_compress.forms.arithmetic import AUTO, BFLOAT16, FLOAT32, INT8
from lcnn_compress.forms.kinds import LOOKUP
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import finished, fold_batch_norms, with_lookups
from lcnn_compress.net.layers import Captured, Layer
from lcnn_compress.net.output_error import some_images
from lcnn_compress.parallel import in_parallel
from lcnn_compress.progress import Progress, silent
from lcnn_compress.quantisation.points import reads_float
from lcnn_compress.quantisation.quantise import reason_against
from lcnn_compress.search.budget_report import PlannedLayer
from lcnn_compress.search.candidates import Candidate, candidates, dense_candidate, edge_times, narrow_candidates, timed
from lcnn_compress.search.effects import effects_of_options
from lcnn_compress.search.knapsack import choose_options

CHOSEN_DENSE = "chosen: dense is worth its time here"
# The ranges of nets in 8 bits that are only timed are those of so many images.
TIMED_IMAGES = 2
# A step between bytes and bfloat16 takes about this part of one from or to float32: it moves half as much, and in order.
CAST_PART = 0.25


@dataclass(frozen=True)
class Choice:
    """One allocation: the option of every layer, and what that should give; ``error`` is relative to the outputs' spread.

    Where ``ms`` counts steps between layers, those around compute in ``arithmetic``.
    """

    picked: tuple[Candidate, ...]
    ms: float | None
    weight_bytes: int
    error: float
    arithmetic: str = FLOAT32

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
        time_correction: by layer and arithmetic, the time of its lookups, or of the layer in 8 bits or bfloat16, in a built net
            over the time foreseen; 1 where it is missing.
        dense_ms_in_net: by layer, the ms of a layer that stayed dense in float32, where a built net had one.
        other_ms: by the arithmetic of nets, ms of one image that no option changes; 0 where it is missing.
        quiet_over_busy: ms of the dense net on a quiet machine over its ms on one as busy as this machine is.
    """

    time_correction: Mapping[tuple[str, str], float] = field(default_factory=dict)
    dense_ms_in_net: Mapping[str, float] = field(default_factory=dict)
    other_ms: Mapping[str, float] = field(default_factory=dict)
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
        edge_ms: by the arithmetic of a net and by layer, the time to leave that for float32 and to come back.
        calibration: a few inputs for nets in 8 bits that are only timed.
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
    edge_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibration: Sequence[Tensor] = ()
    corrections: Corrections = field(default_factory=Corrections)
    recovery_exponent: float = 0.0
    reusable: Reusable = field(default_factory=Reusable)
    timers: Timers = field(default_factory=Timers)

    def ms(self, candidate: Candidate, arithmetic: str = FLOAT32) -> float:
        """Return the expected time of an option in a net of some arithmetic."""
        plan = candidate.plan
        edge = 0.0 if plan.arithmetic == arithmetic else self.edge_ms.get(arithmetic, {}).get(plan.name, 0.0)
        edge *= CAST_PART if candidate.is_narrow else 1.0
        if not plan.form.is_coded and not candidate.is_narrow:
            return edge + self.corrections.dense_ms_in_net.get(plan.name, candidate.ms)
        return edge + candidate.ms * self.corrections.time_correction.get((plan.name, plan.arithmetic), 1.0)

    def other_ms(self, arithmetic: str) -> float:
        """Return the ms that no option changes, in a net of some arithmetic."""
        return self.corrections.other_ms.get(arithmetic, 0.0)

    def within_ms(self, budget: float) -> Choice | None:
        """Return the choice of least error that takes at most ``budget``; None where there is none."""
        return self._best(self.ms, lambda arithmetic: budget - self.other_ms(arithmetic))

    def within_bytes(self, budget: float) -> Choice | None:
        """Return the choice of least error whose layers take at most ``budget`` in a file; None where there is none."""
        return self._best(lambda candidate, _: float(candidate.weight_bytes), lambda _: budget)

    def within_macs(self, budget: float) -> Choice | None:
        """Return the choice of least error with at most ``budget`` MACs; None where there is none."""
        return self._best(lambda candidate, _: float(candidate.macs), lambda _: budget)

    def fastest(self) -> Choice:
        """Return the choice of least time."""
        found = [
            self._chosen([min(allowed, key=lambda i: self.ms(listed[i], way)) for listed, allowed in rows], way)
            for way, rows in self._ways()
        ]
        return min(found, key=lambda choice: choice.ms or 0.0)

    def stay_dense(self) -> Choice:
        """Return the choice that changes nothing."""
        return self._chosen([0] * len(self.options))

    def smallest(self) -> Choice:
        """Return the choice of least bytes."""
        found = [
            self._chosen([min(allowed, key=lambda i: listed[i].weight_bytes) for listed, allowed in rows], way)
            for way, rows in self._ways()
        ]
        return min(found, key=lambda choice: (choice.weight_bytes, choice.ms or 0.0))

    def _ways(self) -> list[tuple[str, list[tuple[Sequence[Candidate], list[int]]]]]:
        """Return the ways to choose: what the layers around compute in, and of each layer's options those allowed."""
        asked = self.settings.arithmetic
        ways = dict.fromkeys([FLOAT32, *(c.arithmetic for listed in self.options for c in listed)])

        def allowed(listed: Sequence[Candidate], way: str) -> list[int]:
            narrow = [i for i, c in enumerate(listed) if c.is_narrow and way != FLOAT32]
            return narrow if narrow and asked == way else [i for i, c in enumerate(listed) if not c.is_narrow] + narrow

        return [
            (way, [(listed, allowed(listed, way)) for listed in self.options])
            for way in ways
            if asked not in ways or way == asked
        ]

    def _best(self, cost: Callable[[Candidate, str], float], budget: Callable[[str], float]) -> Choice | None:
        weighed = self._weighed()
        found: list[tuple[float, Choice]] = []
        for way, rows in self._ways():
            costs = [[cost(listed[i], way) for i in allowed] for listed, allowed in rows]
            errors = [[harm[i] for i in allowed] for harm, (_, allowed) in zip(weighed, rows, strict=True)]
            answer = choose_options(costs, errors, budget(way))
            if answer is not None:
                picked = [allowed[place] for place, (_, allowed) in zip(answer, rows, strict=True)]
                found.append((sum(harm[i] for harm, i in zip(weighed, picked, strict=True)), self._chosen(picked, way)))
        return min(found, key=lambda pair: (pair[0], pair[1].ms or 0.0))[1] if found else None

    def _weighed(self) -> list[list[float]]:
        rows = zip(self.captured.layers, self.options, self.effects, strict=True)
        return [
            [
                effect * _kept(candidate, layer) ** -self.recovery_exponent
                for candidate, effect in zip(listed, effects, strict=True)
            ]
            for layer, listed, effects in rows
        ]

    def _chosen(self, answer: Sequence[int], way: str = FLOAT32) -> Choice:
        picked = tuple(listed[i] for listed, i in zip(self.options, answer, strict=True))
        error = sum(effects[i] for effects, i in zip(self.effects, answer, strict=True))
        choice = Choice(picked, None, sum(c.weight_bytes for c in picked), error**0.5, way)
        if self.dense_ms is None:
            return choice
        return replace(choice, ms=self.other_ms(way) + sum(self.ms(c, way) for c in picked))

    def model(self, choice: Choice, progress: Progress = silent) -> onnx.ModelProto:
        """Return the net of a choice as ONNX; only layers that were never built before are factorised.

        One with layers in 8 bits is right for timing only: its ranges are those of the few inputs in ``calibration``.
        """
        storage = self.settings.storage
        lookups = make_lookups(self.captured.layers, choice.plans, self.settings, self.reusable.built, progress)
        net = finished(with_lookups(self.captured, lookups), storage)
        if choice.arithmetic != FLOAT32:
            shape = self.captured.input_shape
            return for_timing(in_arithmetic(net, shape, choice.plans, self.calibration, rough=True), shape, storage)
        assert self.reusable.template is not None
        return with_factors(self.reusable.template, net, storage)

    def table(self, choice: Choice) -> tuple[PlannedLayer, ...]:
        """Return one row for each layer: what it becomes and what that is expected to cost."""
        parts = zip(self.captured.layers, choice.picked, self.effects, self.options, strict=True)
        rows = [self._row(*part) for part in parts]
        if self.dense_ms is None:
            return tuple(rows)
        times = [self.ms(candidate, choice.arithmetic) for candidate in choice.picked]
        return tuple(replace(row, predicted_ms=ms) for row, ms in zip(rows, times, strict=True))

    def _row(self, layer: Layer, candidate: Candidate, effects: Sequence[float], listed: Sequence[Candidate]) -> PlannedLayer:
        plan = candidate.plan
        slots = layer.out_channels * layer.geometry.taps * max(1, plan.dictionary_size)
        return PlannedLayer(
            name=plan.name, kind=plan.kind, reason=plan.reason, in_channels=layer.in_channels,
            out_channels=layer.out_channels, kernel=layer.geometry.kernel, dictionary_size=plan.dictionary_size,
            density=candidate.nonzeros / slots, macs=candidate.macs, macs_dense=layer.dense_macs,
            predicted_ms=None, dense_ms=None if self.dense_ms is None else listed[0].ms,
            error=effects[listed.index(candidate)] ** 0.5, arithmetic=None if plan.arithmetic == FLOAT32 else plan.arithmetic,
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
    in_float = {layer.name: listed for layer, listed in zip(free, options, strict=True)}
    said = {layer.name: reason or CHOSEN_DENSE for layer, reason in zip(found, reasons, strict=True)}
    ways, can = _narrow_ways(settings, calibration), {layer.name for layer in found if reason_against(captured, layer) is None}
    in_narrow = {
        layer.name: [c for way in ways for c in narrow_candidates(layer, in_float.get(layer.name, []), said[layer.name], way)]
        for layer in found
        if layer.name in can and (not with_times or layer.name in times)
    }
    known = {name: [*in_float.get(name, []), *in_narrow.get(name, [])] for name in said}
    edges: dict[str, dict[str, float]] = {}
    if with_times:
        changing = [layer for layer in found if known[layer.name]]
        given = [known[layer.name] for layer in changing]
        done = timed(
            changing, given, times, threads=settings.threads, cache=cache, progress=progress, time_forms=timers.time_forms
        )
        known |= {layer.name: listed for layer, listed in zip(changing, done, strict=True)}
        behind_float = reads_float(finished(captured.net, "float32"), in_narrow)
        edges = {way: edge_times(changing, known, way, behind_float) for way in ways}
        for name in behind_float:
            known[name] = [replace(c, ms=c.ms + c.rounding_ms) for c in known[name]]
        # A form that takes longer than dense is never worth an error; among narrow layers float32 takes longer.
        known = {
            name: [c for c in listed if c.ms < times[name] + (edges[c.arithmetic][name] if c.is_narrow else 0.0)]
            for name, listed in known.items()
        }
    effects = effects_of_options(captured, free, in_float, known, calibration, progress)
    dense = [dense_candidate(layer, said[layer.name], times.get(layer.name, 0.0)) for layer in found]
    all_options = [[first, *known[layer.name]] for first, layer in zip(dense, found, strict=True)]
    all_effects = [[0.0, *effects[layer.name]] for layer in found]
    problem = Problem(
        captured, settings, all_options, all_effects, bool(calibration), edge_ms=edges,
        calibration=some_images(calibration, TIMED_IMAGES), reusable=Reusable(template=template), timers=timers,
    )  # fmt: skip
    return problem if measured is None else _with_times(problem, measured, times)


def _narrow_ways(settings: CompressSettings, calibration: Sequence[Tensor]) -> list[str]:
    """Return what layers may compute in beside float32.

    Raises:
        SettingsError: layers shall compute in 8 bits, and there is no calibration data.
    """
    asked = settings.arithmetic
    if asked == INT8 and not calibration:
        raise SettingsError(f"`arithmetic` {INT8} needs the ranges of activations, and there is no data; add `calib` or `data`")
    return [way for way in (BFLOAT16, INT8) if asked == way or (asked == AUTO and (calibration or way != INT8))]


def _with_times(problem: Problem, measured: NetTimes, times: Mapping[str, float]) -> Problem:
    """Return a problem with the times of its dense net, of which ``times`` are those of layers."""
    dense_ms = sum(measured.layers.values())
    other_ms = dense_ms - sum(times.values())
    ways = [FLOAT32, *problem.edge_ms]
    known = Corrections(other_ms=dict.fromkeys(ways, other_ms), quiet_over_busy=dense_ms / measured.whole_ms)
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
    model = for_timing(net, captured.input_shape, storage)
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

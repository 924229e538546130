"""A dense net in, an artefact out: plan, dictionaries, measurement, calibration, fine-tuning, folding, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

import onnx
from torch import Tensor, fx

from lcnn_compress import runtime
from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.benchmark.timers import Timers
from lcnn_compress.compression.improve import improve, prunes, reestimate_where_no_worse, twice_the_lookups
from lcnn_compress.compression.keep_faster import Timing
from lcnn_compress.compression.make import make_lookups
from lcnn_compress.compression.make_report import layer_reports, make_report, timed
from lcnn_compress.compression.plan import check_plan, plan_layers
from lcnn_compress.compression.settings import CompressSettings, LayerPlan, TrainingData
from lcnn_compress.compression.train_in_bytes import Parts, train_in_bytes
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.arithmetic import AUTO, BFLOAT16, FLOAT32, INT8
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import finished, with_lookups
from lcnn_compress.net.layers import Captured, Layer
from lcnn_compress.progress import Progress, silent
from lcnn_compress.quantisation.in_bfloat16 import in_bfloat16
from lcnn_compress.quantisation.quantise import quantise, reason_against


@dataclass(frozen=True)
class Reusable:
    """What several compressions of one net with the same settings share.

    Attributes:
        built: lookup convolutions by plan; a compression adds its own. They are a memo: a plan always gives the same one.
        template: the net as ``with_factors`` wants it; nothing that is measured is exported anew then.
    """

    built: dict[LayerPlan, LookupConv2d] = field(default_factory=dict)
    template: onnx.ModelProto | None = None


def compress_net(
    captured: Captured,
    settings: CompressSettings,
    data: TrainingData = TrainingData(),
    plans: Sequence[LayerPlan] | None = None,
    progress: Progress = silent,
    reusable: Reusable | None = None,
    timers: Timers = Timers(),
) -> Artefact:
    """Compress a captured net, which is not changed itself.

    Args:
        captured: the net and its layers.
        settings: how to compress it.
        data: calibration and training data; none of it is required.
        plans: decisions of an earlier run (its ``config["layers"]``); nothing is planned or measured then.
        progress: called as work goes on.
        reusable: what earlier calls with this net and these settings made.
        timers: what lookup layers are measured with.

    Raises:
        ModelError: the net cannot be compressed or does not run on its input shape.
        SettingsError: an option does not fit the net.
    """
    if settings.finetune is not None and data.examples is None:
        raise SettingsError("`epochs` asks for fine-tuning, but there is no training data; add `data`")
    if settings.finetune is not None and data.task is not None and data.task != settings.finetune.task:
        raise SettingsError(f"`task` of the data is {Task(data.task).value}; let that of the recipe of training be the same")
    reusable = reusable or Reusable()
    found = captured.layers
    if plans is None:
        decided = with_arithmetic(captured, plan_layers(found, settings.plan), settings.arithmetic)
    else:
        decided = _check_plans(plans, captured)
    calibrated, narrow = data.calibrated(), any(plan.arithmetic != FLOAT32 for plan in decided)
    in_bytes = any(plan.arithmetic == INT8 for plan in decided)
    if in_bytes and not calibrated.calibration:
        raise SettingsError(f"`arithmetic` {INT8} needs the ranges of activations, and there is no data; add `calib` or `data`")
    lookups = make_lookups(found, decided, settings, reusable.built, progress)
    measures = settings.measure and runtime.library_path() is not None and (lookups or narrow)
    timing = Timing(captured.input_shape, settings, reusable.template, timers) if measures else None
    if timing is not None and plans is None:
        rough = finished(with_lookups(captured, lookups), settings.storage)
        timing.export(in_arithmetic(rough, captured.input_shape, decided, calibrated.calibration[:1], rough=True), progress)
        decided = timing.revert_slow_layers(decided, settings.plan.keep_slow, progress)
        lookups = {plan.name: lookups[plan.name] for plan in decided if plan.form.is_coded}
    if data.on_plan is not None:
        data.on_plan(decided)
    targets = {name: lookup.n_nonzeros for name, lookup in lookups.items()}
    parts = Parts.of(settings, data, in_bytes=in_bytes)
    if prunes(parts.first.finetune, data.examples):
        lookups = make_lookups(found, twice_the_lookups(decided), settings, reusable.built, progress)
    improved = with_lookups(captured, lookups)
    known = data if parts.last is None else calibrated
    training = improve(improved, captured, targets, parts.first, known, parts.first_of(progress))
    if training is not None and parts.last is not None:
        # Learning rates are not at their end, so that statistics lag behind weights; in 8 bits none follow.
        reestimate_where_no_worse(improved, captured.net, calibrated.calibration)
    rows = layer_reports(improved, found, decided, settings.storage)
    plain = finished(improved, settings.storage)
    net = in_arithmetic(plain, captured.input_shape, decided, calibrated.calibration, progress)
    if parts.last is not None:
        net, training = train_in_bytes(net, plain, captured.net, parts, data, training, progress)
    if timing is not None and (training is not None or plans is not None):
        # Training chose other lookups than those measured before, or nothing has been measured yet.
        timing.export(net, progress)
    config = {
        "init": settings.init, "seed": settings.seed, "coefficients": settings.storage,
        "layers": [plan.to_json() for plan in decided],
        "finetune": None if settings.finetune is None else settings.finetune.recorded(), "data": data.recorded_origin(),
    }  # fmt: skip
    report = make_report(rows, captured.input_shape, sum(map(len, data.calibration)), training, datetime.now(timezone.utc))
    if timing is not None and (lookups or narrow):
        report = timed(report, timing.times)
    return Artefact(net, captured.input_shape, config, report)


def with_arithmetic(captured: Captured, plans: Sequence[LayerPlan], arithmetic: str) -> list[LayerPlan]:
    """Return plans in which all layers that can compute in an arithmetic do so; notes say why others cannot."""
    if arithmetic in (FLOAT32, AUTO):
        return list(plans)

    def changed(plan: LayerPlan, layer: Layer) -> LayerPlan:
        reason = reason_against(captured, layer)
        if reason is None:
            return replace(plan, arithmetic=arithmetic)
        return replace(plan, note="; ".join(filter(None, [plan.note, f"in float32: {reason}"])))

    return [changed(plan, layer) for plan, layer in zip(plans, captured.layers, strict=True)]


def in_arithmetic(
    net: fx.GraphModule,
    input_shape: tuple[int, ...],
    plans: Sequence[LayerPlan],
    calibration: Sequence[Tensor],
    progress: Progress = silent,
    *,
    rough: bool = False,
) -> fx.GraphModule:
    """Return a finished net with its layers in the arithmetic of their plans; ``rough`` is enough for one that is timed."""
    halves, whole = ([plan.name for plan in plans if plan.arithmetic == arithmetic] for arithmetic in (BFLOAT16, INT8))
    if halves:
        net = in_bfloat16(Captured.of(net, input_shape), halves, whole)
    # Layers in 8 bits come last, because they are made for what all others give.
    return quantise(Captured.of(net, input_shape), whole, calibration, progress, rough=rough) if whole else net


def _check_plans(plans: Sequence[LayerPlan], captured: Captured) -> list[LayerPlan]:
    found = captured.layers
    names, expected = [plan.name for plan in plans], [layer.name for layer in found]
    if names != expected:
        odd = sorted(set(names) ^ set(expected))[:4]
        raise SettingsError(
            f"the configuration is of another net: it lists {len(names)} layers, the model has {len(expected)} "
            f"(they differ in {', '.join(odd) or 'order'})"
        )
    for plan, layer in zip(plans, found, strict=True):
        check_plan(plan, layer)
        reason = reason_against(captured, layer) if plan.arithmetic != FLOAT32 else None
        if reason is not None:
            raise SettingsError(
                f"{plan.name}: arithmetic is '{plan.arithmetic}' in the configuration; it must be {FLOAT32} ({reason})"
            )
    return list(plans)

"""A dense net in, an artefact out: plan, dictionaries, measurement, calibration, fine-tuning, folding, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import onnx
import torch
from torch import fx

from lcnn_compress import runtime
from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.compress.improve import improve, prunes, twice_the_lookups
from lcnn_compress.compress.keep_faster import Timing
from lcnn_compress.compress.make import make_lookups
from lcnn_compress.compress.plan import check_plan, plan_layers
from lcnn_compress.compress.report import layer_rows, make_report
from lcnn_compress.compress.settings import CompressSettings, LayerPlan, TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import round_factors
from lcnn_compress.net.edit import build_net, fold_batch_norms
from lcnn_compress.net.layers import Layer, layers
from lcnn_compress.progress import Progress, silent


def compress_net(
    dense: fx.GraphModule,
    input_shape: tuple[int, ...],
    settings: CompressSettings,
    data: TrainingData = TrainingData(),
    plans: Sequence[LayerPlan] | None = None,
    progress: Progress = silent,
    built: dict[LayerPlan, LookupConv2d] | None = None,
    template: onnx.ModelProto | None = None,
) -> Artefact:
    """Compress a captured net; ``dense`` itself is not changed.

    Args:
        dense: the net, batch norms not folded.
        input_shape: (1, C, H, W); layers are planned and measured at this size.
        settings: how.
        data: calibration and training data; none of it is required.
        plans: decisions of an earlier run (its ``config["layers"]``); nothing is planned or measured then.
        progress: called as work goes on.
        built: lookup convolutions that earlier calls with this net and these settings made; this call adds its own.
        template: the net as ``export.with_factors`` wants it; what is measured is not exported anew then.

    Raises:
        ModelError: the net cannot be compressed or does not run on ``input_shape``.
        SettingsError: an option does not fit the net.
    """
    if settings.finetune is not None and data.examples is None:
        raise SettingsError("`epochs` asks for fine-tuning, but there is no training data; add `data`")
    built = {} if built is None else built
    found = layers(dense, torch.zeros(input_shape))
    decided = plan_layers(found, settings.plan) if plans is None else _check_plans(plans, found)
    lookups = make_lookups(found, decided, settings, built, progress)
    measures = settings.measure and runtime.library_path() is not None and lookups
    timing = Timing(input_shape, settings, template) if measures else None
    if timing is not None and plans is None:
        timing.export(build_net(dense, input_shape, lookups), progress)
        decided = timing.keep_what_gains(decided, settings.plan.keep_slow, progress)
        lookups = {plan.name: lookups[plan.name] for plan in decided if plan.kind != "dense"}
    if data.on_plan is not None:
        data.on_plan(decided)
    targets = {name: lookup.n_nonzeros for name, lookup in lookups.items()}
    if prunes(settings.finetune, data.examples):
        lookups = make_lookups(found, twice_the_lookups(decided), settings, built, progress)
    net = build_net(dense, input_shape, lookups)
    training = improve(net, dense, input_shape, targets, settings, data, progress)
    rows = layer_rows(net, found, decided, settings.coefficients)
    fold_batch_norms(net)
    round_factors(net, settings.coefficients)
    if timing is not None and (training is not None or plans is not None):
        timing.export(net, progress)  # training chose other lookups than those measured before
    config = {
        "init": settings.init, "seed": settings.seed, "coefficients": settings.coefficients,
        "layers": [asdict(plan) for plan in decided],
        "finetune": None if settings.finetune is None else asdict(settings.finetune), "data": data.recorded_origin(),
    }  # fmt: skip
    times = timing.times if timing is not None and lookups else None
    report = make_report(rows, input_shape, sum(map(len, data.calibration)), training, times)
    return Artefact(net, input_shape, config, report)


def _check_plans(plans: Sequence[LayerPlan], found: Sequence[Layer]) -> list[LayerPlan]:
    names, expected = [plan.name for plan in plans], [layer.name for layer in found]
    if names != expected:
        odd = sorted(set(names) ^ set(expected))[:4]
        raise SettingsError(
            f"the configuration is of another net: it lists {len(names)} layers, the model has {len(expected)} "
            f"(they differ in {', '.join(odd) or 'order'})"
        )
    for plan, layer in zip(plans, found, strict=True):
        check_plan(plan, layer)
    return list(plans)

"""Improve a compressed net as far as there is data: refit, batch norms, training."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from lcnn_compress.artefact.report import TrainingReport
from lcnn_compress.compression.batch_norms import batch_norms, reestimate_batch_norms
from lcnn_compress.compression.plan import lookups_per_position
from lcnn_compress.compression.refit import SAMPLES, refit
from lcnn_compress.compression.settings import CompressSettings, LayerPlan, TrainingData
from lcnn_compress.data.examples import Examples
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import as_lookup, with_lookups
from lcnn_compress.net.layers import Captured, Layer
from lcnn_compress.net.output_error import Outputs, affordable_images, some_images
from lcnn_compress.progress import Progress
from lcnn_compress.train.checkpoint import CheckpointFile
from lcnn_compress.train.loop import Goal, finetune
from lcnn_compress.train.recipe import FinetuneSettings

log = logging.getLogger(__name__)
# Layers are solved on as many images as take the dense net about so many MACs, and on at least and at most so many of them.
REFIT_IMAGES = 1e12, (16, 1 << 16)
# Outputs are held against the dense net's on at most this many calibration images.
JUDGED_IMAGES = 128
# Re-estimated batch norms stay if they take outputs at most this many times further from the dense net's: on the images that
# coefficients were solved for, the net before looks better than it is.
MAX_WORSE = 1.1
# A dense layer is solved anew only with at most this many features: the cost grows with their square.
MAX_DENSE_FEATURES = 1200
# A dense layer is solved anew only from at least this many samples for each feature.
SAMPLES_PER_FEATURE = 8
# A net that prunes while it trains needs this many steps to recover; shorter trainings start from the final lookups.
PRUNING_STEPS = 1000


def prunes(tuning: FinetuneSettings | None, examples: Examples | None) -> bool:
    """Tell whether training starts with more lookups than stay: worth it only where it is long enough to recover."""
    if tuning is None or examples is None or tuning.sparsity != "gradual":
        return False
    return tuning.epochs * len(examples) // tuning.batch_size >= PRUNING_STEPS


def twice_the_lookups(plans: Sequence[LayerPlan]) -> list[LayerPlan]:
    """Return plans with twice the lookups, which training prunes to those planned."""

    def denser(plan: LayerPlan) -> LayerPlan:
        return replace(plan, lookups=min(plan.dictionary_size, 2 * max(1, round(lookups_per_position(plan)))))

    return [denser(plan) if plan.form.is_coded else plan for plan in plans]


def improve(
    net: fx.GraphModule,
    captured: Captured,
    targets: dict[str, int],
    settings: CompressSettings,
    data: TrainingData,
    progress: Progress,
) -> TrainingReport | None:
    """Refit coefficients, re-estimate batch norms and fine-tune, as far as there is data; return the training report."""
    dense = captured.net
    calibration = (data if settings.finetune is None else data.calibrated()).calibration
    if calibration:
        _refit_layers(net, captured, affordable_images(dense, captured.layers, calibration, *REFIT_IMAGES), progress)
        reestimate_where_no_worse(net, dense, calibration)
    if settings.finetune is None or data.examples is None:
        return None
    if settings.finetune.sparsity == "threshold":
        for name in targets:
            _fill(net.get_submodule(name), dense.get_submodule(name).weight)
    report = finetune(
        net, dense, data.examples, settings.finetune, goal=Goal(targets, data.enough),
        checkpoint=CheckpointFile(data.checkpoint, data.resume), progress=progress,
    )  # fmt: skip
    net.eval()
    return TrainingReport(report.steps, report.losses, report.nonzeros)


def reestimate_where_no_worse(net: fx.GraphModule, dense: fx.GraphModule, calibration: Sequence[Tensor]) -> None:
    """Re-estimate batch norms unless that takes the outputs clearly further from the dense net's.

    It does so where the dense net's own statistics are not those of the images: these are few or of another kind than those it
    was trained on, or its batch norms were never trained. In the middle of a training they lag behind weights that still move.
    """
    norms = batch_norms(net)
    if not norms:
        return
    judge = Outputs(dense, some_images(calibration, JUDGED_IMAGES))
    before = {name: copy.deepcopy(norm.state_dict()) for name, norm in norms.items()}
    limit = judge.error(net) * MAX_WORSE**2
    reestimate_batch_norms(net, calibration)
    if not judge.error(net) <= limit:
        for name, norm in norms.items():
            norm.load_state_dict(before[name])
        log.info("batch norms stay as they were: re-estimated, they took the outputs further from the dense net's")


@torch.no_grad()
def _refit_layers(net: fx.GraphModule, captured: Captured, batches: Sequence[Tensor], progress: Progress) -> None:
    """Solve lookup layers anew, their patterns out of all entries, and the layers after them that stayed dense.

    A dense layer is an identity dictionary with every coefficient: solved like the others it makes up for what the layers
    before it lost.
    """
    dense = captured.net
    parts: dict[str, LookupConv2d] = {}
    counts: dict[str, int] = {}
    for layer in captured.layers:
        module: Any = net.get_submodule(layer.name)
        if isinstance(module, LookupConv2d):
            parts[layer.name] = module
            counts[layer.name] = module.n_nonzeros
        elif parts and _can_refit(layer, sum(map(len, batches))):
            parts[layer.name] = as_lookup(layer)
    trial = with_lookups(captured, parts)
    for name in counts:
        _fill(trial.get_submodule(name), dense.get_submodule(name).weight)
    refit(trial, dense, batches, progress, counts)
    for name in parts:
        module, solved = net.get_submodule(name), cast(LookupConv2d, trial.get_submodule(name))
        if isinstance(module, LookupConv2d):
            module.load_state_dict(solved.state_dict())
            module.support.copy_(solved.support)
        else:
            assert isinstance(module.weight, Tensor)
            module.weight.copy_(solved.sparse_kernel.view_as(module.weight))
            module.bias = nn.Parameter(solved.bias.clone())


def _can_refit(layer: Layer, images: int) -> bool:
    """Tell whether a layer can be solved anew: it is not too wide, and ``images`` images determine all its weights."""
    if layer.obstacle is not None or isinstance(layer.module, LookupConv2d):
        return False
    features = layer.in_channels // layer.geometry.groups * layer.geometry.taps
    positions = images * sum(math.prod(layer.geometry.output_size(*size)) for size in layer.sizes)
    return features <= MAX_DENSE_FEATURES and min(SAMPLES, positions) >= SAMPLES_PER_FEATURE * features


@torch.no_grad()
def _fill(lookup: Any, weight: Any) -> None:
    """Set every entry of the kernel to its least-squares value for ``weight``: training prunes from there."""
    groups = lookup.geometry.groups
    slices = weight.double().reshape(groups, lookup.out_channels // groups, -1, *lookup.geometry.kernel)
    inverse = torch.linalg.pinv(lookup.dictionary.double().unflatten(0, (groups, -1)), rtol=1e-5)  # (groups, m, k)
    kernel = torch.einsum("gomrc,gmk->gokrc", slices, inverse).flatten(0, 1)
    lookup.sparse_kernel.copy_(kernel.to(lookup.sparse_kernel.dtype))
    lookup.support.fill_(True)

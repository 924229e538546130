"""What coding one layer does to the outputs of the whole net, measured by replacing that layer alone.

A few forms of each layer are tried on calibration images, their coefficients solved for the layer's own inputs; between them
the effect is interpolated over the error of the layer's own outputs (``local_errors``), both on logarithmic scales. Effects are
squared errors, and those of several layers nearly add up as long as they are small, as do those of coding and of 8 bits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, fx, nn

from lcnn_compress.compression.settings import LayerPlan
from lcnn_compress.forms.arithmetic import FLOAT32, INT8
from lcnn_compress.forms.kinds import LOOKUP, LOW_RANK, SPARSE, Kind
from lcnn_compress.net.layers import Captured, Layer
from lcnn_compress.net.output_error import Outputs, affordable_images, macs_of_image, outputs, some_images
from lcnn_compress.progress import Progress, silent
from lcnn_compress.quantisation.rounding_effects import rounding_effects
from lcnn_compress.search.candidates import Candidate
from lcnn_compress.search.layer_errors import MAX_FEATURES, coded, local_errors
from lcnn_compress.search.layer_fit import gather

# These lookups per position are tried of each dictionary size, and this many sparse forms and low ranks.
PROBED_LOOKUPS, PROBED_SPARSE, PROBED_RANKS = (1, 4), 3, 4
# In nets as large as ResNet-50, which would have 800 of those probes, this many of each kind are tried for a layer.
FEW_PROBES = {LOOKUP: 3, SPARSE: 2, LOW_RANK: 2}
# With all probes the images take about this many MACs of the dense net; of each probe about half of it is run, so that this
# is half a minute of one core.
MAX_MACS = 2e12
# At least and at most this many images are compared, whatever they take: plans of two nets for Fashion-MNIST hardly changed
# from 32 images to 16, but did to 8. An eighth does where outputs have so many positions: of one restoration net, plans were
# the same. Tried once by hand; no script repeats it.
IMAGES = (16, 64)
MANY_POSITIONS = 4096
# Fewer forms are tried where all probes on the fewest images would take more MACs than this: plans get worse by it than by
# fewer images.
MAX_PROBE_MACS = 2e13
MIN_EFFECT = 1e-12
# What 8 bits do is measured on at least and at most this many images, and on as many as take about this many MACs.
ROUNDED_IMAGES, MAX_ROUNDING_MACS = (2, 32), 5e11
# What bfloat16 does is not measured, as it hardly shows: a rounding is off by at most 2^-9 of a value and uniformly so, a
# third of whose square is the mean; weights and inputs are rounded.
BFLOAT16_EFFECT = 2 * 2.0**-18 / 3
# Beyond the forms tried, an effect grows with a power of the outputs' error, which is kept within these bounds.
SLOPES = (1.0, 4.0)


def effects_of_options(
    captured: Captured,
    free: Sequence[Layer],
    in_float: Mapping[str, Sequence[Candidate]],
    options: Mapping[str, Sequence[Candidate]],
    calibration: Sequence[Tensor],
    progress: Progress,
) -> dict[str, list[float]]:
    """Return the effect of each option of each layer; narrow low-rank layers add to that of their twins in float32.

    Args:
        captured: the dense net.
        free: layers that may be coded.
        in_float: their candidates in float32 without times.
        options: what each layer can become, apart from staying as it is.
        calibration: as for ``prepare``.
        progress: as for ``prepare``.
    """
    twins = {name: {_twin(c) for c in listed} for name, listed in options.items()}
    wanted = {name: [c for c in listed if c.plan in twins[name]] for name, listed in in_float.items()}
    if calibration:
        harms = estimate(captured.net, free, [wanted[layer.name] for layer in free], calibration, progress)
    else:
        harms = [[candidate.weight_error for candidate in wanted[layer.name]] for layer in free]
    pairs = [zip(wanted[layer.name], harm, strict=True) for layer, harm in zip(free, harms, strict=True)]
    coded = {candidate.plan: harm for of_layer in pairs for candidate, harm in of_layer}
    in_bytes = {name: [c for c in listed if c.arithmetic == INT8] for name, listed in options.items()}
    ranks = {name: sorted(c.plan.dictionary_size for c in listed) for name, listed in in_bytes.items() if listed}
    added = {}
    if ranks:
        macs = MAX_ROUNDING_MACS * 2 / len(ranks)
        images = affordable_images(captured.net, captured.layers, calibration, macs, ROUNDED_IMAGES)
        added = rounding_effects(captured, {name: sizes[len(sizes) // 2] for name, sizes in ranks.items()}, images, progress)

    def effect(candidate: Candidate) -> float:
        name, is_coded = candidate.plan.name, candidate.plan.form.is_coded
        own = coded[_twin(candidate)] if is_coded else 0.0
        if candidate.arithmetic == INT8:
            return own + (added[name].coded if is_coded else added[name].dense)
        return own + (BFLOAT16_EFFECT if candidate.is_narrow else 0.0)

    return {name: [effect(candidate) for candidate in listed] for name, listed in options.items()}


def _twin(candidate: Candidate) -> LayerPlan:
    """Return the plan of a candidate in float32."""
    return replace(candidate.plan, arithmetic=FLOAT32) if candidate.is_narrow else candidate.plan


def estimate(
    dense: fx.GraphModule,
    layers: Sequence[Layer],
    options: Sequence[Sequence[Candidate]],
    batches: Sequence[Tensor],
    progress: Progress = silent,
    *,
    max_features: int = MAX_FEATURES,
    max_probe_macs: float = MAX_PROBE_MACS,
) -> list[list[float]]:
    """Return the effect of each candidate of each layer on the outputs: mean squared error over variance.

    Args:
        dense: the net the layers are of.
        layers: those that may be replaced, one at a time.
        options: candidates of each layer, none of them dense.
        batches: calibration inputs, each (N, ...); some of them are used.
        progress: gets ("trying layers", forms tried, in total), and what ``gather`` says.
        max_features: as for ``local_errors``.
        max_probe_macs: MACs of all probes on the fewest images beyond which fewer forms are tried.
    """
    probes = [choose_probes(listed) for listed in options]
    macs = macs_of_image(dense, layers, batches)
    least = _least_images(dense, batches[0])
    if macs * sum(map(len, probes)) * min(least, sum(map(len, batches))) > max_probe_macs:
        probes = [choose_probes(listed, few=True) for listed in options]
    images = some_images(batches, int(np.clip(MAX_MACS / max(1.0, macs * sum(map(len, probes))), least, IMAGES[1])))
    net: fx.GraphModule = copy.deepcopy(dense)
    for module in net.modules():
        # This order makes convolutions a quarter faster; the whole net cannot have it: tensors of five axes have no such order.
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    judge = Outputs(net, images)
    effects: list[list[float]] = []
    done, total = 0, sum(map(len, probes)) + len(probes)
    found = zip(gather(net, layers, batches, progress), judge.errors_behind(net, [layer.name for layer in layers]), strict=True)
    for layer, listed, tried, (moments, error_now) in zip(layers, options, probes, found, strict=True):
        progress("trying layers", done, total)
        errors = local_errors(layer, listed, moments, max_features=max_features)
        done += 1
        known: list[tuple[Candidate, float, float]] = []
        dense_weight = layer.weight().detach().flatten(2)
        variance = max(moments.variance(dense_weight), torch.finfo(torch.float32).tiny)
        for candidate in tried:
            progress("trying layers", done, total)
            weight, shift = moments.solve(*coded(layer, candidate), layer.weight().detach(), candidate.plan.filters_per_pattern)
            own = candidate.weight_error if errors is None else moments.variance(weight - dense_weight) / variance
            with replaced(net, layer, weight, shift):
                known.append((candidate, own, error_now()))
            done += 1
        errors = errors or [candidate.weight_error for candidate in listed]
        effects.append([_interpolated(c, error, known) for c, error in zip(listed, errors, strict=True)])
    progress("trying layers", total, total)
    return effects


def _least_images(dense: fx.GraphModule, x: Tensor) -> int:
    """Return how many images are compared at least, by the size of the output for the first image of ``x``."""
    return IMAGES[0] // 8 if math.prod(outputs(dense, x[:1]).shape[2:]) >= MANY_POSITIONS else IMAGES[0]


def choose_probes(options: Sequence[Candidate], few: bool = False) -> list[Candidate]:
    """Return the forms of a layer that are tried: every dictionary size at few and many lookups, some densities and ranks.

    With ``few`` less than half as many are: of each kind the most and the least harmful, and lookups between.
    """

    def listed(kind: Kind, size: int | None = None) -> list[Candidate]:
        found = [c for c in options if c.plan.form == kind and size in (None, c.plan.dictionary_size)]
        # Forms with common patterns are left out where there are others: their local errors tell them apart.
        own = [c for c in found if c.plan.filters_per_pattern == 1]
        return sorted(own or found, key=lambda c: c.nonzeros)

    def spread(kind: Kind, count: int) -> list[Candidate]:
        found = listed(kind)
        return [found[i] for i in sorted(set(np.linspace(0, len(found) - 1, count).round().astype(int)))] if found else []

    if few:
        return [candidate for kind, count in FEW_PROBES.items() for candidate in spread(kind, count)]
    lookups: list[Candidate] = []
    for size in sorted({c.plan.dictionary_size for c in options if c.plan.form.has_free_lookups}):
        of_size = listed(LOOKUP, size)
        lookups += [c for c in of_size if c.plan.lookups in PROBED_LOOKUPS] or of_size[:1]
    return [*lookups, *spread(SPARSE, PROBED_SPARSE), *spread(LOW_RANK, PROBED_RANKS)]


@contextmanager
def replaced(net: fx.GraphModule, layer: Layer, weight: Tensor, shift: Tensor) -> Iterator[None]:
    """Give a layer of a dense net the weight and bias of another form for a while: the same function, no new graph.

    Args:
        net: the dense net.
        layer: the layer of that net.
        weight: its weight for a while, (C_out, m, taps).
        shift: what is added to its bias, (C_out).
    """
    module = net.get_submodule(layer.name)
    old, bias = module.weight, module.bias
    assert isinstance(old, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    try:
        with torch.no_grad():
            module.weight = nn.Parameter(weight.reshape(old.shape))
            module.bias = nn.Parameter(shift if bias is None else bias + shift)
        yield
    finally:
        module.weight, module.bias = old, bias


def _interpolated(candidate: Candidate, error: float, known: Sequence[tuple[Candidate, float, float]]) -> float:
    """Return the effect of a candidate from those of the probes nearest in kind: of its own dictionary size if there are any.

    Args:
        candidate: any candidate of the layer.
        error: its local error.
        known: probes with their local errors and effects.
    """
    plan = candidate.plan
    own = [(e, effect) for probe, e, effect in known if probe.plan.kind == plan.kind]
    if plan.form.has_free_lookups:
        key = plan.kind, plan.dictionary_size
        own = [(e, effect) for p, e, effect in known if (p.plan.kind, p.plan.dictionary_size) == key] or own
    points = sorted(own)
    # Worse outputs of a layer never do less harm: probes that say so show the noise of few images.
    x = np.log(np.maximum([e for e, _ in points], MIN_EFFECT))
    y = np.maximum.accumulate(np.log(np.maximum([effect for _, effect in points], MIN_EFFECT)))
    at = float(np.log(max(error, MIN_EFFECT)))
    inside = float(np.clip(at, x[0], x[-1]))
    slope = float(np.clip((y[-1] - y[0]) / max(x[-1] - x[0], 1e-9), *SLOPES)) if len(x) > 1 else SLOPES[0]
    return float(np.exp(np.interp(inside, x, y) + slope * (at - inside)))

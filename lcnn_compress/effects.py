"""What coding one layer does to the outputs of the whole net, measured by replacing that layer alone.

A few forms of each layer are tried on calibration images, their coefficients refitted as in the final net; between them the
effect is interpolated over the error of the filters, both on logarithmic scales. Effects are squared errors, and those of
several layers nearly add up as long as they are small.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, fx, nn

from lcnn_compress.calibrate import SAMPLES, refit
from lcnn_compress.candidates import Candidate
from lcnn_compress.graph import Layer
from lcnn_compress.modules import LookupConv2d
from lcnn_compress.pipeline import build_net, make_lookup
from lcnn_compress.progress import Progress, silent

log = logging.getLogger(__name__)
PROBES = {"lookup": 4, "sparse": 3, "lowrank": 2}  # forms of a layer that are tried
FEWER_PROBES = {"lookup": 2, "sparse": 2, "lowrank": 1}  # in a large net
MOST_MACS = 1e12  # of the dense net on all images and probes: about a minute of one core
IMAGES = (8, 128)
MOST_REFIT_MACS = 3e11  # of the second moments of one form of each layer; beyond that they are tried without refitting
LEAST_EFFECT = 1e-12


class Outputs:
    """The dense net's outputs on calibration images, and how far another net's are from them."""

    def __init__(self, net: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        self.batches = batches
        self.expected = [outputs(net, x) for x in batches]
        joined = torch.cat(self.expected).double()
        self.variance = float(joined.var(correction=0)) or 1.0

    def error(self, net: fx.GraphModule) -> float:
        """Return the mean squared difference to the dense outputs, relative to their variance."""
        total = sum(float((outputs(net, x).double() - y.double()).square().sum()) for x, y in self._pairs())
        return total / sum(y.numel() for y in self.expected) / self.variance

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.batches, self.expected, strict=True)


@torch.inference_mode()
def outputs(net: fx.GraphModule, x: Tensor) -> Tensor:
    """Return the first output of a net in eval mode, as (N, ...)."""
    result = net.eval()(x)
    first: Tensor = result[0] if isinstance(result, tuple) else result
    return first


def estimate(
    dense: fx.GraphModule,
    input_shape: tuple[int, ...],
    layers: Sequence[Layer],
    options: Sequence[Sequence[Candidate]],
    batches: Sequence[Tensor],
    progress: Progress = silent,
) -> list[list[float]]:
    """Return the effect of each candidate of each layer on the outputs: mean squared error over variance.

    Args:
        dense: the net the layers are of.
        input_shape: (1, ...).
        layers: those that may be replaced.
        options: candidates of each layer; a dense one has no effect.
        batches: calibration inputs, each (N, ...); some of them are used.
        progress: gets ("trying layers", forms tried, in total).
    """
    probes = choose_probes(options, PROBES)
    macs = sum(layer.dense_macs for layer in layers)
    if macs * IMAGES[0] * sum(map(len, probes)) > MOST_MACS:
        probes = choose_probes(options, FEWER_PROBES)
    n_images = int(np.clip(MOST_MACS / max(1, macs * sum(map(len, probes))), *IMAGES))
    images = list(torch.cat([*batches])[:n_images].split(32))
    measured = measure(dense, input_shape, layers, probes, images, refitted_on=batches, progress=progress)
    return [
        [_interpolated(candidate, tried, effects) for candidate in listed]
        for listed, tried, effects in zip(options, probes, measured, strict=True)
    ]


def choose_probes(options: Sequence[Sequence[Candidate]], counts: Mapping[str, int]) -> list[list[Candidate]]:
    """Return candidates of each kind, evenly spread over those that no other of their kind beats in time and filters."""
    chosen: list[list[Candidate]] = []
    for listed in options:
        probes: list[Candidate] = []
        for kind, count in counts.items():
            front: list[Candidate] = []
            for candidate in sorted((c for c in listed if c.plan.kind == kind), key=lambda c: (c.ms, c.weight_error)):
                if not front or candidate.weight_error < front[-1].weight_error:
                    front.append(candidate)
            places = np.unique(np.linspace(0, len(front) - 1, count + 2).round().astype(int)[1:-1]) if front else ()
            probes += [front[i] for i in places]
        chosen.append(probes)
    return chosen


def measure(
    dense: fx.GraphModule,
    input_shape: tuple[int, ...],
    layers: Sequence[Layer],
    probes: Sequence[Sequence[Candidate]],
    images: Sequence[Tensor],
    *,
    refitted_on: Sequence[Tensor] = (),
    init: str = "ksvd",
    seed: int = 0,
    progress: Progress = silent,
) -> list[list[float]]:
    """Return the effect of each probe of each layer, replaced alone; refitted first where ``refitted_on`` has batches."""
    net = copy.deepcopy(dense)
    judge = Outputs(net, images)
    effects: list[list[float]] = [[] for _ in layers]
    done, total = 0, sum(map(len, probes))
    for slot in range(max(map(len, probes), default=0)):
        members = [i for i, tried in enumerate(probes) if slot < len(tried)]
        lookups = {layers[i].name: make_lookup(layers[i], probes[i][slot].plan, init, seed) for i in members}
        if refitted_on and _refit_macs(lookups.values()) <= MOST_REFIT_MACS:
            trial = build_net(dense, input_shape, lookups)
            refit(trial, dense, refitted_on)
            lookups = {name: trial.get_submodule(name) for name in lookups}  # type: ignore[misc]
        for i in members:
            progress("trying layers", done, total)
            with replaced(net, layers[i], lookups[layers[i].name]):
                effects[i].append(judge.error(net))
            done += 1
    progress("trying layers", total, total)
    return effects


def _refit_macs(lookups: Iterable[LookupConv2d]) -> float:
    """Return the MACs of the second moments a refit gathers."""
    return sum(SAMPLES * float(m.dictionary_size * m.geometry.taps) ** 2 * m.geometry.groups for m in lookups)


@contextmanager
def replaced(net: fx.GraphModule, layer: Layer, lookup: LookupConv2d) -> Iterator[None]:
    """Give a layer of a dense net the weight and bias of a lookup convolution for a while: the same function, no new graph."""
    module = net.get_submodule(layer.name)
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    try:
        with torch.no_grad():
            module.weight = nn.Parameter(lookup.weight().reshape(weight.shape))
            module.bias = nn.Parameter(lookup.bias.detach().clone())
        yield
    finally:
        module.weight, module.bias = weight, bias


def _interpolated(candidate: Candidate, probes: Sequence[Candidate], effects: Sequence[float]) -> float:
    if candidate.plan.kind == "dense":
        return 0.0
    own = [(p.weight_error, e) for p, e in zip(probes, effects, strict=True) if p.plan.kind == candidate.plan.kind]
    pairs = sorted(own or [(p.weight_error, e) for p, e in zip(probes, effects, strict=True)])
    # Coarser filters never do less harm: what says so is noise of few images.
    x = np.log(np.maximum([w for w, _ in pairs], LEAST_EFFECT))
    y = np.maximum.accumulate(np.log(np.maximum([e for _, e in pairs], LEAST_EFFECT)))
    at = float(np.log(max(candidate.weight_error, LEAST_EFFECT)))
    inside = float(np.clip(at, x[0], x[-1]))
    return float(np.exp(np.interp(inside, x, y) + (at - inside)))  # outside in proportion to the error of the filters

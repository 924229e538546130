"""How far one layer's outputs are off in each of its forms, on the inputs it gets: computed without a pass through the net.

Filters with the same error of their weights differ widely in what that does to the outputs: data chooses patterns, and some
forms leave it more choice. A few forms of each kind, dictionary and sharing are solved, on a sample of the filters; between
them the logarithm of the error is interpolated over the square root of the number of non-zeros: it is nearly linear there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lcnn_compress.forms.dictionary import draft, factorise
from lcnn_compress.forms.kinds import FILTERS_PER_PATTERN
from lcnn_compress.forms.pattern import Prediction
from lcnn_compress.net.layers import Layer
from lcnn_compress.search.candidates import Candidate
from lcnn_compress.search.layer_fit import InputMoments

# At least and at most this many filters of a layer are solved.
FILTERS = 16, 64
# A layer with more channels times taps than this is left out: it would take seconds for each form.
MAX_FEATURES = 5000
# Filters times the square of the features are at most this many: wider layers have fewer filters solved.
FILTER_MACS = 1e8
# This many forms of a kind, dictionary and sharing are solved; the others are interpolated.
SOLVED = 5
MIN_ERROR = 1e-9


def local_errors(
    layer: Layer,
    options: Sequence[Candidate],
    moments: InputMoments,
    *,
    filters: tuple[int, int] = FILTERS,
    max_features: int = MAX_FEATURES,
) -> list[float] | None:
    """Return the squared error of the outputs for each option, relative to their variance.

    Args:
        layer: a layer of the dense net.
        options: its candidates, none of them dense.
        moments: moments of its inputs.
        filters: at least and at most this many are solved, of all groups together, in whole blocks that may share a pattern.
        max_features: channels of a group times taps up to which forms are solved.

    Returns:
        None for a layer too wide to choose patterns from data while its forms are tried.
    """
    features = layer.in_channels // layer.geometry.groups * layer.geometry.taps
    if features > max_features:
        return None
    weight = _sampled(layer, features, filters)  # (groups, O, F)
    variance = float(((weight @ moments.covariance) * weight).sum())
    part = weight.shape[0] * weight.shape[1] / layer.out_channels
    alike: dict[tuple[str, int], dict[int, list[Candidate]]] = {}
    for candidate in sorted(options, key=lambda candidate: candidate.nonzeros):
        of_size = alike.setdefault((candidate.plan.kind, candidate.plan.dictionary_size), {})
        of_size.setdefault(candidate.plan.filters_per_pattern, []).append(candidate)
    errors: dict[int, float] = {}
    for of_size in alike.values():
        solved = {filters_per_pattern: _spread(listed) for filters_per_pattern, listed in of_size.items()}
        wanted = [
            (round(candidate.nonzeros * part), filters_per_pattern)
            for filters_per_pattern, few in solved.items()
            for candidate in few
        ]
        prediction = _prediction(layer, next(iter(solved.values()))[0], moments, weight)
        found = iter(_errors(prediction, wanted, variance))
        for filters_per_pattern, few in solved.items():
            x = np.sqrt([candidate.nonzeros for candidate in few])
            # More non-zeros never make outputs worse: errors that say so are of an iteration that has not ended.
            y = np.minimum.accumulate(np.log(np.maximum([next(found) for _ in few], MIN_ERROR)))
            for candidate in of_size[filters_per_pattern]:
                errors[id(candidate)] = float(np.exp(np.interp(math.sqrt(candidate.nonzeros), x, y)))
    return [errors[id(candidate)] for candidate in options]


def _spread(listed: Sequence[Candidate]) -> list[Candidate]:
    return [listed[i] for i in sorted(set(np.linspace(0, len(listed) - 1, SOLVED).round().astype(int)))]


def _sampled(layer: Layer, features: int, bounds: tuple[int, int]) -> Tensor:
    """Return the weights of some filters of each group, (groups, O, F)."""
    most = int(np.clip(FILTER_MACS / features**2, *bounds))
    weight = layer.weight().detach().flatten(1).unflatten(0, (layer.geometry.groups, -1))
    filters, block = weight.shape[1], FILTERS_PER_PATTERN[-1]
    wanted = max(1, most // block // layer.geometry.groups)
    first = np.unique(np.linspace(0, max(0, filters - block), wanted).astype(int) // block * block)
    chosen = np.unique(np.concatenate([np.arange(start, min(start + block, filters)) for start in first]))
    return torch.index_select(weight, 1, torch.from_numpy(chosen))


def _prediction(layer: Layer, candidate: Candidate, moments: InputMoments, weight: Tensor) -> Prediction:
    rows, groups = coded(layer, candidate)[0], layer.geometry.groups
    blocks = rows.unflatten(0, (groups, -1))
    pairs = [moments.responses(group, blocks[group]) for group in range(groups)]
    ff = torch.stack([responses for _, responses in pairs])
    return Prediction(ff, torch.stack([half for half, _ in pairs]) @ weight.mT)


def _errors(prediction: Prediction, wanted: Sequence[tuple[int, int]], variance: float) -> list[float]:
    """Return the error of each number of non-zeros and of filters that share a pattern."""
    full = prediction.full
    kernels = [full] * len(wanted)
    if any(count < full.numel() for count, _ in wanted):
        kernels = [kernel for _, kernel in prediction.sparse(torch.ones_like(full, dtype=torch.bool), wanted)]
    tiny = torch.finfo(torch.float32).tiny
    return [max(0.0, 1 - prediction.explained(kernel) / max(variance, tiny)) for kernel in kernels]


def coded(layer: Layer, candidate: Candidate) -> tuple[Tensor, Tensor]:
    """Return dictionary (groups * k, m) and kernel (C_out, k, kH, kW) of a form; for lookups a quick draft of them."""
    plan, weight = candidate.plan, layer.weight().detach().numpy()
    groups = layer.geometry.groups
    if plan.form.init is None:
        pair = draft(weight, groups=groups, dictionary_size=plan.dictionary_size, lookups=int(plan.lookups), seed=0)
    else:
        pair = factorise(
            weight, groups=groups, dictionary_size=plan.dictionary_size, lookups=plan.lookups, init=plan.form.init, seed=0
        )
    return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])

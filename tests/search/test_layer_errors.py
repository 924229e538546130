"""How far the outputs of a layer are off: against forms solved one by one, and a sample of filters against all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import layers
from lcnn_compress.search.candidates import candidates
from lcnn_compress.search.layer_errors import coded, local_errors
from lcnn_compress.search.layer_fit import gather

pytestmark = pytest.mark.usefixtures("one_thread")


def exact_local_error(layer, candidate, moments):
    """Of a form with its pattern chosen and its coefficients solved, all filters."""
    rebuilt, _ = moments.solve(*coded(layer, candidate), layer.weight().detach(), candidate.plan.filters_per_pattern)
    weight = layer.weight().detach().flatten(2)
    return moments.variance(rebuilt - weight) / moments.variance(weight)


def test_local_errors_are_those_of_the_outputs(net, found, images):
    layer = found["conv2"]  # 32 filters: all of them are in the sample
    (moments,) = gather(net, [layer], [images])
    listed = candidates(layer, "float16", 0)
    errors = local_errors(layer, listed, moments)
    assert errors is not None
    kinds = set()
    for candidate, error in zip(listed, errors, strict=True):
        plan = candidate.plan
        if plan.kind == "lookup" and plan.lookups not in (1, 8):
            continue
        kinds.add((plan.kind, plan.filters_per_pattern))
        # Exact for low rank but for the ridge; else the iteration stops early, and errors between solved forms are guessed.
        tolerance = 0.01 if plan.kind == "lowrank" else 0.25
        assert error == pytest.approx(exact_local_error(layer, candidate, moments), rel=tolerance), plan
    assert kinds == {("lookup", 1), ("lookup", 4), ("sparse", 1), ("sparse", 4), ("lowrank", 1)}
    at = {c.plan: e for c, e in zip(listed, errors, strict=True)}
    for plan, error in at.items():
        if plan.filters_per_pattern > 1 and plan.kind == "sparse":
            assert error > at[replace(plan, filters_per_pattern=1)]  # a common pattern is less choice


def test_a_sample_of_filters_tells_the_error_of_all():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 96, 3)
    net = capture(nn.Sequential(conv, nn.ReLU()), torch.zeros(1, 8, 9, 9))
    (layer,) = layers(net, torch.zeros(1, 8, 9, 9))
    (moments,) = gather(net, [layer], [torch.randn(100, 8, 9, 9)])
    listed = candidates(layer, "float16", 0)
    sampled = local_errors(layer, listed, moments)
    every = local_errors(layer, listed, moments, filters=(96, 96))
    assert sampled != every
    assert sampled == pytest.approx(every, rel=0.1)  # 64 filters of one distribution
    assert local_errors(layer, listed, moments, max_features=72) == sampled
    assert local_errors(layer, listed, moments, max_features=71) is None

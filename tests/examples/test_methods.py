"""The methods that are compared: what reaches a number of MACs, and what the plans become."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from cases import Noise, small_net
from torch import nn

from lcnn_compress import api
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.net.layers import layers
from lcnn_compress.train.recipe import FinetuneSettings
from lcnn_compress.zoo import fashion_resnet

SHAPE = (1, 3, 16, 16)


@pytest.fixture(scope="module")
def methods() -> Any:
    return importlib.import_module("methods")


def test_solve_returns_the_largest_share_that_fits(methods: Any) -> None:
    assert methods.solve(lambda t: round(1000 * t), 1000) == 1
    share = methods.solve(lambda t: round(1000 * t), 300)
    assert round(1000 * share) == 300
    assert round(1000 * (share + 1e-9)) == 301
    with pytest.raises(SettingsError, match="cannot be had"):
        methods.solve(lambda t: 400 + round(t), 300)


@pytest.mark.parametrize("method", ["lookup (one rule)", "lookup (paper)", "sparse", "low rank"])
@pytest.mark.parametrize("which", [0, 1])
def test_plans_have_the_macs_that_were_asked_for(methods: Any, method: str, which: int) -> None:
    source = api.open_model(small_net(), SHAPE)
    rewriting = methods.Rewriting(layers(source.net, torch.zeros(SHAPE)), ())
    assert [layer.name for layer in rewriting.layers] == ["conv1", "conv2"]
    planned = rewriting.plan(method, methods.CANDIDATES[method][which], 3)
    target = rewriting.total / 3
    row = sum(layer.dense_macs for layer in rewriting.layers) / 16  # what one more row of a dictionary can cost
    assert target - row < planned.macs <= target
    training: dict[str, Any] = {}
    if planned.threshold is not None:  # so slow that the first thresholding is the only one
        tuning = FinetuneSettings(1, 32, 1e-12, "threshold", planned.threshold)
        training = {"data": TrainingData(examples=Noise(64))}
    else:
        tuning = None
    settings = CompressSettings(init=planned.init, measure=False, finetune=tuning)
    artefact = api.compress_source(source, settings, plans=planned.plans, **training)
    macs = sum(row.macs for row in artefact.report.layers)
    # Training normalises in float32 what was solved in float64: a value at the threshold can go either way.
    assert abs(macs - planned.macs) <= 0.001 * planned.macs


def test_an_impossible_cut_is_refused(methods: Any) -> None:
    source = api.open_model(small_net(), SHAPE)
    rewriting = methods.Rewriting(layers(source.net, torch.zeros(SHAPE)), ())
    with pytest.raises(SettingsError, match="cannot be had"):
        rewriting.plan("sparse", "one density", rewriting.total / rewriting.fixed + 1)


def test_macs_of_a_module_are_those_of_its_captured_layers(methods: Any) -> None:
    shape = (1, 1, 28, 28)
    rows = api.dense_rows(api.open_model(fashion_resnet((16, 32, 64)), shape).net, shape)
    built = methods.module_macs(lambda share: fashion_resnet(tuple(round(share * w) for w in (32, 64, 128))), 0.5, shape)
    assert built == sum(row["macs"] for row in rows)


def test_a_narrower_net_starts_from_the_first_channels(methods: Any) -> None:
    dense, narrow = (nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1)) for width in (8, 5))
    methods.start_from_slices(narrow, dense.state_dict())
    assert torch.equal(narrow[0].weight, dense[0].weight[:5])
    assert torch.equal(narrow[2].weight, dense[2].weight[:, :5])

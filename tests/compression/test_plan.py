"""Which layers are compressed and how far: worked out by hand on a small net."""

from __future__ import annotations

import pytest
import torch
from cases import small_net
from torch import nn

from lcnn_compress.compression.plan import PlanSettings, lookups_per_position, plan_layers
from lcnn_compress.errors import ModelError, SettingsError
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import layers


@pytest.fixture(scope="module")
def found():
    example = torch.zeros(1, 3, 16, 16)
    return layers(capture(small_net(), example), example)


def plans(found, **settings):
    return {plan.name: plan for plan in plan_layers(found, PlanSettings(**settings))}


def test_default_plan_and_reasons(found):
    result = plans(found)
    assert [p.kind for p in result.values()] == ["dense", "lookup", "lookup", "dense"]
    assert "only 3 input channels" in result["stem"].reason
    assert "classifier" in result["fc"].reason
    assert (result["conv1"].dictionary_size, result["conv2"].dictionary_size) == (4, 8)
    assert lookups_per_position(result["conv2"]) == 2


def test_plain_size_is_limited_to_the_channels_with_a_note(found):
    result = plans(found, dictionary="30", lookups=2)
    assert result["conv1"].dictionary_size == 16
    assert result["conv1"].note == "dictionary of 30 limited to 16"
    assert result["conv2"].dictionary_size == 30
    assert result["conv2"].note == ""


def test_a_share_counts_from_the_vectors_where_they_are_fewer_than_channels():
    wide = nn.Sequential(nn.Flatten(), nn.Linear(512, 64), nn.Linear(64, 32))
    example = torch.zeros(1, 2, 16, 16)
    found = layers(capture(wide, example), example)
    assert plans(found, dictionary="0.25", lookups=1)["1"].dictionary_size == 16


def test_named_layers_may_have_more_entries_than_channels(found):
    result = plans(found, dictionary="conv1=20,conv2=0.5", lookups=1)
    assert result["conv1"].dictionary_size == 20
    assert result["conv2"].dictionary_size == 16
    assert result["stem"].reason != ""


def test_only_overrides_the_defaults_but_not_the_impossible(found):
    result = plans(found, only=("stem", "fc"), dictionary="3", lookups=1)
    assert result["stem"].kind == "lookup"
    assert result["fc"].kind == "lookup"
    assert result["conv1"].reason == "not named by --only"
    assert plans(found, skip=("conv*",))["conv1"].reason == "kept dense by --skip 'conv*'"


def test_layers_that_do_not_pay_stay_dense(found):
    result = plans(found, dictionary="conv2=200", lookups=1.0)
    assert result["conv2"].kind == "dense"
    assert "does not pay" in result["conv2"].reason
    assert plans(found, dictionary="conv2=200", lookups=1.0, keep_slow=True)["conv2"].kind == "lookup"


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "nan", "inf", "many", "conv1=", "conv1=0", "=", ""])
def test_impossible_dictionaries_are_refused_with_the_value(text):
    with pytest.raises(SettingsError, match=r"`dictionary` is '"):
        PlanSettings(dictionary=text)


def test_dictionary_larger_than_any_layer_is_refused(found):
    with pytest.raises(SettingsError, match=r"asks for 100000 entries.*at most 287"):
        plans(found, dictionary="100000")


@pytest.mark.parametrize("lookups", [0, -1, 0.0, 1.5, float("nan")])
def test_impossible_lookups_are_refused(lookups):
    with pytest.raises(SettingsError, match="`lookups` is "):
        PlanSettings(lookups=lookups)


def test_globs_that_match_nothing_are_refused(found):
    with pytest.raises(SettingsError, match=r"'layer9\*' matches no layer; the layers are stem, conv1, conv2, fc"):
        plans(found, only=("layer9*",))


def test_net_without_layers_is_refused():
    example = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ModelError, match="no Conv2d and no Linear"):
        plan_layers(layers(capture(nn.ReLU(), example), example), PlanSettings())


def test_depthwise_stays_dense():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 64, 3), nn.Conv2d(64, 64, 3))
    example = torch.zeros(1, 8, 12, 12)
    reasons = [p.reason for p in plan_layers(layers(capture(net, example), example), PlanSettings())]
    assert "depthwise" in reasons[0]
    assert reasons[1:] == ["", ""]


@pytest.mark.parametrize("depth", [20, 120])
def test_only_layers_far_below_the_average_are_tiny(depth):
    net = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth)), nn.AvgPool2d(8), nn.Conv2d(16, 16, 1))
    example = torch.zeros(1, 16, 8, 8)
    *rest, last = plan_layers(layers(capture(net, example), example), PlanSettings())
    assert {plan.kind for plan in rest} == {"lookup"}
    assert last.reason.startswith("tiny: 0.0")


def test_shares_without_a_kernel_are_refused():
    with pytest.raises(SettingsError, match="`filters_per_pattern` is 3; it must be one of 1, 2, 4, 8"):
        PlanSettings(filters_per_pattern=3)

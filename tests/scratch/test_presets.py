"""What presets make of nets: published dictionaries, shares of channels, and nets that they do not fit."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from cases import small_net
from torch import nn

from lcnn_compress import zoo
from lcnn_compress.errors import SettingsError
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Layer, layers
from lcnn_compress.scratch.presets import choose
from lcnn_compress.scratch.train_settings import TrainSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@lru_cache
def found(name: str) -> list[Layer]:
    factories = {"small": small_net, "resnet": lambda: narrow_resnet(3), "grey": lambda: narrow_resnet(1)}
    net = factories[name]() if name in factories else getattr(zoo, name)()
    shape = {"lenet": (1, 1, 28, 28), "small": (1, 3, 16, 16), "resnet": (1, 3, 64, 64), "grey": (1, 1, 64, 64)}[name]
    return layers(capture(net.eval(), torch.zeros(shape)), torch.zeros(shape))


def narrow_resnet(channels: int) -> nn.Module:
    net = zoo.resnet10(10)
    net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    return net


def sizes(name: str, settings: TrainSettings) -> dict[str, int]:
    return {plan.name: plan.dictionary_size for plan in choose(found(name), settings).plans if plan.form.is_coded}


def test_resnet_has_the_published_dictionaries_and_its_own_timetable() -> None:
    coded = sizes("resnet", TrainSettings())
    assert coded == {
        "conv1": 3, **{f"layer{i}.0.conv{j}": 8 << i for i in (1, 2, 3, 4) for j in (1, 2)}
    }  # fmt: skip
    chosen = choose(found("resnet"), TrainSettings())
    assert (chosen.timetable, chosen.published is not None) == ("resnet", True)
    reasons = {plan.name: plan.reason for plan in chosen.plans}
    assert "downsample" in reasons["layer2.0.downsample.0"]
    # Threshold starts from full kernels; elsewhere a position ends with so many lookups.
    assert {plan.lookups for plan in chosen.plans if plan.name == "layer1.0.conv1"} == {16}
    top = choose(found("resnet"), TrainSettings(sparsity="top", lookups=5))
    assert [plan.lookups for plan in top.plans if plan.name in ("conv1", "layer1.0.conv1")] == [3, 5]


def test_a_layer_without_room_stays_dense_in_a_published_preset() -> None:
    assert "conv1" not in sizes("grey", TrainSettings())
    (reason,) = [plan.reason for plan in choose(found("grey"), TrainSettings()).plans if plan.name == "conv1"]
    assert reason == "1 input channel: no room for the published dictionary of 3"


def test_other_nets_get_shares_of_their_channels() -> None:
    chosen = choose(found("small"), TrainSettings())
    assert (chosen.published, chosen.timetable) == (None, "cosine")
    assert sizes("small", TrainSettings()) == {"conv1": 4, "conv2": 8}
    assert sizes("small", TrainSettings(preset="lcnn-accurate")) == {"conv1": 8, "conv2": 16}


def test_dictionaries_by_name() -> None:
    assert sizes("lenet", TrainSettings(dictionary="features.3=5,classifier.0=12")) == {"features.3": 5, "classifier.0": 12}


def test_dense_leaves_everything_dense() -> None:
    assert sizes("small", TrainSettings(preset="dense")) == {}


@pytest.mark.parametrize(
    ("dictionary", "message"), [("layer9=4", "matches no layer"), ("conv2=4000", "use at most"), ("conv2=0", "at least 1")]
)
def test_dictionaries_that_do_not_fit(dictionary: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        choose(found("small"), TrainSettings(dictionary=dictionary))


def test_a_preset_that_fits_no_layer() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(SettingsError, match=r"fits no layer of the net .*classifier"):
        choose(layers(capture(net, x), x), TrainSettings())

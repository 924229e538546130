"""The shape of a net's input is found without computing anything with it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lcnn_compress.errors import SettingsError
from lcnn_compress.sources.input_shape import infer_input_shape
from lcnn_compress.zoo import alexnet, fashion_resnet, resnet18


class ByCfg(nn.Module):
    """A net with timm's description of its input."""

    def __init__(self, config: object) -> None:
        super().__init__()
        self.pretrained_cfg = config


class Counting(nn.Module):
    """A net that keeps state in forward and takes only maps whose height is one of ``heights``."""

    def __init__(self, channels: int, heights: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.heights = heights
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(x.shape[2])
        if x.shape[2] not in self.heights:
            raise KeyError(x.shape[2])
        y: Tensor = self.norm(self.conv(x)) + torch.arange(x.shape[3])
        return y


def test_the_shape_is_taken_from_timm() -> None:
    config = type("PretrainedCfg", (), {"input_size": (3, 240, 240)})()
    assert infer_input_shape(ByCfg({"input_size": (3, 240, 320)})) == ((1, 3, 240, 320), None)
    assert infer_input_shape(ByCfg(config)) == ((1, 3, 240, 240), None)


@pytest.mark.parametrize(
    "size",
    [
        None, 224, "3x224x224", (), (3, 10**9, 10**9), (3, 1 << 20, 1 << 20), (3, 0, 224), (3, -1, -1), (3, 224.5, 224),
        ("3", "8", "8"), (3, [224], 224), (1, 1, 1, 1, 1), {"h": 3}, (True, 8, 8), (3, None, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrap", [dict, lambda **values: type("Config", (), values)()])
def test_what_a_model_says_of_its_input_is_taken_only_where_it_can_be_one(size: object, wrap: Callable[..., object]) -> None:
    net = Counting(3, (96,))
    net.pretrained_cfg = wrap(input_size=size)  # type: ignore[assignment]
    assert infer_input_shape(net) == ((1, 3, 96, 96), None)
    net.pretrained_cfg = size  # type: ignore[assignment]
    assert infer_input_shape(net) == ((1, 3, 96, 96), None)


@pytest.mark.parametrize("width", [10**12, -3, "3", 3.5, None])
def test_widths_of_layers_that_can_be_none_are_not_taken(width: object) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    net[0].in_channels = width  # type: ignore[assignment]
    assert infer_input_shape(net)[0] == (1, 2)
    net[3].in_features = width  # type: ignore[assignment]
    with pytest.raises(SettingsError, match="no Conv2d and no Linear"):
        infer_input_shape(net)


def test_a_net_without_convolutions_takes_the_features_of_its_first_linear() -> None:
    assert infer_input_shape(nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 2))) == ((1, 12), None)


@pytest.mark.parametrize(
    ("channels", "heights", "size", "assumed"),
    [
        (3, (96,), 96, False),
        (3, (28,), 28, False),
        (3, (224, 256), 224, True),
        (1, (28, 32, 224), 28, True),
        (3, (28, 64, 96), 64, True),
        (1, (64, 32, 224), 32, True),
        (4, (28, 32), 32, True),
        (4, (28,), 28, False),
    ],
)
def test_the_usual_sizes_are_tried(channels: int, heights: tuple[int, ...], size: int, assumed: bool) -> None:
    net = Counting(channels, heights).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    shape, note = infer_input_shape(net)
    assert shape == (1, channels, size, size)
    assert (note is not None) == assumed
    if note is not None:
        assert note == f"the net takes images of several sizes; 1,{channels},{size},{size} is assumed, `input_shape` changes it"
    assert net.calls == []
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_nets_of_the_zoo() -> None:
    assert infer_input_shape(fashion_resnet((4, 4, 4)))[0] == (1, 1, 28, 28)
    assert infer_input_shape(resnet18())[0] == (1, 3, 224, 224)
    assert infer_input_shape(alexnet())[0] == (1, 3, 224, 224)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 30 * 30, 4)).half()
    assert infer_input_shape(net) == ((1, 3, 32, 32), None)


def test_a_net_that_takes_no_usual_size_asks_for_one() -> None:
    with pytest.raises(SettingsError, match=r"takes 7 channels but none of .*\[28, 32, .*384\]; .*`input_shape` 1,7,480,640"):
        infer_input_shape(Counting(7, ()))
    uncopyable = Counting(3, (224,))
    uncopyable.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(SettingsError, match="takes 3 channels"):
        infer_input_shape(uncopyable)
    with pytest.raises(SettingsError, match=r"no Conv2d and no Linear .*`input_shape`, such as 1,3,224,224"):
        infer_input_shape(nn.ReLU())


def test_a_net_of_any_size_takes_the_size_of_the_images_at_hand() -> None:
    asked: list[tuple[int, int]] = []

    def images() -> tuple[int, int]:
        asked.append((96, 64))
        return 96, 64

    shape, note = infer_input_shape(Counting(3, (96, 224)), images)
    assert (shape, note) == (
        (1, 3, 96, 64),
        "the net takes images of several sizes; 1,3,96,64 is that of the data, `input_shape` changes it",
    )
    assert asked == [(96, 64)]
    refused = infer_input_shape(Counting(3, (128, 224)), images)  # the net does not take them
    assert refused == infer_input_shape(Counting(3, (128, 224)), lambda: None) == infer_input_shape(Counting(3, (128, 224)))
    assert refused[0] == (1, 3, 224, 224)
    asked.clear()
    assert infer_input_shape(Counting(3, (224,)), images) == ((1, 3, 224, 224), None)  # it is known
    assert infer_input_shape(ByCfg({"input_size": (3, 32, 32)}), images) == ((1, 3, 32, 32), None)
    assert asked == []


def test_an_unusual_size_is_that_of_the_images() -> None:
    assert infer_input_shape(Counting(3, (52,)), lambda: (52, 52))[0] == (1, 3, 52, 52)

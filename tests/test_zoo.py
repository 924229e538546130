"""The nets of the zoo: as large as their docstrings say, and with the names of published state_dicts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lcnn_compress import zoo


def gigamacs(net: nn.Module, shape: tuple[int, ...]) -> float:
    """Run a net without memory and count the multiply-adds of its convolutions and linear layers, in 1e9."""
    macs: list[int] = []

    def count(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        values = args[0] if isinstance(module, nn.ConvTranspose2d) else y  # each of them reads, or gives, one filter's products
        weight = module.get_parameter("weight")
        macs.append(values.numel() * weight[0].numel())

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        net.eval()(torch.empty(shape, device="meta"))
    return sum(macs) / 1e9


@pytest.mark.parametrize(
    ("factory", "shape", "size", "digits"),
    [
        (zoo.resnet10, (1, 3, 224, 224), 0.89, 2),
        (zoo.resnet18, (1, 3, 224, 224), 1.81, 2),
        (zoo.resnet34, (1, 3, 224, 224), 3.66, 2),
        (zoo.resnet50, (1, 3, 224, 224), 4.09, 2),
        (zoo.alexnet, (1, 3, 224, 224), 0.71, 2),
        (zoo.alexnet_lcnn, (1, 3, 224, 224), 0.71, 2),
        (zoo.alexnet_wide, (1, 3, 224, 224), 1.14, 2),
        (zoo.lenet, (1, 1, 28, 28), 0.0023, 4),
        (zoo.vgg16, (1, 3, 224, 224), 15.5, 1),
        (zoo.demosaicnet, (1, 3, 256, 256), 9.4, 1),
    ],
)
def test_nets_are_as_large_as_they_say(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], size: float, digits: int
) -> None:
    with torch.device("meta"):
        net = factory()
    assert round(gigamacs(net, shape), digits) == size


def test_names_are_those_of_published_weights() -> None:
    with torch.device("meta"):
        names = {
            name: set(getattr(zoo, name)().state_dict()) for name in ("resnet18", "resnet50", "alexnet", "vgg16", "demosaicnet")
        }
    assert {"conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.running_var", "fc.bias"} <= names["resnet18"]
    assert {"layer1.0.downsample.1.running_var", "layer3.5.conv3.weight", "layer4.2.bn3.bias"} <= names["resnet50"]
    alexnet = (*(f"features.{i}" for i in (0, 3, 6, 8, 10)), *(f"classifier.{i}" for i in (1, 4, 6)))
    assert names["alexnet"] == {f"{layer}.{kind}" for layer in alexnet for kind in ("weight", "bias")}
    assert {"features.28.weight", "classifier.6.bias"} <= names["vgg16"]
    assert {"main_processor.conv15.weight", "residual_predictor.bias", "upsampler.weight"} <= names["demosaicnet"]


def test_the_embedded_default_gives_ten_classes_of_small_grey_images() -> None:
    net = zoo.fashion_resnet((4, 4, 4)).eval()
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)

"""Small definitions of well-known nets, so that nothing has to be downloaded to try the tool.

Module names and shapes are those of torchvision, and of the package demosaicnet, so that published state_dicts load (``--arch
lcnn_compress.zoo:resnet18``).
Every factory returns random weights unless it says otherwise; ``fashion_resnet`` is the embedded default's architecture.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class FashionResNet(nn.Module):
    """Residual classifier for 1x28x28 images: a 3x3 stem and one block per stage."""

    def __init__(self, widths: tuple[int, int, int], n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = BasicBlock(widths[0], widths[0], 1)
        self.layer2 = BasicBlock(widths[0], widths[1], 2)
        self.layer3 = BasicBlock(widths[1], widths[2], 2)
        self.fc = nn.Linear(widths[2], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class ResNet(nn.Module):
    """ResNet of basic blocks for 3x224x224 images (He et al. 2016, table 1)."""

    def __init__(self, blocks: tuple[int, int, int, int], n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._stage(64, 64, blocks[0], 1)
        self.layer2 = self._stage(64, 128, blocks[1], 2)
        self.layer3 = self._stage(128, 256, blocks[2], 2)
        self.layer4 = self._stage(256, 512, blocks[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, n_classes)

    @staticmethod
    def _stage(in_channels: int, channels: int, n_blocks: int, stride: int) -> nn.Sequential:
        rest = [BasicBlock(channels, channels, 1) for _ in range(n_blocks - 1)]
        return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


class SequentialNet(nn.Module):
    """Features, pooling to a fixed size, classifier: the shape of AlexNet and VGG."""

    def __init__(self, features: nn.Sequential, pool: int, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


class BayerDemosaick(nn.Module):
    """Restores RGB (n, 3, h, w) from its Bayer mosaic (the same shape, missing colours 0), padded to keep the size.

    Gharbi et al. 2016, "Deep joint demosaicking and denoising", as in the PyPI package demosaicnet (MIT), whose weights fit: a
    trunk of 15 3x3 convolutions works at half resolution; its outputs are split into filters and masks and multiplied.
    """

    def __init__(self, depth: int = 15, width: int = 64) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(pack_mosaic=nn.Conv2d(3, 4, 2, stride=2))
        for i in range(1, depth + 1):
            channels = 4 if i == 1 else width, 2 * width if i == depth else width
            layers[f"conv{i}"] = nn.Conv2d(*channels, 3, padding=1)
            layers[f"relu{i}"] = nn.ReLU()
        self.main_processor = nn.Sequential(layers)
        self.residual_predictor = nn.Conv2d(width, 12, 1)
        self.upsampler = nn.ConvTranspose2d(12, 3, 2, stride=2, groups=3)
        self.fullres_processor = nn.Sequential(
            OrderedDict(post_conv=nn.Conv2d(6, width, 3, padding=1), post_relu=nn.ReLU(), output=nn.Conv2d(width, 3, 1))
        )

    def forward(self, mosaic: Tensor) -> Tensor:
        filters, masks = self.main_processor(mosaic).chunk(2, 1)
        upsampled = self.upsampler(self.residual_predictor(filters * masks))
        restored: Tensor = self.fullres_processor(torch.cat([mosaic, upsampled], 1))
        return restored


def fashion_resnet(widths: tuple[int, int, int] = (32, 64, 128)) -> nn.Module:
    """Return the architecture of the embedded default (10 classes of Fashion-MNIST)."""
    return FashionResNet(widths, 10)


def resnet18(n_classes: int = 1000) -> nn.Module:
    """Return ResNet-18: 1.81 GMAC at 3x224x224."""
    return ResNet((2, 2, 2, 2), n_classes)


def alexnet(n_classes: int = 1000) -> nn.Module:
    """Return AlexNet in its "one weird trick" widths 64-192-384-256-256 (Krizhevsky 2014): 0.71 GMAC at 3x224x224."""
    relu = nn.ReLU
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), relu(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), relu(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), relu(), nn.Conv2d(384, 256, 3, 1, 1), relu(),
        nn.Conv2d(256, 256, 3, 1, 1), relu(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), relu(),
        nn.Dropout(), nn.Linear(4096, 4096), relu(), nn.Linear(4096, n_classes),
    )  # fmt: skip
    return SequentialNet(features, 6, classifier)


def vgg16(n_classes: int = 1000) -> nn.Module:
    """Return VGG-16 without batch norm (Simonyan and Zisserman 2015, configuration D): 15.5 GMAC at 3x224x224."""
    layers: list[nn.Module] = []
    channels = 3
    for stage, n_convs in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(n_convs):
            layers += [nn.Conv2d(channels, stage, 3, 1, 1), nn.ReLU()]
            channels = stage
        layers.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, n_classes),
    )  # fmt: skip
    return SequentialNet(nn.Sequential(*layers), 7, classifier)


def demosaicnet() -> nn.Module:
    """Return the Bayer demosaicking net of Gharbi et al. 2016: 9.4 GMAC at 3x256x256."""
    return BayerDemosaick()

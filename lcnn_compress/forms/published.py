"""Dictionary sizes, sparsifier settings and densities that were published for well-known nets.

Bagherinezhad et al., "LCNN: Lookup-based Convolutional Neural Network", CVPR 2017 (arXiv 1611.06473), section 4, and what its
code does with layers that the paper does not name; densities of AlexNet: the README of github.com/ildoonet/tf-lcnn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

FAST, ACCURATE = "fast", "accurate"


@dataclass(frozen=True)
class Published:
    """One net at one of the two sizes of the paper; layers have the names of torchvision.

    Attributes:
        family: globs on names of layers; a net is of this family if all its layers match one of them.
        n_layers: how many layers a net of the family has; None where that differs.
        rows: dictionary sizes k by glob; the first that matches a layer decides, and layers that none matches are dense.
        dense: globs of layers that the published code leaves dense though ``rows`` has a number for them.
        threshold_c: c of epsilon = c * sigma, sigma being the standard deviation of the layer's Gaussian start.
        l1: lambda' of lambda = lambda' * epsilon; for ResNet the paper gives the range 0.1 to 0.3 only.
        densities: non-zeros as a part of k * C_out * kH * kW of the layers in ``rows``, in their order; empty if unpublished.
    """

    family: tuple[str, ...]
    n_layers: int | None
    rows: Mapping[str, int]
    threshold_c: float
    l1: float
    dense: tuple[str, ...] = ()
    densities: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """``rows`` as ``--dict`` takes them."""
        return ",".join(f"{glob}={size}" for glob, size in self.rows.items())

    def size_of(self, name: str) -> int | None:
        """Return the dictionary size of a layer, or None where it is dense."""
        if any(fnmatchcase(name, glob) for glob in self.dense):
            return None
        return next((size for glob, size in self.rows.items() if fnmatchcase(name, glob)), None)

    def fits(self, names: Sequence[str]) -> bool:
        """Tell whether layers of these names make a net of the family."""
        counted = self.n_layers in (None, len(names))
        return counted and all(any(fnmatchcase(name, glob) for glob in self.family) for name in names)


def _alexnet(middle: int, linear: int, l1: float, densities: tuple[float, ...]) -> Published:
    # The second linear layer is classifier.5 where batch norms stand between. The published code leaves the classifier dense.
    rows = {"features.0": 3, "features.*": middle, "classifier.1": linear, "classifier.[45]": linear}
    return Published(("features.*", "classifier.*"), 8, rows, 0.01, l1, densities=densities)


def _resnet(first_stage: int, l1: float) -> Published:
    stages = {f"layer{i + 1}.*": first_stage << i for i in range(4)}
    family = ("conv1", "layer[1-4].*", "fc")
    return Published(family, None, {"conv1": 3, **stages}, 0.001, l1, dense=("layer*.downsample.*",))


# Both widths of AlexNet have the same dictionaries.
ALEXNET_FAST = _alexnet(30, 512, 0.3, (0.083, 0.034, 0.008, 0.013, 0.027, 0.001, 0.002))
ALEXNET_ACCURATE = _alexnet(500, 1024, 0.1, (0.129, 0.040, 0.029, 0.034, 0.071, 0.006, 0.007))
# Basic and bottleneck blocks of any depth.
RESNET_FAST = _resnet(16, 0.3)
RESNET_ACCURATE = _resnet(128, 0.1)
PUBLISHED = {FAST: (ALEXNET_FAST, RESNET_FAST), ACCURATE: (ALEXNET_ACCURATE, RESNET_ACCURATE)}


def published_for(names: Sequence[str], preset: str) -> Published | None:
    """Return what was published for a net whose layers have these names at a preset, FAST or ACCURATE; None if nothing was."""
    return next((known for known in PUBLISHED[preset] if known.fits(names)), None)

"""Well-known nets at the dictionaries and densities the paper and its code published, with SYNTHETIC patterns.

What a lookup convolution costs depends on how many rows and non-zeros it has, not on their values: dictionaries, positions and
coefficients here are random, so what is measured of these nets says nothing of accuracy.

Dictionaries and densities are those of ``forms.published``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn

from lcnn_compress import zoo
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.arithmetic import BFLOAT16, FLOAT32, INT8
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.published import ALEXNET_ACCURATE, ALEXNET_FAST, RESNET_ACCURATE, RESNET_FAST
from lcnn_compress.forms.size_rules import parse_dictionary
from lcnn_compress.net.layers import Layer
from lcnn_compress.operators.geometry import lookup_macs


@dataclass(frozen=True)
class Net:
    """A net, its input, and the MACs of the wider net its published ratios may refer to."""

    name: str
    factory: Callable[[], nn.Module]
    input_shape: tuple[int, int, int, int] = (1, 3, 224, 224)
    wide_macs: int | None = None


@dataclass(frozen=True)
class Setting:
    """What becomes of a net. Layers that would need more MACs than dense ones stay dense.

    Without ``densities`` and ``macs_ratio`` there is one lookup per kernel position on average.

    Attributes:
        dictionary: sizes as ``--dict`` takes them; layers it does not name stay dense, all where it is empty.
        densities: non-zeros as a fraction of k * C_out * kH * kW, for each layer named, or one for all.
        macs_ratio: instead of densities, how many times fewer MACs the whole net shall have; one density everywhere gives it.
        filters_per_pattern: number of neighbouring filters that have the same pattern.
        storage: type that factors are stored in.
        arithmetic: what all layers compute in that can, dense ones among them.
        published_ratio: the paper's speed-up, which is a ratio of operation counts.
    """

    net: Net
    name: str
    dictionary: str
    densities: tuple[float, ...] = ()
    macs_ratio: float | None = None
    filters_per_pattern: int = 1
    storage: str = "float16"
    arithmetic: str = FLOAT32
    published_ratio: float | None = None
    note: str = ""


# The LCNN code's dense AlexNet has 96-256-384-384-256 ungrouped channels, its lookup form 64-192-384-256-256.
ALEXNET = Net("alexnet", zoo.alexnet, wide_macs=1_135_256_096)
RESNET18 = Net("resnet18", zoo.resnet18)
VGG16 = Net("vgg16", zoo.vgg16)
DEMOSAICNET = Net("demosaicnet", zoo.demosaicnet, (1, 3, 256, 256))
LAST = "classifier.6 was not published: given the dictionary and density of classifier.4 (FC7)"
SHARED = "eight neighbouring filters look the same places up, unlike those published"
BYTES = "dictionaries of 2^18 entries and more as int8, the others as float16"
UNPUBLISHED = (
    "densities were not published: one lookup per position on average, in shortcuts too, which the published code leaves dense"
)
LIKE_RESNET = (
    "nothing was published for this net: the dictionaries of ResNet-18's layers of 64 channels, one lookup per position"
)
FAST = Setting(
    ALEXNET, "LCNN-fast", f"{ALEXNET_FAST.text},classifier.6=512",
    (*ALEXNET_FAST.densities, ALEXNET_FAST.densities[-1]),
)  # fmt: skip
PAPER = (
    replace(FAST, published_ratio=37.6, note=LAST),
    replace(FAST, name="LCNN-fast, shared", filters_per_pattern=8, note=SHARED),
    replace(FAST, name="LCNN-fast, 8 bits", storage="int8", note=BYTES),
    replace(FAST, name="LCNN-fast, shared, 8 bits", filters_per_pattern=8, storage="int8", note=f"{SHARED}; {BYTES}"),
    Setting(
        ALEXNET, "LCNN-accurate", f"{ALEXNET_ACCURATE.text},classifier.6=1024",
        (*ALEXNET_ACCURATE.densities, ALEXNET_ACCURATE.densities[-1]), published_ratio=3.2, note=LAST,
    ),
    Setting(RESNET18, "LCNN-fast", RESNET_FAST.text, published_ratio=29.2, note=UNPUBLISHED),
    Setting(RESNET18, "LCNN-fast, shared", RESNET_FAST.text, filters_per_pattern=8, note=SHARED),
    Setting(RESNET18, "LCNN-accurate", RESNET_ACCURATE.text, published_ratio=5.0, note=UNPUBLISHED),
    Setting(RESNET18, "10x", "conv1=3,layer*=0.25", macs_ratio=10),
    Setting(RESNET18, "10x, shared", "conv1=3,layer*=0.25", macs_ratio=10, filters_per_pattern=8, note=SHARED),
    Setting(RESNET18, "4x", "conv1=3,layer*=0.5", macs_ratio=4),
    Setting(RESNET18, "4x, shared", "conv1=3,layer*=0.5", macs_ratio=4, filters_per_pattern=8, note=SHARED),
    Setting(RESNET18, "4x, low rank", "layer*=0.18", (1.0,)),
    Setting(RESNET18, "2x", "conv1=3,layer*=0.5", macs_ratio=2),
    Setting(RESNET18, "2x, low rank", "layer*=0.414", (1.0,)),
    Setting(VGG16, "10x", "features.0=3,*=0.25", macs_ratio=10),
    Setting(VGG16, "10x, shared", "features.0=3,*=0.25", macs_ratio=10, filters_per_pattern=8, note=SHARED),
    Setting(DEMOSAICNET, "LCNN-fast", "main_processor.conv*=16", note=LIKE_RESNET),
    Setting(
        DEMOSAICNET, "LCNN-fast, shared", "main_processor.conv*=16", filters_per_pattern=8,
        note=f"{LIKE_RESNET}; {SHARED}",
    ),
    Setting(DEMOSAICNET, "LCNN-accurate", "main_processor.conv*=128", note=LIKE_RESNET),
    Setting(DEMOSAICNET, "4x", "main_processor.conv*=0.5", macs_ratio=4),
    Setting(DEMOSAICNET, "4x, shared", "main_processor.conv*=0.5", macs_ratio=4, filters_per_pattern=8, note=SHARED),
)  # fmt: skip
FAST_MIDDLE = "features.[368]=30,features.10=30"
QUARTER_RESNET = "layer*=0.25"
FAST_RESNET = RESNET_FAST.text.partition(",")[2]  # all but conv1
NARROW = (
    Setting(RESNET18, "dense, bfloat16", "", arithmetic=BFLOAT16),
    Setting(RESNET18, "dense, 8 bits", "", arithmetic=INT8),
    Setting(RESNET18, "k = 0.25 m, bfloat16", QUARTER_RESNET, (1.0,), arithmetic=BFLOAT16),
    Setting(RESNET18, "k = 0.25 m, 8 bits", QUARTER_RESNET, (1.0,), arithmetic=INT8),
    Setting(
        RESNET18, "k = 0.25 m, a quarter of the entries, 8 bits", QUARTER_RESNET, (0.25,), filters_per_pattern=16,
        arithmetic=INT8,
    ),
    Setting(RESNET18, "LCNN-fast, 8 bits", FAST_RESNET, arithmetic=INT8, note=UNPUBLISHED),
    replace(FAST, name="dense, 8 bits", dictionary="", densities=(), arithmetic=INT8),
    replace(
        FAST, name="LCNN-fast, 8 bits", dictionary=FAST.dictionary.replace("features.0=3,features.*=30", FAST_MIDDLE),
        densities=FAST.densities[1:], arithmetic=INT8, note=f"{LAST}; features.0 is dense, which takes less time in 8 bits",
    ),
    Setting(VGG16, "dense, 8 bits", "", arithmetic=INT8),
    Setting(VGG16, "10x, 8 bits", "features.0=3,*=0.25", macs_ratio=10, arithmetic=INT8),
    Setting(
        VGG16, "10x, shared, 8 bits", "features.0=3,*=0.25", macs_ratio=10, filters_per_pattern=8, arithmetic=INT8, note=SHARED,
    ),
)  # fmt: skip
SUITES = {"paper": PAPER, "narrow": NARROW}


@dataclass(frozen=True)
class Coding:
    """One layer as k = ``size`` rows and ``nonzeros`` lookups of all filters; with k = 0 it stays dense for a ``reason``."""

    layer: Layer
    size: int
    nonzeros: int = 0
    reason: str = ""

    @property
    def macs_stage1(self) -> int:
        """MACs of the dictionary on one image."""
        channels, geometry = self.layer.in_channels, self.layer.geometry
        return sum(lookup_macs(channels, self.size, 0, geometry, size) for size in self.layer.sizes)

    @property
    def macs_stage2(self) -> int:
        """MACs of the lookups on one image."""
        return sum(lookup_macs(0, 0, self.nonzeros, self.layer.geometry, size) for size in self.layer.sizes)

    @property
    def macs(self) -> int:
        """MACs of the layer on one image."""
        return self.macs_stage1 + self.macs_stage2 if self.size else self.layer.dense_macs


def code_layers(found: Sequence[Layer], setting: Setting) -> list[Coding]:
    """Return what becomes of each layer.

    Raises:
        SettingsError: no density reaches ``macs_ratio``.
    """
    rules = parse_dictionary(setting.dictionary) if setting.dictionary else []
    named = []
    for layer in found:
        rule = next((r for r in rules if fnmatchcase(layer.name, r.glob)), None)
        if rule is not None:
            vectors = layer.out_channels * layer.geometry.taps
            named.append((layer, rule.rows(min(layer.in_channels // layer.geometry.groups, vectors))))
    if setting.macs_ratio is not None:
        densities = [solve_density(found, named, setting)] * len(named)
    else:
        densities = [*setting.densities] or [1 / size for _, size in named]
        densities *= len(named) if len(densities) == 1 else 1
    codings = {layer.name: _code(layer, size, d) for (layer, size), d in zip(named, densities, strict=True)}
    return [codings.get(layer.name, Coding(layer, 0, reason="no dictionary is stated for it")) for layer in found]


def _code(layer: Layer, size: int, density: float) -> Coding:
    coding = Coding(layer, size, max(1, round(density * _slots(layer, size))))
    if coding.macs < layer.dense_macs:
        return coding
    return Coding(layer, 0, reason="lookup would take no fewer MACs")


def _slots(layer: Layer, size: int) -> int:
    return size * layer.out_channels * layer.geometry.taps


def solve_density(found: Sequence[Layer], named: Sequence[tuple[Layer, int]], setting: Setting) -> float:
    """Return the density at which the net has ``macs_ratio`` times fewer MACs; MACs are linear in it.

    Raises:
        SettingsError: it is not between 0 and 1.
    """
    assert setting.macs_ratio is not None
    total = sum(layer.dense_macs for layer in found)
    full = {layer.name: Coding(layer, size, _slots(layer, size)) for layer, size in named}
    while True:
        fixed = sum(full[layer.name].macs_stage1 if layer.name in full else layer.dense_macs for layer in found)
        lookups = sum(coding.macs_stage2 for coding in full.values())
        density = (total / setting.macs_ratio - fixed) / max(1, lookups)
        if not 0 < density <= 1:
            raise SettingsError(
                f"{setting.net.name} {setting.name}: {setting.macs_ratio:g}x fewer MACs would take a density of {density:.3f}; "
                "it must be above 0 and at most 1: choose other dictionaries"
            )
        paying = {n: c for n, c in full.items() if c.macs_stage1 + density * c.macs_stage2 < c.layer.dense_macs}
        if len(paying) == len(full):
            return density
        # Layers that do not pay stay dense, and then the rest takes another density.
        full = paying


def density_of(codings: Sequence[Coding]) -> float:
    """Return the fraction of non-zeros in all sparse kernels together."""
    return sum(c.nonzeros for c in codings) / max(1, sum(_slots(c.layer, c.size) for c in codings))


def synthetic_lookup(coding: Coding, rng: np.random.Generator, filters_per_pattern: int = 1) -> LookupConv2d:
    """Return a lookup convolution with random rows and coefficients, exact in float16, at random positions.

    ``filters_per_pattern`` neighbouring filters have the same positions.
    """
    layer, (height, width) = coding.layer, coding.layer.geometry.kernel
    groups, out_channels = layer.geometry.groups, layer.out_channels
    channels = layer.in_channels // groups
    dictionary = rng.standard_normal((groups * coding.size, channels), np.float32) / np.float32(math.sqrt(channels))
    places = _slots(layer, coding.size) // out_channels
    blocks = -(-out_channels // filters_per_pattern)
    pattern = np.zeros(blocks * places, bool)
    pattern[rng.choice(pattern.size, max(1, round(coding.nonzeros / out_channels * blocks)), replace=False)] = True
    used = pattern.reshape(blocks, places).repeat(filters_per_pattern, axis=0)[:out_channels]
    # The scale keeps activations of the same size through a ReLU (He et al. 2015); no coefficient is near 0.
    scale = math.sqrt(2 / max(1.0, coding.nonzeros / out_channels))
    values = rng.uniform(0.5, 1.5, used.shape) * rng.choice((-scale, scale), used.shape)
    kernel = np.where(used, values, 0).astype(np.float16).astype(np.float32)
    sparse = torch.from_numpy(kernel.reshape(out_channels, coding.size, height, width))
    return LookupConv2d(torch.from_numpy(dictionary), sparse, layer.module.bias, layer.geometry)

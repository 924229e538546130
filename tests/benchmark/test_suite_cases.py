"""What becomes of the layers of well-known nets, against numbers worked out by hand, and random patterns."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from cases import small_net

from lcnn_compress.benchmark.suite_cases import PAPER, Coding, Net, Setting, code_layers, synthetic_lookup
from lcnn_compress.errors import SettingsError
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import fold_batch_norms
from lcnn_compress.net.layers import Layer, layers

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Net("small", small_net, (1, 3, 16, 16))
QUARTER = Setting(SMALL, "4x", "conv*=0.25", macs_ratio=4)
# stem 3>16, conv1 16>32 with stride 2, conv2 32>32, all 3x3, on 16x16 pixels, and fc 32>10.
STEM, FC, SMALL_MACS = 3 * 16 * 9 * 256, 320, 995_648


@lru_cache
def found(net: Net) -> list[Layer]:
    captured = capture(net.factory(), torch.zeros(net.input_shape))
    fold_batch_norms(captured)
    return layers(captured, torch.zeros(net.input_shape))


def coded(net: str, name: str) -> list[Coding]:
    setting = next(setting for setting in PAPER if (setting.net.name, setting.name) == (net, name))
    return code_layers(found(setting.net), setting)


def macs(codings: list[Coding]) -> int:
    return sum(coding.macs for coding in codings)


def dense(codings: list[Coding]) -> list[str]:
    return [coding.layer.name for coding in codings if not coding.size]


def test_alexnet_fast_has_the_macs_worked_out_by_hand() -> None:
    codings = coded("alexnet", "LCNN-fast")
    rows = [(c.macs_stage1, c.nonzeros, c.macs_stage2) for c in codings]
    assert rows == [
        (3 * 3 * 224 * 224, 1928, 1928 * 55 * 55),  # 0.083 * 3 * 64 * 11 * 11 = 1928.3
        (30 * 64 * 27 * 27, 4896, 4896 * 27 * 27),  # 0.034 * 30 * 192 * 5 * 5
        (30 * 192 * 13 * 13, 829, 829 * 13 * 13),
        (30 * 384 * 13 * 13, 899, 899 * 13 * 13),
        (30 * 256 * 13 * 13, 1866, 1866 * 13 * 13),
        (512 * 256 * 6 * 6, 75_497, 75_497),  # a 6x6 convolution on 256 channels
        (512 * 4096, 4194, 4194),
        (512 * 4096, 1024, 1024),
    ]
    # Without the classifier: 12.9 and 10.1 million, the published net with its dense classifier.
    assert sum(c.macs_stage1 for c in codings[:-1]) == 12_885_248
    assert sum(c.macs_stage2 for c in codings[:-1]) == 10_088_461
    assert (macs(codings), sum(c.layer.dense_macs for c in codings)) == (25_071_885, 714_188_480)


def test_alexnet_accurate_keeps_a_classifier_dense_that_would_not_pay() -> None:
    codings = coded("alexnet", "LCNN-accurate")
    assert [c.size for c in codings] == [3, 500, 500, 500, 500, 1024, 1024, 0]
    assert codings[-1].reason == "lookup would take no fewer MACs"  # 1024 * 4096 for the dictionary alone, 1000 * 4096 dense
    assert codings[-1].macs == 1000 * 4096


def test_resnet18_fast_has_one_lookup_for_each_position() -> None:
    codings = coded("resnet18", "LCNN-fast")
    shortcuts = [f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)]
    assert dense(codings) == ["fc"]
    assert all(c.nonzeros == c.layer.out_channels * c.layer.geometry.taps for c in codings if c.size)
    assert sum(c.macs_stage1 for c in codings) == 61_465_600 + 3 * 32 * 64 * 28 * 28
    assert macs(codings) == 119_855_616
    # Dictionaries of m / 2 rows, at the pixels that the stride leaves.
    assert [c.macs_stage1 for c in codings if c.layer.name in shortcuts] == [32 * 64 * 28 * 28] * 3


def test_demosaicnet_takes_the_dictionaries_of_64_channels() -> None:
    codings = {c.layer.name: c for c in coded("demosaicnet", "LCNN-fast")}
    half = 128 * 128
    trunk = [codings[f"main_processor.conv{i}"] for i in range(1, 16)]
    assert [c.size for c in trunk] == [16] * 15
    assert [c.macs_stage1 for c in trunk] == [16 * 4 * half, *[16 * 64 * half] * 14]
    assert [c.nonzeros for c in trunk] == [64 * 9] * 14 + [128 * 9]
    rest = ["main_processor.pack_mosaic", "residual_predictor", "fullres_processor.post_conv", "fullres_processor.output"]
    assert dense([*codings.values()]) == rest


@pytest.mark.parametrize("ratio", [2, 4, 10])
def test_resnet18_meets_the_ratio_asked_for(ratio: int) -> None:
    codings = coded("resnet18", f"{ratio}x")
    assert macs(codings) == pytest.approx(1_814_073_344 / ratio, rel=1e-4)
    shares = [c.nonzeros / (c.size * c.layer.out_channels * c.layer.geometry.taps) for c in codings if c.size]
    assert max(shares) - min(shares) < 1e-3  # one density for all, but for whole non-zeros


def test_a_density_takes_what_the_other_layers_cost_into_account() -> None:
    codings = code_layers(found(SMALL), QUARTER)
    assert [c.size for c in codings] == [0, 4, 8, 0]
    # (995,648 / 4 - stem - fc - stage 1) / (stage 2 at density 1)
    density = (SMALL_MACS / 4 - STEM - FC - 4 * 16 * 256 - 8 * 32 * 64) / (4 * 288 * 64 + 8 * 288 * 64)
    assert [c.nonzeros for c in codings] == [0, round(density * 4 * 288), round(density * 8 * 288), 0]


@pytest.mark.parametrize(("ratio", "density"), [(2.0, "1.601"), (9.0, "-0.149")])
def test_a_ratio_no_density_gives_is_refused(ratio: float, density: str) -> None:
    setting = Setting(SMALL, "odd", "conv*=0.25", macs_ratio=ratio)
    with pytest.raises(SettingsError, match=rf"^small odd: {ratio:g}x fewer MACs would take a density of {density};"):
        code_layers(found(SMALL), setting)


def test_a_synthetic_lookup_has_the_stated_pattern_and_follows_the_seed() -> None:
    coding = code_layers(found(SMALL), QUARTER)[2]
    lookups = [synthetic_lookup(coding, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    kernel = lookups[0].sparse_kernel
    assert lookups[0].dictionary.shape == (8, 32)
    assert kernel.shape == (32, 8, 3, 3)
    assert lookups[0].n_nonzeros == int(kernel.count_nonzero()) == coding.nonzeros
    assert torch.equal(kernel, kernel.half().float())
    assert lookups[0].macs((8, 8)) == coding.macs
    assert torch.equal(kernel, lookups[1].sparse_kernel)
    assert not torch.equal(kernel, lookups[2].sparse_kernel)


@pytest.mark.parametrize("share", [1, 8])
def test_neighbouring_filters_share_their_pattern(share: int) -> None:
    coding = code_layers(found(SMALL), QUARTER)[2]
    used = synthetic_lookup(coding, np.random.default_rng(0), share).sparse_kernel != 0
    blocks = used.flatten(1).view(-1, 8, used[0].numel())
    assert bool((blocks == blocks[:, :1]).all()) == (share == 8)

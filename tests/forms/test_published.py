"""The published dictionaries against the paper's numbers, and the nets they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from lcnn_compress import zoo
from lcnn_compress.forms.published import (
    ACCURATE,
    ALEXNET_ACCURATE,
    ALEXNET_FAST,
    FAST,
    PUBLISHED,
    RESNET_ACCURATE,
    RESNET_FAST,
    Published,
    published_for,
)
from lcnn_compress.forms.size_rules import parse_dictionary

Shape = tuple[str, int, int, int]  # name, channels in, vectors (C_out * taps), pixels in


def layers(factory: Callable[[], nn.Module]) -> list[Shape]:
    """Return the layers of a net at 3x224x224; the first linear one behind 256 x 6 x 6 features is a 6x6 convolution."""
    found: list[Shape] = []

    def note(name: str, module: nn.Module, x: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            taps = module.kernel_size[0] * module.kernel_size[1]
            # Stage 1 of a 1x1 convolution computes only what its stride does not step over.
            pixels = x[0, 0].numel() // (module.stride[0] * module.stride[1] if taps == 1 else 1)
            found.append((name, module.in_channels, module.out_channels * taps, pixels))
        elif isinstance(module, nn.Linear):
            taps = 36 if module.in_features in (9216, 36 * 256) else 1
            found.append((name, module.in_features // taps, module.out_features * taps, taps))

    with torch.device("meta"):
        net = factory().eval()
        for name, module in net.named_modules():
            module.register_forward_hook(lambda m, args, _, name=name: note(name, m, args[0]))
        net(torch.empty(1, 3, 224, 224))
    return found


def sizes(published: Published, shapes: Sequence[Shape]) -> dict[str, int]:
    """Return k of every layer that is coded."""
    asked = {name: (published.size_of(name), vectors) for name, _, vectors, _ in shapes}
    return {name: size for name, (size, vectors) in asked.items() if size is not None and size < vectors}


def stage1_macs(published: Published, shapes: Sequence[Shape]) -> int:
    coded = sizes(published, shapes)
    return sum(coded[name] * channels * pixels for name, channels, _, pixels in shapes if name in coded)


@pytest.mark.parametrize("factory", [zoo.alexnet, zoo.alexnet_wide, zoo.alexnet_lcnn])
@pytest.mark.parametrize(("published", "wanted"), [(ALEXNET_FAST, (30, 512)), (ALEXNET_ACCURATE, (500, 1024))])
def test_alexnet_in_all_its_widths_has_the_dictionaries_of_the_paper(
    published: Published, wanted: tuple[int, int], factory: Callable[[], nn.Module]
) -> None:
    middle, linear = wanted
    assert [*sizes(published, layers(factory)).values()] == [3, *[middle] * 4, linear, linear]  # the classifier is dense
    assert len(published.densities) == 7


def test_alexnet_fast_has_the_work_and_the_entries_that_were_counted_by_hand() -> None:
    shapes = layers(zoo.alexnet)
    assert stage1_macs(ALEXNET_FAST, shapes) == 12_885_248
    coded = sizes(ALEXNET_FAST, shapes)
    assert sum(k * next(c for name, c, _, _ in shapes if name == layer) for layer, k in coded.items()) == 2_255_113
    assert (ALEXNET_FAST.threshold_c, ALEXNET_FAST.l1, ALEXNET_ACCURATE.l1) == (0.01, 0.3, 0.1)


@pytest.mark.parametrize(("published", "widths"), [(RESNET_FAST, (16, 32, 64, 128)), (RESNET_ACCURATE, (128, 256, 512, 1024))])
@pytest.mark.parametrize("factory", [zoo.resnet10, zoo.resnet18, zoo.resnet34])
def test_resnets_of_basic_blocks_have_one_size_a_stage_and_dense_shortcuts(
    published: Published, widths: tuple[int, ...], factory: Callable[[], nn.Module]
) -> None:
    shapes = layers(factory)
    coded = sizes(published, shapes)
    assert coded.pop("conv1") == 3
    assert coded == {
        name: widths[int(name[5]) - 1] for name, *_ in shapes if name.startswith("layer") and "downsample" not in name
    }
    assert published.threshold_c == 0.001


def test_resnet18_has_the_work_counted_by_hand() -> None:
    """61.5 million and 488.6 million multiplications of stage 1."""
    shapes = layers(zoo.resnet18)
    assert round(stage1_macs(RESNET_FAST, shapes) / 1e6, 1) == 61.5
    assert round(stage1_macs(RESNET_ACCURATE, shapes) / 1e6, 1) == 488.6


def test_bottlenecks_of_resnet50_are_coded_where_the_dictionary_is_smaller_than_what_it_codes() -> None:
    shapes = layers(zoo.resnet50)
    assert len(sizes(RESNET_FAST, shapes)) == 1 + 16 * 3
    dense = {name for name, *_ in shapes} - set(sizes(RESNET_ACCURATE, shapes))
    assert {"layer1.0.conv1", "layer4.2.conv1", "fc"} <= dense  # 64 vectors and k = 128
    assert not {"layer1.0.conv2", "layer1.0.conv3"} & dense


@pytest.mark.parametrize("preset", [FAST, ACCURATE])
def test_a_net_gets_what_was_published_for_its_family_only(preset: str) -> None:
    names = {factory: [name for name, *_ in layers(factory)] for factory in (zoo.alexnet_lcnn, zoo.resnet50, zoo.vgg16)}
    alexnet, resnet = PUBLISHED[preset]
    assert [published_for(n, preset) for n in names.values()] == [alexnet, resnet, None]


def test_sizes_can_be_given_as_an_option() -> None:
    for published in (known for pair in PUBLISHED.values() for known in pair):
        assert {rule.glob: rule.size for rule in parse_dictionary(published.text)} == published.rows

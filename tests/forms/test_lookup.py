"""LookupConv2d against the dense convolution with the rebuilt weight."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, LookupConvCase, tolerance
from torch.nn import functional

from lcnn_compress import LookupConv2d


@pytest.mark.parametrize("case", [c for c in CASES if c.batch], ids=str)
def test_forward_is_the_convolution_with_the_rebuilt_weight(case):
    layer, x = case.module(), case.input()
    top, left, bottom, right = case.padding
    with torch.no_grad():
        dense = functional.conv2d(
            functional.pad(x.double(), (left, right, top, bottom)), layer.weight().double(), layer.bias.double(),
            case.stride, 0, case.dilation, case.groups,
        )  # fmt: skip
        assert ((layer(x).double() - dense).abs() <= tolerance(layer, x)).all()


def test_weight_is_the_sum_of_dictionary_rows():
    dictionary = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0], [1.0, -1.0]])  # two groups of k = 2
    kernel = torch.zeros(2, 2, 1, 2)
    kernel[0, 1, 0, 0], kernel[0, 0, 0, 1], kernel[1, :, 0, 1] = 3.0, 4.0, torch.tensor([1.0, 2.0])
    layer = LookupConv2d(dictionary, kernel, None, LookupConvCase(kernel=(1, 2), groups=2).geometry)
    expected = torch.tensor([[[[0.0, 4.0]], [[6.0, 0.0]]], [[[0.0, 7.0]], [[0.0, 3.0]]]])
    assert torch.equal(layer.weight(), expected)
    assert layer.n_nonzeros == 4


def test_normalising_keeps_the_weight():
    layer = LookupConvCase(groups=2, c_out=6).module()
    before = layer.weight().detach().clone()
    layer.normalise_()
    torch.testing.assert_close(layer.weight(), before)
    torch.testing.assert_close(layer.dictionary.norm(dim=1), torch.ones(8))


def test_pruned_entries_get_no_gradient_and_never_return():
    layer = LookupConvCase(density=1.0).module()
    support = torch.rand(layer.support.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    layer.restrict_(support)
    layer(LookupConvCase().input()).square().sum().backward()
    gradient = layer.sparse_kernel.grad
    assert gradient is not None
    assert (gradient[~support] == 0).all()
    assert (gradient[support] != 0).any()
    layer.restrict_(torch.ones_like(support))
    assert torch.equal(layer.support, support)


def test_macs_count_both_stages():
    layer = LookupConvCase(density=1.0, k=4, c_in=8, c_out=5).module()
    assert layer.macs((7, 6)) == 4 * 8 * 42 + 5 * 4 * 9 * 42
    assert layer.dense_macs((7, 6)) == 8 * 5 * 9 * 42


@pytest.mark.parametrize("case", [c for c in CASES if c.batch], ids=str)
def test_stage_1_counts_the_pixels_that_a_tap_reads(case):
    ones = torch.zeros(1, 1, *case.size, requires_grad=True)
    top, left, bottom, right = case.padding
    padded = functional.pad(ones, (left, right, top, bottom))
    functional.conv2d(padded, torch.ones(1, 1, *case.kernel), None, case.stride, 0, case.dilation).sum().backward()
    assert ones.grad is not None
    layer = case.module()
    height, width = case.geometry.output_size(*case.size)
    read = int((ones.grad > 0).sum())
    assert layer.macs(case.size) == layer.dictionary_size * case.c_in * read + layer.n_nonzeros * height * width


def test_mismatched_factors_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 8\)"):
        LookupConv2d(torch.zeros(4, 8), torch.zeros(5, 3, 3, 3), None, LookupConvCase().geometry)

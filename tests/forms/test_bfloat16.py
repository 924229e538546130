"""Convolutions in bfloat16 in torch: the definition of the operators, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from half_models import HALF_CASES, HalfCase, rounded

from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d, Bfloat16Factors, RoundBfloat16
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.operators.geometry import ConvGeometry


def layer_of(case: HalfCase) -> Bfloat16Conv2d:
    held = {name: torch.from_numpy(value) for name, value in case.constants().items()}
    m, half = case.channels // case.geometry.groups, torch.bfloat16
    weight, rows = held["W"].permute(0, 3, 1, 2).contiguous().to(half), held.get("D", torch.zeros(0, m)).to(half)
    factors = Bfloat16Factors(weight, rows, held["bias"])
    factors.check(case.geometry)
    return Bfloat16Conv2d(factors, case.geometry)


@pytest.mark.parametrize("case", HALF_CASES, ids=lambda case: case.name)
def test_the_layer_computes_what_its_operator_does(case: HalfCase) -> None:
    x = case.input()
    got = layer_of(case)(torch.from_numpy(x)).clamp(*case.clip).numpy()
    np.testing.assert_array_equal(got, case.expected(to_bfloat16=False))


def test_rounding_is_to_the_nearest_and_to_even_between_two() -> None:
    x = np.random.default_rng(0).normal(0, 100, 999).astype(np.float32)
    x[:4] = 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20
    got = RoundBfloat16()(torch.from_numpy(x)).numpy()
    assert got[:4].tolist() == [1.0, 1 + 2**-6, -1.0, 1 + 2**-7]
    np.testing.assert_array_equal(got, rounded(x))
    np.testing.assert_array_equal(RoundBfloat16()(torch.from_numpy(got)).numpy(), got)


def test_an_input_that_nobody_rounded_is_rounded() -> None:
    layer = layer_of(HALF_CASES[0])
    x = torch.randn(1, layer.in_channels, 7, 9)
    assert torch.equal(layer(x), layer(RoundBfloat16()(x)))
    assert not torch.equal(RoundBfloat16()(x), x)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_lookup_convolution_is_rounded(groups: int) -> None:
    torch.manual_seed(0)
    geometry = ConvGeometry((3, 2), groups=groups)
    lookup = LookupConv2d(torch.randn(groups * 4, 6), torch.randn(8, 4, 3, 2), torch.randn(8), geometry)
    made = Bfloat16Conv2d.of(lookup)
    assert (made.in_channels, made.out_channels, made.dictionary_size) == (6 * groups, 8, 4)
    assert 0 < float((made.dense_weight() - lookup.weight()).abs().max().detach()) < 0.1
    x = torch.randn(2, 6 * groups, 7, 8)
    with torch.no_grad():
        want = lookup(x)
        assert 0 < float((made(x) - want).abs().max()) < 0.02 * float(want.max() - want.min())
    exact = LookupConv2d(torch.eye(6).repeat(groups, 1), torch.ones(8, 6, 3, 2), None, geometry)
    assert Bfloat16Conv2d.of(exact).dictionary_size == 0
    assert torch.equal(Bfloat16Conv2d.of(exact).dense_weight(), exact.weight())


def test_factors_of_no_layer_are_refused() -> None:
    case = next(case for case in HALF_CASES if case.rows)
    layer = layer_of(case)
    good = Bfloat16Factors(layer.weight, layer.dictionary, layer.bias)
    for changes in (
        {"weight": layer.weight.float()}, {"bias": layer.bias.bfloat16()}, {"dictionary": layer.dictionary.half()},
        {"bias": layer.bias * float("nan")}, {"weight": layer.weight * float("inf")}, {"weight": layer.weight[:-1]},
        {"dictionary": layer.dictionary[:-1]}, {"dictionary": layer.dictionary[0]}, {"weight": layer.weight[:, :, :2]},
        {"bias": layer.bias[0]}, {"weight": layer.weight[0]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must be|are not those of one layer"):
            replace(good, **changes).check(case.geometry)
    with pytest.raises(ValueError, match="are not those of one layer"):
        good.check(replace(case.geometry, groups=3))

"""Convolutions in 8 bits in torch: the definition of the operators, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from byte_models import CASES, ByteCase

from lcnn_compress.forms.int8 import Grid, Int8Conv2d, Int8Factors, Round8, on_grid


def layer_of(case: ByteCase) -> Int8Conv2d:
    held = {name: torch.from_numpy(np.asarray(value)) for name, value in case.constants().items()}
    k = case.rows or case.channels // case.geometry.groups
    factors = Int8Factors(
        held["W"].permute(0, 3, 1, 2).contiguous(), held["w_scale"], held["bias"],
        held.get("D", torch.zeros(0, k, dtype=torch.int8)), held.get("d_scale", torch.zeros(0)),
    )  # fmt: skip
    factors.check(case.geometry)
    return Int8Conv2d(factors, case.geometry, Grid.of(held["x_scale"], held["x_zero_point"]))


@pytest.mark.parametrize("case", [case for case in CASES if case.batch], ids=lambda case: case.name)
def test_the_layer_computes_what_its_operator_does(case: ByteCase) -> None:
    layer, clip = layer_of(case), case.clip
    x = (case.inputs()["X"].astype(np.float32) - case.x_zero) * np.float32(layer.input_scale)
    got = layer(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).clamp(*clip).numpy()
    np.testing.assert_array_equal(got, case.expected(to_bytes=False))


@pytest.mark.parametrize("case", [CASES[0], next(case for case in CASES if case.rows)], ids=lambda case: case.name)
def test_the_plain_layer_is_the_same_but_for_rounding(case: ByteCase) -> None:
    layer = layer_of(replace(case, x_zero=0))
    plain = layer.plain()
    x = layer.input_scale * torch.randint(0, 256, (2, case.channels, *case.size), generator=torch.Generator().manual_seed(0))
    got, want = plain(x), layer(x)
    assert float((got - want).detach().abs().max()) < (1.0 if case.rows else 1e-3)  # half a step of S on each of 5 * 9 lookups
    torch.testing.assert_close(plain.weight(), layer.dense_weight())
    assert (layer.in_channels, layer.out_channels, layer.dictionary_size) == (case.channels, case.filters, case.rows)


def test_a_grid_covers_its_range_and_zero() -> None:
    for low, high in ((-1.0, 3.0), (0.0, 5.0), (2.0, 5.0), (-4.0, -1.0), (0.0, 0.0)):
        grid = Grid.covering(low, high)
        assert grid.scale > 0
        rounding = Round8(grid)
        assert rounding.grid == grid
        x = torch.linspace(min(low, 0.0), max(high, 0.0), 999)
        assert float((rounding(x) - x).abs().max()) <= grid.scale * (1 + 1e-5)  # the zero point is rounded as well
        assert float(rounding(torch.zeros(1))) == 0.0
        outside = rounding(torch.tensor([-1e30, 1e30]))
        assert outside.tolist() == pytest.approx([-grid.zero_point * grid.scale, (255 - grid.zero_point) * grid.scale])
    # Rounded values stay as they are.
    torch.testing.assert_close(rounding(rounding(x)), rounding(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("scale", "zero"),
    [
        (torch.tensor(0.0), torch.tensor(0, dtype=torch.uint8)),
        (torch.tensor(float("nan")), torch.tensor(0, dtype=torch.uint8)),
        (torch.tensor([1.0]), torch.tensor([0], dtype=torch.uint8)),
        (torch.tensor(1.0), torch.tensor(0)),
    ],
)
def test_what_is_no_grid_is_refused(scale: torch.Tensor, zero: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be a float32 above 0 and an uint8"):
        Grid.of(scale, zero)


def test_factors_of_no_layer_are_refused() -> None:
    case = next(case for case in CASES if case.name == "lookup")
    layer = layer_of(case)
    good = Int8Factors(layer.weight, layer.weight_scale, layer.bias, layer.dictionary, layer.dictionary_scale)
    for changes in (
        {"weight": layer.weight.float()}, {"bias": layer.bias.double()}, {"weight_scale": layer.weight_scale * float("nan")},
        {"weight": layer.weight[:-1]}, {"dictionary": layer.dictionary[:-1]}, {"dictionary_scale": layer.dictionary_scale[:-1]},
        {"weight": layer.weight[:, :, :2]}, {"weight_scale": -layer.weight_scale},
        {"dictionary_scale": 0 * layer.dictionary_scale},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must be|are not those of one layer"):
            replace(good, **changes).check(case.geometry)


def test_rounding_passes_gradients_and_gives_scales_those_of_learned_steps() -> None:
    """Esser et al. 2020, equations 2 and 3: (q - x / s) within the range, and its ends outside, which give x none."""
    x, scale = torch.tensor([0.3, 1.0, -0.6, 300.0, -5.0], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    y = on_grid(x, scale, -2, 253)
    assert y.tolist() == [0.5, 1.0, -0.5, 253 * 0.5, -1.0]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 0, 0]
    assert float(scale.grad) == pytest.approx((1 - 0.6) + (2 - 2) + (-1 + 1.2) + 253 - 2, abs=1e-4)

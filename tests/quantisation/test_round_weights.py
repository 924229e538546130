"""Weights in whole numbers: compensated rounding against rounding to nearest."""

from __future__ import annotations

import torch

from lcnn_compress.forms.whole_weights import fitted, row_scales, whole
from lcnn_compress.quantisation.round_weights import round_weights


def drawn(features: int = 150) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(features, features // 3, generator=generator)
    x = (torch.randn(4000, features // 3, generator=generator) @ mixing.T).relu()
    return torch.randn(40, features, generator=generator), x


def test_outputs_are_nearer_than_with_nearest_weights() -> None:
    weight, x = drawn()
    scale = row_scales(weight) * 16  # four bits, so that rounding matters
    moments = x.T @ x

    def error(rounded: torch.Tensor) -> float:
        return float((x @ (rounded.float() * scale[:, None] - weight).T).square().mean())

    nearest = whole(weight, scale)
    made = round_weights(weight, scale, moments)
    assert made.dtype == torch.int8
    assert error(made) < 0.5 * error(nearest)


def test_without_moments_weights_are_the_nearest() -> None:
    weight, _ = drawn(20)
    scale = row_scales(weight)
    for moments in (None, torch.zeros(20, 20), torch.full((20, 20), float("nan"))):
        assert torch.equal(round_weights(weight, scale, moments), whole(weight, scale).to(torch.int8))
    uncorrelated = round_weights(weight, scale, torch.eye(20))
    assert torch.equal(uncorrelated, whole(weight, scale).to(torch.int8))


def test_zeros_stay_zeros() -> None:
    weight, x = drawn()
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.8] = 0
    made = round_weights(weight, row_scales(weight), x.T @ x)
    assert not bool(made[weight == 0].any())
    assert int(made.abs().max()) <= 127


def test_neighbours_fit_though_errors_are_made_up_for() -> None:
    weight, x = drawn()
    weight, scale = weight.view(40, -1, 3, 2), row_scales(weight.view(40, -1, 3, 2)) / 1.5
    made = round_weights(weight, scale, x.T @ x)
    assert made.shape == weight.shape
    assert torch.equal(fitted(made.float()), made.float())
    assert not torch.equal(made.float(), whole(weight, scale))

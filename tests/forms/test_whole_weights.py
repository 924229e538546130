"""Weights in whole numbers: scales with the least error, and neighbours that 16 bits hold with any activations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lcnn_compress.forms.whole_weights import fitted, row_scales, side_by_side, whole

WINDOWS = [(8, 3, 3), (3, 7, 7), (5, 1, 3), (2, 1, 1), (1, 5, 5), (6,), (7,)]


def test_scales_of_rows_leave_the_least_error() -> None:
    rows = torch.randn(6, 200, generator=torch.Generator().manual_seed(0))
    rows[0, 0] = 60.0  # one large weight
    rows[5] = 0.0
    scales = row_scales(rows)

    def error(scale: torch.Tensor) -> torch.Tensor:
        return (whole(rows, scale) * scale[:, None] - rows).square().sum(1)

    plain = rows.abs().amax(1).clamp_min(1e-9) / 127
    assert bool((error(scales) <= error(plain) + 1e-9).all())
    assert float(scales[5]) == 1.0
    assert not bool(whole(rows, scales)[5].any())
    assert float(whole(rows, scales).abs().max()) <= 127


def adjacent(numbers: Tensor) -> Tensor:
    """Return how large weights (n, K, kH, kW) are together that lie side by side: pairs of an even K, else in a row."""
    rows = numbers.flatten(3) if numbers.ndim > 3 else numbers[:, :, None, None]
    in_files = rows.permute(0, 2, 3, 1)
    if numbers.shape[1] % 2 == 0:
        a, b = in_files[..., ::2], in_files[..., 1::2]
    else:
        flat = in_files.flatten(2)
        a, b = flat[..., :-1], flat[..., 1:]
    up, down = a.clamp(min=0) + b.clamp(min=0), a.clamp(max=0) + b.clamp(max=0)
    return torch.maximum(up, -down)


@pytest.mark.parametrize("window", WINDOWS)
def test_neighbours_fit_16_bits(window: tuple[int, ...]) -> None:
    drawn = torch.randn(40, *window, generator=torch.Generator().manual_seed(0))
    for scale in (row_scales(drawn), row_scales(drawn) / 3):
        made = whole(drawn, scale)
        assert float(made.abs().max()) <= 127
        if window[0] > 1:
            assert float(adjacent(made).max()) <= 128
            assert torch.equal(fitted(made), made)
    if window[0] > 1:
        assert float(adjacent(torch.randint(-127, 128, (40, *window)).float()).max()) > 128  # what the test can see


def test_only_neighbours_of_one_sign_are_made_smaller_and_both_alike() -> None:
    numbers = torch.tensor([[127.0, 127.0], [100.0, -100.0], [-90.0, -41.0], [64.0, 64.0], [127.0, 1.0]])
    expected = [[64.0, 64.0], [100.0, -100.0], [-88.0, -40.0], [64.0, 64.0], [127.0, 1.0]]
    assert fitted(numbers).tolist() == expected


def test_scales_pay_less_than_half_a_bit_for_it() -> None:
    rows = torch.randn(50, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    alone = rows.flatten(1).abs().amax(1) / 127
    assert float((row_scales(rows) / alone).mean()) < 2**0.5


@pytest.mark.parametrize("window", WINDOWS)
def test_no_weight_is_in_two_pairs_of_one_set(window: tuple[int, ...]) -> None:
    for left, right in side_by_side(window):
        both = torch.cat([left, right])
        assert len(both.unique()) == len(both)

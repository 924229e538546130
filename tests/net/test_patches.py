"""What a convolution reads for some output positions, against the convolution itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lcnn_compress.net.patches import patches, seeded_positions
from lcnn_compress.operators.geometry import ConvGeometry


@pytest.mark.parametrize(
    "geometry",
    [
        ConvGeometry((3, 3), padding=(1, 1, 1, 1)),
        ConvGeometry((2, 3), (2, 1), (0, 1, 2, 0), (1, 2), groups=2),
        ConvGeometry((1, 1), (3, 2)),
    ],
)
def test_products_with_patches_are_the_convolution(geometry: ConvGeometry) -> None:
    x, weight = torch.randn(3, 4, 11, 9), torch.randn(6, 4 // geometry.groups, *geometry.kernel)
    top, left, bottom, right = geometry.padding
    padded = functional.pad(x, (left, right, top, bottom))
    want = functional.conv2d(padded, weight, None, geometry.stride, 0, geometry.dilation, geometry.groups)
    rows, columns = seeded_positions(geometry.output_size(11, 9), 7)
    found = patches(padded, geometry, rows, columns)
    assert found.shape == (3, geometry.groups, 4 // geometry.groups, 7, geometry.taps)
    by_group = weight.unflatten(0, (geometry.groups, -1)).flatten(3)
    got = torch.einsum("gomt,ngmpt->ngop", by_group, found).flatten(1, 2)
    torch.testing.assert_close(got, want[:, :, rows, columns])


def test_positions_are_different_ones_and_the_same_for_a_seed() -> None:
    rows, columns = seeded_positions((5, 7), 30)
    assert len({(int(r), int(c)) for r, c in zip(rows, columns, strict=True)}) == 30
    assert int(rows.max()) < 5
    assert int(columns.max()) < 7
    assert torch.equal(rows, seeded_positions((5, 7), 30)[0])
    assert not torch.equal(rows, seeded_positions((5, 7), 30, seed=1)[0])
    assert len(seeded_positions((2, 3), 30)[0]) == 6

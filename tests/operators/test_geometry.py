"""Output sizes and MACs of convolutions, counted by hand."""

from __future__ import annotations

from lcnn_compress.operators.geometry import ConvGeometry, dense_macs, lookup_macs


def test_macs_are_counted_by_hand():
    geometry = ConvGeometry((3, 5), (2, 1), (1, 2, 1, 2))
    assert geometry.output_size(10, 7) == (5, 7)
    assert dense_macs(8, 6, geometry, (10, 7)) == 8 * 6 * 15 * 35
    assert lookup_macs(8, 4, 100, geometry, (10, 7)) == 4 * 8 * 70 + 100 * 35
    grouped = ConvGeometry((1, 1), groups=2)
    assert dense_macs(8, 6, grouped, (2, 2)) == 4 * 6 * 4
    assert lookup_macs(8, 3, 10, grouped, (2, 2)) == 2 * 3 * 4 * 4 + 10 * 4

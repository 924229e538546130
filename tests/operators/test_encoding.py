"""Positions of non-zeros survive the encoding, which is what the specification says."""

from __future__ import annotations

import numpy as np
import pytest

from lcnn_compress.operators.encoding import decode_positions, encode_positions


@pytest.mark.parametrize("density", [0.0, 0.001, 0.01, 0.3, 1.0])
def test_positions_survive_encoding(density):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((6, 50, 3, 3), np.float32) * (rng.random((6, 50, 3, 3)) < density)
    gaps, coefficients = encode_positions(kernel)
    assert gaps.dtype in (np.uint8, np.uint16)
    assert len(gaps) >= max(1, np.count_nonzero(kernel))
    np.testing.assert_array_equal(decode_positions(gaps, coefficients, kernel.shape), kernel)


def test_encoding_is_what_the_specification_says():
    kernel = np.zeros((1, 300, 1, 2), np.float32)  # flat position: tap * 300 + j
    kernel[0, 2, 0, 0], kernel[0, 299, 0, 1] = 1.5, -2.0  # positions 2 and 599
    gaps, coefficients = encode_positions(kernel)
    assert gaps.dtype == np.uint16  # 2 entries of 4 bytes beat 4 entries of 3
    assert gaps.tolist() == [2, 597]
    assert coefficients.tolist() == [1.5, -2.0]
    near = np.zeros((1, 300, 1, 1), np.float32)
    near[0, [0, 256]] = 1.0  # one bridge of 255 would cost 3 * 3 bytes, uint16 costs 2 * 4
    assert encode_positions(near)[0].tolist() == [0, 256]
    many = np.zeros((1, 300, 1, 1), np.float32)
    many[0, [*range(20), 299, 290]] = 1.0  # 23 entries of 3 bytes beat 22 of 4
    gaps, coefficients = encode_positions(many)
    assert gaps.dtype == np.uint8
    assert gaps.tolist()[20:] == [255, 16, 9]
    assert coefficients.tolist()[20:] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("gaps", "values", "kind"),
    [
        ([5], [1.0], np.uint8), ([1, 0], [1.0, 1.0], np.uint8), ([1], [1.0, 2.0], np.uint8), ([65535], [1.0], np.uint16),
        ([1, -1], [1.0, 1.0], np.int8), ([0, -4], [1.0, 1.0], np.int64), ([np.nan], [1.0], np.float32),
        ([[1], [1]], [[1.0], [1.0]], np.uint8), (1, 1.0, np.uint8), ([1], [[1.0]], np.uint8),
    ],
)  # fmt: skip
def test_decoding_refuses_what_does_not_fit(gaps, values, kind):
    with pytest.raises(ValueError, match="gaps"):
        decode_positions(np.array(gaps, kind), np.array(values, np.float32), (1, 5, 1, 1))


@pytest.mark.parametrize(
    "shape", [(1, 5, 1, -1), (-1, -5, 1, 1), (1, 5, 1, True), (1, 5.0, 1, 1), ("1", 5, 1, 1), (1, 2**62, 1, 1), (2**16,) * 4]
)
def test_decoding_refuses_sizes_that_no_kernel_has(shape):
    with pytest.raises(ValueError, match=r"the kernel is .* it must be sizes of at most 1073741824 values in all"):
        decode_positions(np.array([1], np.uint8), np.array([1.0], np.float32), shape)

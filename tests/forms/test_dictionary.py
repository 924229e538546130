"""factorise: sizes, exact cases, errors that fall with k and s, OMP against a loop of least squares, and determinism."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from patterns import patterns_in_common

from lcnn_compress.errors import ModelError, SettingsError
from lcnn_compress.forms.dictionary import BLOCK_BYTES, IDENTITY, INITS, SLICES_PER_CENTRE, code_slices, factorise

EPS32 = float(np.finfo(np.float32).eps)


def random_weight(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Slices with a decaying spectrum, as trained nets have."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(shape[1], shape[1])) * np.linspace(1, 0.1, shape[1])
    return np.einsum("omrc,mn->onrc", rng.normal(size=shape), mixing).astype(np.float32)


def rebuilt(dictionary: NDArray[np.float32], kernel: NDArray[np.float32], groups: int) -> NDArray[np.float64]:
    out_channels, k, *taps = kernel.shape
    blocks = dictionary.reshape(groups, k, -1).astype(np.float64)
    parts = kernel.reshape(groups, out_channels // groups, k, *taps).astype(np.float64)
    return np.einsum("gokrc,gkm->gomrc", parts, blocks).reshape(out_channels, -1, *taps)


def error(weight: NDArray[np.float32], *, groups: int = 1, k: int, lookups: float, init: str, seed: int = 0) -> float:
    dictionary, kernel = factorise(weight, groups=groups, dictionary_size=k, lookups=lookups, init=init, seed=seed)
    return float(np.linalg.norm(rebuilt(dictionary, kernel, groups) - weight) / np.linalg.norm(weight))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((6, 8, 3, 3), 1), ((6, 4, 3, 3), 2), ((5, 7, 1, 3), 1), ((4, 3, 5, 2), 4), ((10, 40, 1, 1), 1)],
    ids=["plain", "groups", "wide", "grouped-non-square", "linear-fewer-filters-than-inputs"],
)
def test_sizes_unit_rows_and_lookups(init: str, shape: tuple[int, int, int, int], groups: int) -> None:
    dictionary, kernel = factorise(random_weight(*shape), groups=groups, dictionary_size=3, lookups=2, init=init, seed=0)
    assert dictionary.shape == (groups * 3, shape[1])
    assert kernel.shape == (shape[0], 3, shape[2], shape[3])
    assert dictionary.dtype == kernel.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=1), 1, atol=shape[1] * EPS32)
    n_positions = shape[0] * shape[2] * shape[3]
    assert 0 < np.count_nonzero(kernel) <= 2 * n_positions
    if init == "svd":
        assert np.count_nonzero(kernel) == 2 * n_positions
    else:
        assert np.count_nonzero(kernel, axis=1).max() == 2


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("groups", [1, 2])
def test_slices_in_a_small_space_are_recovered_when_every_row_may_be_used(init: str, groups: int) -> None:
    rng = np.random.default_rng(1)
    # Slices of each group lie in a space of 2 dimensions, and so do their means, the k-means centres: k = 4 rows span it.
    weight = np.concatenate(
        [np.einsum("okrc,km->omrc", rng.normal(size=(6, 2, 3, 3)), rng.normal(size=(2, 9))) for _ in range(groups)]
    ).astype(np.float32)
    # Rounding of rows, coefficients and the weight itself, each half an eps; coefficients stay below 100 here.
    assert error(weight, groups=groups, k=4, lookups=4, init=init) < 100 * EPS32


def test_an_identity_keeps_the_largest_entries_of_the_weight() -> None:
    weight = np.array([[[[5.0, -1.0]], [[0.5, 4.0]]], [[[-3.0, 0.25]], [[2.0, 0.0]]]], np.float32)  # (2, 2, 1, 2)
    kept = np.where(np.abs(weight) >= 2, weight, 0)
    for lookups in (1, 0.5):  # of 4 positions of 2 entries each: 4 entries in all
        dictionary, kernel = factorise(weight, groups=1, dictionary_size=2, lookups=lookups, init=IDENTITY, seed=0)
        np.testing.assert_array_equal(dictionary, np.eye(2))
        np.testing.assert_array_equal(kernel, kept)
    grouped, kernel = factorise(weight, groups=2, dictionary_size=2, lookups=2, init=IDENTITY, seed=0)
    np.testing.assert_array_equal(grouped, np.tile(np.eye(2), (2, 1)))
    np.testing.assert_array_equal(kernel, weight)
    with pytest.raises(SettingsError, match="dictionary_size is 3; an identity of vectors of 2 channels has 2 rows"):
        factorise(weight, groups=1, dictionary_size=3, lookups=1, init=IDENTITY, seed=0)


def test_centres_of_very_many_slices_are_those_of_a_sample() -> None:
    # Slices are copies of 3 vectors with a little noise: any sample holds them, so that the centres stay theirs.
    rng = np.random.default_rng(0)
    n_slices = 3 * 2 * SLICES_PER_CENTRE
    kinds = rng.normal(size=(3, 4))
    weight = (np.tile(kinds, (n_slices // 3, 1)) + 1e-4 * rng.normal(size=(n_slices, 4)))[:, :, None, None].astype(np.float32)
    dictionary, _ = factorise(weight, groups=1, dictionary_size=3, lookups=1, init="kmeans", seed=0)
    found = np.abs(dictionary @ (kinds / np.linalg.norm(kinds, axis=1, keepdims=True)).T).max(axis=0)
    assert (found > 1 - 1e-6).all()  # cosines; the noise turns a centre by less than 1e-3


def test_svd_with_all_rows_is_the_weight() -> None:
    weight = random_weight(6, 8, 3, 3)
    dictionary, kernel = factorise(weight, groups=1, dictionary_size=8, lookups=0.9999, init="svd", seed=0)
    assert np.count_nonzero(kernel) == round(0.9999 * 8 * 54)
    dictionary, kernel = factorise(weight, groups=1, dictionary_size=8, lookups=8, init="svd", seed=0)
    # 8 products, each with the rounding of a row and of a coefficient; |P| <= slice length because rows are orthonormal.
    bound = 8 * 2 * EPS32 * np.linalg.norm(weight, axis=1, keepdims=True)
    assert (np.abs(rebuilt(dictionary, kernel, 1) - weight) <= bound).all()


def test_svd_density_counts_over_the_whole_layer() -> None:
    weight = random_weight(6, 4, 3, 3)
    _, kernel = factorise(weight, groups=2, dictionary_size=4, lookups=0.31, init="svd", seed=0)
    assert np.count_nonzero(kernel) == round(0.31 * 4 * 6 * 9)


def test_svd_keeps_the_largest_products() -> None:
    weight = random_weight(6, 8, 3, 3)
    _, full = factorise(weight, groups=1, dictionary_size=5, lookups=5, init="svd", seed=0)
    _, kept = factorise(weight, groups=1, dictionary_size=5, lookups=2, init="svd", seed=0)
    alive = kept != 0
    np.testing.assert_array_equal(kept[alive], full[alive])
    assert np.abs(full[alive]).min() >= np.abs(full[~alive]).max()


@pytest.mark.parametrize("init", ["kmeans", "ksvd"])
def test_density_is_rounded_for_each_position_and_never_below_one(init: str) -> None:
    weight = random_weight(6, 8, 3, 3)
    for density, expected in [(0.5, 3), (0.01, 1)]:
        _, kernel = factorise(weight, groups=1, dictionary_size=6, lookups=density, init=init, seed=0)
        assert np.count_nonzero(kernel, axis=1).max() == expected


@pytest.mark.parametrize("init", INITS)
def test_error_falls_with_dictionary_size_and_lookups(init: str) -> None:
    weight = random_weight(16, 12, 3, 3)
    by_size = [error(weight, k=k, lookups=k, init=init) for k in (2, 5, 12)]
    assert by_size == sorted(by_size, reverse=True)
    assert by_size[2] < 1e-5 < by_size[1] < by_size[0] < 1
    by_lookups = [error(weight, k=12, lookups=s, init=init) for s in (1, 3, 8)]
    assert by_lookups[0] > by_lookups[1] > by_lookups[2] > 0


@pytest.mark.parametrize("lookups", [1, 2, 4])
def test_ksvd_is_no_worse_than_its_start(lookups: int) -> None:
    weight = random_weight(16, 12, 3, 3)
    start, improved = (error(weight, k=8, lookups=lookups, init=init) for init in ("kmeans", "ksvd"))
    assert improved < start


def reference_omp(vector: NDArray[np.float64], dictionary: NDArray[np.float64], n_lookups: int) -> NDArray[np.float64]:
    """Choose the best atom, solve least squares on the chosen ones, repeat."""
    chosen: list[int] = []
    residual = vector
    coefficients = np.zeros(0)
    for _ in range(n_lookups):
        chosen.append(int(np.abs(dictionary @ residual).argmax()))
        coefficients = np.linalg.lstsq(dictionary[chosen].T, vector, rcond=None)[0]
        residual = vector - coefficients @ dictionary[chosen]
    code = np.zeros(len(dictionary))
    code[chosen] = coefficients
    return code


@pytest.mark.parametrize(("n", "m", "k", "s"), [(50, 16, 12, 4), (50, 16, 40, 7), (7, 30, 9, 8), (1, 3, 2, 1)])
def test_omp_equals_a_loop_of_least_squares(n: int, m: int, k: int, s: int) -> None:
    rng = np.random.default_rng(n + m)
    dictionary = rng.normal(size=(k, m))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    slices = rng.normal(size=(n, m))
    expected = np.stack([reference_omp(v, dictionary, s) for v in slices])
    # float64 with conditions below 1e4 on these supports
    np.testing.assert_allclose(code_slices(slices, dictionary, n_lookups=s), expected, atol=1e-10)


def test_omp_does_not_depend_on_the_block() -> None:
    rng = np.random.default_rng(0)
    slices, dictionary = rng.normal(size=(6000, 8)), rng.normal(size=(600, 8))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    assert len(slices) > BLOCK_BYTES // (8 * (3**2 + 4 * 600)) > 1500  # slices of a block: what follows is 2 blocks, then 4
    whole = code_slices(slices, dictionary, n_lookups=3)
    parts = [code_slices(part, dictionary, n_lookups=3) for part in np.split(slices, 4)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=EPS32)


def test_omp_with_nearly_parallel_duplicate_and_too_many_atoms() -> None:
    rng = np.random.default_rng(3)
    atoms = rng.normal(size=(3, 5))
    dictionary = np.concatenate([atoms, atoms, atoms + 1e-6 * rng.normal(size=(3, 5))])
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    slices = rng.normal(size=(20, 5))
    codes = code_slices(slices, dictionary, n_lookups=7)
    assert np.isfinite(codes).all()
    residual = slices - codes @ dictionary
    best = slices - slices @ np.linalg.pinv(dictionary[:3]) @ dictionary[:3]
    # An atom chosen in place of its twin, 1e-6 away, changes the residual by 1e-6 times its coefficient, which is below 10.
    assert (np.linalg.norm(residual, axis=1) <= np.linalg.norm(best, axis=1) + 1e-5).all()


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("lookups", [1, 3, 6, 0.3])
def test_zero_weight_stays_zero(init: str, lookups: float) -> None:
    dictionary, kernel = factorise(
        np.zeros((3, 4, 3, 3), np.float32), groups=1, dictionary_size=6, lookups=lookups, init=init, seed=0
    )
    np.testing.assert_array_equal(kernel, 0)
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=1), 1)


@pytest.mark.parametrize("init", INITS)
def test_few_distinct_slices(init: str) -> None:
    weight = np.zeros((4, 5, 3, 3), np.float32)
    weight[0, 1], weight[1, 2:4], weight[2, 0] = 2.0, -0.5, 1e-20
    assert error(weight, k=8, lookups=2, init=init) < 10 * EPS32


@pytest.mark.parametrize("init", INITS)
def test_one_input_channel_and_one_filter(init: str) -> None:
    weight = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    assert error(weight, k=1, lookups=1, init=init) < 4 * EPS32
    assert error(weight, k=3, lookups=1, init=init) < 4 * EPS32


PRINT_BYTES = """
import hashlib, numpy as np
from lcnn_compress.forms.dictionary import INITS, factorise
weight = np.random.default_rng(0).normal(size=(96, 80, 3, 3)).astype(np.float32)
for init in INITS:
    pair = factorise(weight, groups=1, dictionary_size=40, lookups=5, init=init, seed=1)
    print(init, hashlib.sha256(b"".join(a.tobytes() for a in pair)).hexdigest())
"""


def test_bytes_depend_neither_on_threads_nor_on_the_processor() -> None:
    # OpenBLAS takes the kernels of the processor it is told (a name it does not know here changes nothing).
    settings: list[dict[str, str]] = [
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        {"OPENBLAS_CORETYPE": "Haswell"},
    ]
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PRINT_BYTES], env=os.environ | chosen, capture_output=True, text=True, check=True
        ).stdout
        for chosen in settings
    ]
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].count("\n") == len(INITS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "pca"}, r"init is 'pca'.*kmeans, svd, ksvd"),
        ({"dictionary_size": 0}, "dictionary_size is 0; it must be 1 or more"),
        ({"lookups": 0}, "lookups is 0; it must be a number above 0"),
        ({"lookups": -0.5}, "lookups is -0.5"),
        ({"lookups": float("nan")}, "lookups is nan"),
        ({"lookups": 1.5}, "lookups is 1.5; from 1 up it counts entries"),
        ({"lookups": 5}, "lookups is 5, but dictionary_size is 4; lower lookups to 4"),
    ],
)
def test_settings_out_of_range(change: dict[str, object], message: str) -> None:
    settings = {"groups": 1, "dictionary_size": 4, "lookups": 2, "init": "svd", "seed": 0} | change
    with pytest.raises(SettingsError, match=message):
        factorise(random_weight(3, 4, 3, 3), **settings)  # type: ignore[arg-type]


def test_non_finite_weight() -> None:
    weight = random_weight(3, 4, 3, 3)
    weight[0, 0, 0, :2] = np.nan, np.inf
    with pytest.raises(ModelError, match=r"shape \(3, 4, 3, 3\) holds 2 values that are not finite"):
        factorise(weight, groups=1, dictionary_size=2, lookups=1, init="svd", seed=0)


def white_weight(out_channels=24, m=16, seed=0):
    return np.random.default_rng(seed).standard_normal((out_channels, m, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("init", ["kmeans", "ksvd", "svd", "identity"])
@pytest.mark.parametrize(("out_channels", "groups", "share"), [(24, 1, 4), (22, 1, 8), (20, 2, 4), (24, 1, 2)])
def test_filters_share_rows_and_as_many_as_asked_for(init, out_channels, groups, share):
    size = 16 if init == "identity" else 8
    dictionary, kernel = factorise(
        white_weight(out_channels),
        groups=groups,
        dictionary_size=size,
        lookups=0.25,
        init=init,
        seed=0,
        filters_per_pattern=share,
    )
    assert dictionary.shape == (groups * size, 16)
    assert patterns_in_common(kernel != 0, share, groups)
    asked = 0.25 * kernel.size
    filled_up = groups * size * 9 * (-(out_channels // groups) % share)  # places in filters of zeros, at most all taken
    assert asked - filled_up - share <= (kernel != 0).sum() <= asked + share


@pytest.mark.parametrize("init", ["kmeans", "svd"])
def test_one_common_pattern_costs_accuracy(init):
    def error(w, share):
        dictionary, kernel = factorise(
            w, groups=1, dictionary_size=8, lookups=0.25, init=init, seed=0, filters_per_pattern=share
        )
        return float(((np.einsum("okrc,km->omrc", kernel, dictionary) - w) ** 2).sum())

    assert error(white_weight(), 1) < error(white_weight(), 2) < error(white_weight(), 8)


def test_equal_slices_are_coded_as_each_alone():
    rng = np.random.default_rng(0)
    slices, rows = rng.standard_normal((5, 16)), rng.standard_normal((8, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alone = code_slices(slices, rows, n_lookups=3)
    np.testing.assert_allclose(
        code_slices(slices.repeat(4, axis=0), rows, n_lookups=3, filters_per_pattern=4), alone.repeat(4, axis=0)
    )

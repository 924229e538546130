"""Choose the dictionary and the sparse kernel of a lookup convolution from a trained weight.

Every filter position of a dense weight is a channel vector, a slice W[o, :, r, c]; the slices of a group are written as sparse
combinations of its k dictionary rows (Bagherinezhad et al., "LCNN", CVPR 2017, arXiv 1611.06473, section 3.1). The paper trains
both from random values; here they start from the slices:

* ``svd``: rows are the top right singular vectors; slices are multiplied by them, and a layer's largest products are kept.
* ``kmeans``: rows are cluster centres; each slice is coded by orthogonal matching pursuit (OMP).
* ``ksvd``: the k-means start, then dictionary least squares and OMP in turns (MOD, Engan et al. 1999).
* ``identity``: rows are the channels themselves; a layer's largest entries of the weight are kept (plain pruning).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, qr
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lcnn_compress.errors import ModelError, SettingsError

INITS = ("kmeans", "svd", "ksvd")
# The identity is not a start to choose: it fixes k, and the dictionary stays what it is.
IDENTITY = "identity"

KMEANS_STARTS = 2
# K-means takes a sample of so many slices per centre: more of them move a centre little (the rule of faiss's k-means).
SLICES_PER_CENTRE = 256
KMEANS_ITERATIONS = 50
KSVD_ROUNDS = 6
DRAFT_ROUNDS = 6
DRAFT_SLICES = 1024
# OMP takes slices in blocks, each of which needs about this much work space.
BLOCK_BYTES = 64 << 20
# A slice is done when its best atom correlates with the residual by less than this share of the slice's length.
SMALLEST_CORRELATION = 1e-11
# An atom whose part outside the span of the chosen ones has less than this squared length is a duplicate of them.
SMALLEST_NEW_PART = 1e-10

Array = NDArray[np.float64]
F = TypeVar("F", np.float32, np.float64)


def factorise(
    weight: NDArray[np.float32],
    *,
    groups: int,
    dictionary_size: int,
    lookups: float,
    init: str,
    seed: int,
    filters_per_pattern: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Approximate a convolution weight by a dictionary and a sparse kernel.

    Arithmetic is float64 on one thread and equal scores go to the lower index, so on one machine with one set of libraries
    the bytes do not depend on the number of threads. Another BLAS may round differently in the last bit of float64, which
    the final rounding to float32 nearly always, but not provably, hides.

    Args:
        weight: (C_out, C_in / groups, kH, kW).
        dictionary_size: k, the number of rows for each group, which may exceed C_in / groups.
        lookups: from 1 on a whole number of non-zeros for each filter position, below 1 a share of k. ``svd`` and
            ``identity`` meet the number on average over the layer, the others at every position (at least 1).
        init: one of ``INITS``, or ``identity`` with k = C_in / groups.
        seed: decides the k-means start.
        filters_per_pattern: how many neighbouring filters look the same rows up at a position; one choice serves them all.

    Returns:
        Dictionary (groups * k, C_in / groups) with rows of unit length, and sparse kernel (C_out, k, kH, kW). Rows that no
        filter uses are unit vectors. Where fewer non-zeros than asked for are exact, fewer remain.

    Raises:
        SettingsError: unknown init, or dictionary_size or lookups out of range.
        ModelError: the weight holds NaN or infinity.
    """
    _check(dictionary_size, lookups, init, weight.shape[1])
    if not np.isfinite(weight).all():
        count = int((~np.isfinite(weight)).sum())
        raise ModelError(f"weight of shape {weight.shape} holds {count} values that are not finite; the checkpoint is damaged")
    out_channels, m, height, width = weight.shape
    # (groups, slices of the group, m)
    slices = _in_blocks(
        weight.reshape(groups, -1, m, height * width).transpose(0, 1, 3, 2).astype(np.float64), filters_per_pattern
    )
    per_slice = lookups if lookups >= 1 else lookups * dictionary_size
    with threadpool_limits(1):
        if init == "svd":
            dictionary, codes = _singular_codes(slices, dictionary_size)
            _keep_largest(codes, per_slice * out_channels * height * width, filters_per_pattern)
        elif init == IDENTITY:
            dictionary, codes = np.stack([np.eye(m)] * groups), slices.copy()
            _keep_largest(codes, per_slice * out_channels * height * width, filters_per_pattern)
        else:
            n_lookups = max(1, round(per_slice))
            rounds = KSVD_ROUNDS if init == "ksvd" else 0
            parts = [_kmeans_coded(block, dictionary_size, n_lookups, seed, rounds, filters_per_pattern) for block in slices]
            dictionary, codes = (np.stack(part) for part in zip(*parts, strict=True))
    codes = codes.reshape(groups, -1, height * width, filters_per_pattern, dictionary_size).swapaxes(2, 3)
    codes = codes.reshape(groups, -1, height, width, dictionary_size)[:, : out_channels // groups]
    kernel = codes.reshape(out_channels, height, width, dictionary_size).transpose(0, 3, 1, 2)
    return dictionary.reshape(-1, m).astype(np.float32), np.ascontiguousarray(kernel, dtype=np.float32)


def _in_blocks(slices: NDArray[F], filters_per_pattern: int) -> NDArray[F]:
    """Reorder (groups, filters, positions, m) to (groups, n, m), so that filters which share a pattern lie side by side.

    Each block of ``filters_per_pattern`` rows belongs to neighbouring filters at one position; zeros fill the last one up.
    """
    slices = np.pad(slices, ((0, 0), (0, -slices.shape[1] % filters_per_pattern), (0, 0), (0, 0)))
    groups, filters, positions, m = slices.shape
    blocks = slices.reshape(groups, filters // filters_per_pattern, filters_per_pattern, positions, m).swapaxes(2, 3)
    return np.ascontiguousarray(blocks).reshape(groups, -1, m)


def _check(dictionary_size: int, lookups: float, init: str, m: int) -> None:
    if init not in (*INITS, IDENTITY):
        raise SettingsError(f"init is {init!r}, which is unknown; use one of {', '.join(INITS)}")
    if init == IDENTITY and dictionary_size != m:
        raise SettingsError(f"dictionary_size is {dictionary_size}; an identity of vectors of {m} channels has {m} rows")
    if dictionary_size < 1:
        raise SettingsError(f"dictionary_size is {dictionary_size}; it must be 1 or more")
    if not (math.isfinite(lookups) and lookups > 0):
        raise SettingsError(f"lookups is {lookups}; it must be a number above 0")
    if lookups >= 1 and lookups != int(lookups):
        raise SettingsError(f"lookups is {lookups}; from 1 up it counts entries and must be whole, below 1 it is a density")
    if lookups > dictionary_size:
        raise SettingsError(
            f"lookups is {lookups:g}, but dictionary_size is {dictionary_size}; "
            f"lower lookups to {dictionary_size} or raise dictionary_size"
        )


def _singular_codes(slices: Array, size: int) -> tuple[Array, Array]:
    dictionary = np.stack([_singular_rows(block, size) for block in slices])
    codes = slices @ dictionary.transpose(0, 2, 1)  # (groups, slices, k)
    used = min(size, slices.shape[2])
    codes[:, :, used:] = 0  # an orthonormal basis ends here: further rows are not used
    return dictionary, codes


def _keep_largest(codes: Array, count: float, filters_per_pattern: int) -> None:
    """Set all but about ``count`` codes, the largest, to zero in the contiguous array (groups, slices, k).

    Codes of each ``filters_per_pattern`` slices with one row stay or go together.
    """
    blocks = codes.reshape(-1, filters_per_pattern, codes.shape[2])
    scores = -np.square(blocks).sum(axis=1).reshape(-1) if filters_per_pattern > 1 else -np.abs(codes.reshape(-1))
    dropped = np.argsort(scores, kind="stable")[round(count / filters_per_pattern) :]
    blocks[dropped // codes.shape[2], :, dropped % codes.shape[2]] = 0


def draft_errors(
    weight: NDArray[np.float32], *, groups: int, dictionary_size: int, lookups: Sequence[int], seed: int, shares: Sequence[int]
) -> dict[tuple[int, int], float]:
    """Estimate how far a weight is from its coding by k-means or K-SVD, for several numbers of lookups per position.

    A few rounds of K-SVD with one lookup make a dictionary, and OMP codes a sample of slices in it: this takes seconds where
    ``factorise`` takes minutes. The estimate lies between the errors of ``kmeans`` and ``ksvd``, or a little higher.

    Args:
        weight: (C_out, C_in / groups, kH, kW).
        dictionary_size: k of each group.
        lookups: the numbers of lookups per position.
        shares: the numbers of neighbouring filters with one pattern.

    Returns:
        |W - PD|^2 / |W|^2 for each pair of a share and a number of lookups.
    """
    blocks = weight.reshape(groups, -1, weight.shape[1], weight.shape[2] * weight.shape[3]).transpose(0, 1, 3, 2)
    errors = dict.fromkeys(itertools.product(shares, lookups), 0.0)
    norms = dict.fromkeys(shares, 0.0)
    for block in blocks.reshape(groups, -1, weight.shape[1]):
        dictionary = _draft(np.ascontiguousarray(block), dictionary_size, np.random.default_rng(seed))
        for filters_per_pattern in shares:
            in_blocks = _in_blocks(
                block.reshape(1, -1, weight.shape[2] * weight.shape[3], weight.shape[1]), filters_per_pattern
            )
            in_blocks = in_blocks.reshape(-1, filters_per_pattern, weight.shape[1])
            chosen = np.sort(
                np.random.default_rng(seed).permutation(len(in_blocks))[: max(1, DRAFT_SLICES // filters_per_pattern)]
            )
            sample = in_blocks[chosen].reshape(-1, weight.shape[1]).astype(np.float64)
            for count in lookups:
                codes = code_slices(sample, dictionary, n_lookups=count, filters_per_pattern=filters_per_pattern)
                errors[filters_per_pattern, count] += _squared_error(sample, dictionary, codes)
            norms[filters_per_pattern] += float((sample**2).sum())
    return {
        (filters_per_pattern, count): float(error) / (norms[filters_per_pattern] or 1.0)
        for (filters_per_pattern, count), error in errors.items()
    }


def draft(
    weight: NDArray[np.float32], *, groups: int, dictionary_size: int, lookups: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return dictionary and sparse kernel as ``factorise`` does, coded in the quick dictionary of ``draft_errors``."""
    out_channels, m, height, width = weight.shape
    blocks = weight.reshape(groups, -1, m, height * width).transpose(0, 1, 3, 2).reshape(groups, -1, m)
    pairs = []
    for block in blocks:
        dictionary = _draft(np.ascontiguousarray(block), dictionary_size, np.random.default_rng(seed))
        pairs.append((dictionary, code_slices(block.astype(np.float64), dictionary, n_lookups=lookups)))
    dictionaries, codes = (np.stack(part) for part in zip(*pairs, strict=True))
    kernel = codes.reshape(out_channels, height, width, dictionary_size).transpose(0, 3, 1, 2)
    return dictionaries.reshape(-1, m).astype(np.float32), np.ascontiguousarray(kernel, dtype=np.float32)


def _draft(slices: NDArray[np.float32], size: int, rng: np.random.Generator) -> Array:
    """Return k rows of unit length for (n, m) slices: K-SVD with one lookup, a few rounds in float32."""
    rows = slices[rng.permutation(len(slices))[:size]]
    rows = np.concatenate([rows, _unit_rows(len(rows), size, slices.shape[1]).astype(np.float32)])
    for _ in range(DRAFT_ROUNDS):
        rows = _normalised(rows.astype(np.float64)).astype(np.float32)
        products = slices @ rows.T  # (n, k)
        best = np.abs(products).argmax(axis=1)
        order = np.argsort(best, kind="stable")
        used, starts = np.unique(best[order], return_index=True)
        scaled = slices[order] * products[order, best[order]][:, None]
        rows[used] = np.add.reduceat(scaled, starts, axis=0)
    return _normalised(rows.astype(np.float64))


def _singular_rows(slices: Array, size: int) -> Array:
    """Return the top right singular vectors (k, m) of (n, m) slices, largest component positive, padded with unit vectors."""
    n, m = slices.shape
    # Squaring loses singular values below 1e-8 of the largest; float32 weights do not hold them either.
    gram = slices.T @ slices if m <= n else slices @ slices.T
    side = len(gram)
    count = min(size, side)
    vectors = eigh(gram, subset_by_index=(side - count, side - 1))[1][:, ::-1]
    rows = vectors.T if m <= n else qr(slices.T @ vectors, mode="economic")[0].T
    largest = np.abs(rows).argmax(axis=1)
    rows = rows * np.where(rows[np.arange(count), largest] < 0, -1.0, 1.0)[:, None]
    return np.concatenate([rows, _unit_rows(count, size, m)])


def _unit_rows(first: int, last: int, m: int) -> Array:
    rows: Array = np.eye(m)[np.arange(first, last) % m]
    return rows


def _kmeans_coded(
    slices: Array, size: int, n_lookups: int, seed: int, rounds: int, filters_per_pattern: int
) -> tuple[Array, Array]:
    """Code the (n, m) slices of one group in k-means centres, improved by ``rounds`` of dictionary least squares."""
    dictionary = _normalised(_centres(slices, size, seed))
    codes = code_slices(slices, dictionary, n_lookups=n_lookups, filters_per_pattern=filters_per_pattern)
    best = _squared_error(slices, dictionary, codes)
    trial, trial_codes = dictionary, codes
    for _ in range(rounds):
        trial = _refitted(slices, trial, trial_codes)
        trial_codes = code_slices(slices, trial, n_lookups=n_lookups, filters_per_pattern=filters_per_pattern)
        error = _squared_error(slices, trial, trial_codes)
        if error < best:
            dictionary, codes, best = trial, trial_codes, error
    return dictionary, codes


def _squared_error(slices: Array, dictionary: Array, codes: Array) -> float:
    return float(((slices - codes @ dictionary) ** 2).sum())


def _centres(slices: Array, size: int, seed: int) -> Array:
    distinct = np.unique(slices, axis=0)
    if len(distinct) <= size:
        return np.concatenate([distinct, _unit_rows(len(distinct), size, slices.shape[1])])
    if len(slices) > SLICES_PER_CENTRE * size:
        slices = slices[np.sort(np.random.default_rng(seed).choice(len(slices), SLICES_PER_CENTRE * size, replace=False))]
    model = KMeans(size, n_init=KMEANS_STARTS, max_iter=KMEANS_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # slices may differ by rounding only
        centres: Array = model.fit(slices).cluster_centers_
    return centres


def _normalised(rows: Array) -> Array:
    """Scale rows to unit length; rows of zeros become unit vectors."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    # No slice is shorter than a float32 can be, so this only catches zeros and their rounding.
    zero = length[:, 0] < np.finfo(np.float32).tiny
    rows = rows / np.where(zero[:, None], 1, length)
    rows[zero] = np.eye(rows.shape[1])[np.flatnonzero(zero) % rows.shape[1]]
    return rows


def _refitted(slices: Array, dictionary: Array, codes: Array) -> Array:
    """Return the least-squares dictionary for fixed codes; unused rows restart from the slices that are coded worst."""
    gram = codes.T @ codes
    used = np.diag(gram) > 0
    fitted = dictionary.copy()
    if used.any():
        fitted[used] = np.linalg.lstsq(gram[np.ix_(used, used)], codes[:, used].T @ slices, rcond=None)[0]
    misses = ((slices - codes @ fitted) ** 2).sum(axis=1)
    worst = np.argsort(-misses, kind="stable")[: int((~used).sum())]
    spare = np.flatnonzero(~used)[: len(worst)]
    fitted[spare] = slices[worst]
    return _normalised(fitted)


def code_slices(slices: Array, dictionary: Array, *, n_lookups: int, filters_per_pattern: int = 1) -> Array:
    """Write each slice as a least-squares combination of at most ``n_lookups`` dictionary rows, chosen by OMP.

    Each ``filters_per_pattern`` slices get the same rows, those with the largest correlations in the root mean square
    (simultaneous OMP, Tropp et al. 2006).

    Args:
        slices: (n, m).
        dictionary: (k, m), rows of unit length.
        n_lookups: non-zeros allowed for each slice.
        filters_per_pattern: how many slices get the same rows, a divisor of n.

    Returns:
        (n, k) with at most n_lookups non-zeros in each row; zero slices have none.
    """
    size = len(dictionary)
    if n_lookups >= size:
        return np.asarray(slices @ np.linalg.pinv(dictionary, rcond=SMALLEST_NEW_PART))
    gram = dictionary @ dictionary.T
    codes = np.empty((len(slices), size))
    block = filters_per_pattern * max(1, BLOCK_BYTES // (8 * filters_per_pattern * (n_lookups**2 + 4 * size)))
    for start in range(0, len(slices), block):
        part = slices[start : start + block]
        codes[start : start + block] = _pursue(
            part @ dictionary.T, np.linalg.norm(part, axis=1), gram, n_lookups, filters_per_pattern
        )
    return codes


def _pursue(products: Array, lengths: Array, gram: Array, n_lookups: int, filters_per_pattern: int) -> Array:
    """Run batch OMP (Rubinstein et al. 2008) on all slices of a block at once; it needs only their products with the atoms.

    ``basis[b, t]`` holds the t-th Gram-Schmidt vector of slice b as coefficients of its chosen atoms, so the residual's
    products change by one (n, k) x (k, k) gemm for each step. Finished slices add zero vectors.

    Args:
        products: (n, k), slices times atoms.
        lengths: (n), lengths of the slices.
        gram: (k, k), atoms times atoms.
    """
    n, size = products.shape
    rows = np.arange(n)
    chosen = np.zeros((n, n_lookups), np.int64)
    basis = np.zeros((n, n_lookups, n_lookups))
    along = np.zeros((n, n_lookups))  # slice times basis vector
    left = products.copy()  # residual times atoms
    lengths = _together(lengths[:, None], filters_per_pattern)[:, 0]
    live = lengths > 0
    n_steps = 0
    taken = np.zeros((n, size), bool)
    for t in range(n_lookups):
        scores = np.where(taken, -1.0, _together(np.abs(left), filters_per_pattern))
        atom = scores.argmax(axis=1)  # the first of equal scores wins
        before, earlier = basis[:, :t, :t], chosen[:, :t]
        inside = (before @ gram[earlier, atom[:, None]][:, :, None])[:, :, 0]
        new_part = 1 - (inside**2).sum(axis=1)
        live &= (scores[rows, atom] > SMALLEST_CORRELATION * lengths) & (new_part > SMALLEST_NEW_PART)
        if not live.any():
            break
        scale = np.where(live, 1 / np.sqrt(np.where(live, new_part, 1)), 0)
        chosen[:, t] = atom
        basis[:, t, :t] = (inside[:, None] @ before)[:, 0] * -scale[:, None]
        basis[:, t, t] = scale
        taken[rows[live], atom[live]] = True
        along[:, t] = left[rows, atom] * scale
        left -= _scattered(basis[:, t] * along[:, t, None], chosen, t + 1, size) @ gram
        n_steps = t + 1
    codes = _scattered((along[:, None] @ basis)[:, 0], chosen, n_steps, size)
    # One refinement of the least squares removes what Gram-Schmidt lost on nearly parallel atoms.
    missed = np.take_along_axis(products - codes @ gram, chosen, axis=1)
    correction = basis.transpose(0, 2, 1) @ (basis @ missed[:, :, None])
    return codes + _scattered(correction[:, :, 0], chosen, n_steps, size)


def _together(values: Array, filters_per_pattern: int) -> Array:
    """Return (n, ...) values of 0 and more with each ``filters_per_pattern`` rows replaced by their root mean square."""
    if filters_per_pattern == 1:
        return values
    means = np.sqrt(np.square(values).reshape(-1, filters_per_pattern, values.shape[1]).mean(axis=1))
    return np.asarray(means.repeat(filters_per_pattern, axis=0))


def _scattered(values: Array, chosen: NDArray[np.int64], n_steps: int, size: int) -> Array:
    """Put the first ``n_steps`` values of each row at their atoms; finished slices put zeros at atoms they have not taken."""
    dense = np.zeros((len(values), size))
    np.put_along_axis(dense, chosen[:, :n_steps], values[:, :n_steps], axis=1)
    return dense

"""What each layer of a net could become, and what that would cost: time, MACs, bytes and error of the filters.

A layer can stay dense or be one of three forms of the same module: lookups in a learned dictionary, sparse (the dictionary is
the identity) or low rank (every row is used; two ordinary convolutions in a file). Times are measured at a few densities and
interpolated between. Dense and low-rank layers may compute in 8 bits or bfloat16: products are so fast there that lists of
lookups rarely pay.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcnn_compress.benchmark.layer_cost import time_forms
from lcnn_compress.benchmark.layer_forms import ORDINARY, Form, LookupForm, NarrowForm, Rounding, Shape
from lcnn_compress.compression.settings import LayerPlan
from lcnn_compress.forms.arithmetic import FLOAT32
from lcnn_compress.forms.dictionary import draft_errors
from lcnn_compress.forms.kinds import DENSE, LOOKUP, LOW_RANK, SPARSE
from lcnn_compress.forms.storage import coefficient_type, dictionary_bytes, narrow_bytes
from lcnn_compress.net.layers import Layer
from lcnn_compress.operators.geometry import dense_macs, lookup_macs
from lcnn_compress.progress import Progress, silent

# Dictionaries are tried with these numbers of rows, as fractions of m, the channels of a group.
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
# Ranks are fractions of m likewise; they are more, because what a rank leaves out is cheap to know.
RANKS = (1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
# These numbers of lookups per position are tried; drafts of dictionaries give the errors of those in ``DRAFTED_LOOKUPS``.
LOOKUPS = (1, 2, 3, 4, 6, 8, 12, 16)
DRAFTED_LOOKUPS = (1, 2, 4, 8, 16)
# Time is close to linear in the non-zeros, so times at these numbers of lookups and densities tell the others.
TIMED_LOOKUPS = (1, 4, 16)
TIMED_DENSITIES = (0.02, 0.07, 0.2, 0.6)
DENSITIES = tuple(float(d) for d in np.geomspace(TIMED_DENSITIES[0], TIMED_DENSITIES[-1], 24))
# This many neighbouring filters have the same lookups: 4 need fewer loads at run time, but make filters coarser.
PATTERNS = (1, 4)
# A layer of more MACs in one call is timed on a strip of its input with about so many: what a form takes grows with the rows of
# its input, and forty forms of one layer of a large image would be run for minutes.
STRIP_MACS = 1e9
# A layer in the net takes at most this many times as long as alone; beyond that something was disturbed.
MAX_PACE = 3.0
# Names and attributes of one node take about this many bytes of a file.
NODE_BYTES = 400


@dataclass(frozen=True)
class Candidate:
    """One thing a layer can become.

    ``weight_error`` is |W - PD|^2 / |W|^2, without what rounding adds; ``ms`` is the time of all its calls for one image.
    ``rounding_ms`` is the time to make narrow numbers of its inputs, where it computes in 8 bits or bfloat16.
    """

    plan: LayerPlan
    nonzeros: int
    macs: int
    weight_bytes: int
    weight_error: float
    ms: float = math.nan
    rounding_ms: float = 0.0

    @property
    def arithmetic(self) -> str:
        """What the layer computes in."""
        return self.plan.arithmetic

    @property
    def is_narrow(self) -> bool:
        """Whether the layer computes in 8 bits or bfloat16."""
        return self.plan.arithmetic != FLOAT32


def dense_candidate(layer: Layer, reason: str, ms: float) -> Candidate:
    """Return the candidate that leaves a layer alone, which takes ``ms`` in the dense net."""
    n_bytes = 4 * (layer.weight().numel() + layer.out_channels) + NODE_BYTES
    return Candidate(LayerPlan(layer.name, DENSE.name, reason), 0, layer.dense_macs, n_bytes, 0.0, ms)


def candidates(layer: Layer, storage: str, seed: int) -> list[Candidate]:
    """Return every form of a layer on the grid with fewer MACs than dense; their times are not known yet.

    ``storage`` is the type of its factors, one of ``forms.storage.TYPES``.
    """
    weight = layer.weight().detach().numpy()
    m, groups, taps = weight.shape[1], layer.geometry.groups, layer.geometry.taps
    positions = layer.out_channels * taps
    largest = min(m, positions // groups - 1)
    sizes, ranks = (
        sorted({n for fraction in fractions if 2 <= (n := round(fraction * m)) <= largest}) for fractions in (SHARES, RANKS)
    )
    found: list[tuple[LayerPlan, int, float]] = []
    for size in sizes:
        for (filters_per_pattern, lookups), error in _lookup_errors(layer, weight, size, seed).items():
            plan = LayerPlan(layer.name, LOOKUP.name, "", size, lookups, filters_per_pattern=filters_per_pattern)
            found.append((plan, lookups * positions, error))
    # What low rank and pruning leave out is known without trying: singular vectors are orthonormal.
    slices = weight.reshape(groups, -1, m, taps).transpose(0, 1, 3, 2).reshape(groups, -1, m)
    spectrum = np.linalg.eigvalsh(np.einsum("gnm,gnl->gml", slices, slices, optimize=True).astype(np.float64))
    for size in ranks:
        error = float(np.maximum(0.0, spectrum[:, : m - size]).sum() / max(spectrum.sum(), 1e-300))
        found.append((LayerPlan(layer.name, LOW_RANK.name, "", size, size), size * positions, error))
    for filters_per_pattern in PATTERNS:
        kept = _kept_energy(weight, groups, filters_per_pattern)
        for density in DENSITIES:
            count = round(density * m * positions)
            found.append(
                (
                    LayerPlan(layer.name, SPARSE.name, "", m, density, filters_per_pattern=filters_per_pattern),
                    count,
                    1 - float(kept[count]),
                )
            )
    made = [_candidate(layer, plan, count, error, storage) for plan, count, error in found]
    return [c for c in made if c.nonzeros > 0 and c.macs < layer.dense_macs]


def narrow_candidates(layer: Layer, listed: Sequence[Candidate], reason: str, arithmetic: str) -> list[Candidate]:
    """Return the forms of a layer in 8 bits or bfloat16, whose times are not known yet.

    Args:
        layer: a layer that nothing stands against (``quantisation.quantise.reason_against``).
        listed: its forms in float32, of which the low-rank ones have a twin.
        reason: why it stays dense where it does.
        arithmetic: what the layer computes in.
    """
    groups = layer.geometry.groups
    size = partial(
        narrow_bytes, arithmetic, layer.out_channels, layer.geometry.taps, layer.in_channels // groups, groups=groups
    )
    forms = [dense_candidate(layer, reason, math.nan), *(c for c in listed if c.plan.form.is_full)]
    return [
        replace(c, plan=replace(c.plan, arithmetic=arithmetic), weight_bytes=size(rows=c.plan.dictionary_size) + NODE_BYTES)
        for c in forms
    ]


def _lookup_errors(layer: Layer, weight: NDArray[np.float32], size: int, seed: int) -> dict[tuple[int, int], float]:
    """Return the errors of the filters by pattern and number of lookups below ``size``, interpolated between drafted ones."""
    drafted = [count for count in DRAFTED_LOOKUPS if count < size]
    errors = draft_errors(
        weight, groups=layer.geometry.groups, dictionary_size=size, lookups=drafted, seed=seed, shares=PATTERNS
    )
    wanted = [count for count in LOOKUPS if count <= drafted[-1]]
    logs = {
        filters_per_pattern: [math.log(max(errors[filters_per_pattern, count], 1e-12)) for count in drafted]
        for filters_per_pattern in PATTERNS
    }
    return {(s, count): math.exp(np.interp(count, drafted, logs[s])) for s, count in itertools.product(PATTERNS, wanted)}


def _candidate(layer: Layer, plan: LayerPlan, nonzeros: int, weight_error: float, storage: str) -> Candidate:
    rows = plan.form.projected_rows(plan.dictionary_size)
    macs = sum(lookup_macs(layer.in_channels, rows, nonzeros, layer.geometry, size) for size in layer.sizes)
    slots = layer.out_channels * layer.geometry.taps * plan.dictionary_size
    itemsize = coefficient_type(storage).itemsize
    coefficients = slots * itemsize if plan.form.is_full else list_bytes(nonzeros, slots, itemsize)
    n_bytes = (
        dictionary_bytes(storage, plan.dictionary_size * layer.in_channels) + 4 * layer.out_channels + coefficients + NODE_BYTES
    )
    return Candidate(plan, nonzeros, macs, n_bytes, weight_error)


def _kept_energy(weight: NDArray[np.float32], groups: int, filters_per_pattern: int) -> NDArray[np.float64]:
    """Return the share of the squared norm that each number of largest entries holds, from 0 on.

    Where ``filters_per_pattern`` neighbouring filters have one pattern, entries of one place are ranked by their mean square.
    """
    squares = np.square(weight, dtype=np.float32).reshape(groups, len(weight) // groups, -1)
    if filters_per_pattern > 1:
        starts = np.arange(0, squares.shape[1], filters_per_pattern)
        counts = np.diff(np.append(starts, squares.shape[1]))
        squares = np.repeat(np.add.reduceat(squares, starts, axis=1) / counts[:, None], counts, axis=1)
    squares = np.sort(squares, axis=None)[::-1]
    kept = np.concatenate([[0.0], np.cumsum(squares, dtype=np.float64)])
    return np.asarray(np.minimum(1.0, kept / (kept[-1] or 1.0)))


def list_bytes(nonzeros: int, slots: int, coefficient_bytes: int) -> int:
    """Return about how long the list of gaps and coefficients is, if each of ``slots`` is used with the same chance.

    A gap beyond the integer type is bridged by entries that stand for nothing (``operators.encoding.encode_positions``). Gaps
    are geometric: the fraction (1 - p)^limit of them needs such an entry, the same fraction of those another one, and so on.
    """
    empty = max(0.0, 1 - nonzeros / slots)
    sizes = []
    for itemsize in (1, 2):
        beyond = empty ** (256**itemsize - 1)
        entries = nonzeros / max(1 - beyond, 1e-9)
        sizes.append((entries * (itemsize + 2), entries * (itemsize + coefficient_bytes)))
    return round(min(sizes)[1])


def timed(
    layers: Sequence[Layer],
    options: Sequence[Sequence[Candidate]],
    dense_ms: Mapping[str, float],
    *,
    threads: int,
    cache: Path | None = None,
    progress: Progress = silent,
    time_forms: Callable[..., dict[Shape, dict[Form, float]]] = time_forms,
) -> list[list[Candidate]]:
    """Return the options of each layer with their times on this machine, at the speed it had when ``dense_ms`` was measured.

    Args:
        layers: those that may change.
        options: candidates of each layer.
        dense_ms: times of the layers in the dense net.
        threads: number that one operator may use.
        cache: folder of layer times; None is the user's.
        progress: gets ("timing layers", shapes done, in total).
        time_forms: times the forms of shapes, as ``benchmark.layer_cost.time_forms`` does.

    Raises:
        MissingError: the native library is not there.
    """
    points: dict[Shape, set[Form]] = {}
    for layer, listed in zip(layers, options, strict=True):
        for shape in layer_shapes(layer):
            points.setdefault(shape, set()).update(f for c in listed for f in _measured_forms(layer, c.plan))
            if listed:
                points[shape].add(ORDINARY)
            points[shape].update(Rounding(c.arithmetic) for c in listed if c.is_narrow)
    times = time_forms(
        {shape: forms for shape, forms in points.items() if forms}, threads=threads, cache=cache, progress=progress
    )
    paces = _paces(layers, dense_ms, times)
    return [
        [replace(c, ms=pace * _time(layer, c, times), rounding_ms=pace * _rounding_time(layer, c, times)) for c in listed]
        for layer, pace, listed in zip(layers, paces, options, strict=True)
    ]


def _paces(layers: Sequence[Layer], dense_ms: Mapping[str, float], times: Mapping[Shape, Mapping[Form, float]]) -> list[float]:
    """Return for each layer its time in the dense net over the time of its ordinary form beside the others.

    A ratio out of all proportion is replaced by the median of the others.
    """
    found: list[float | None] = []
    for layer in layers:
        alone = sum(count * times.get(shape, {}).get(ORDINARY, math.nan) for shape, count in layer_shapes(layer).items())
        pace = dense_ms[layer.name] / alone if alone > 0 else math.nan
        found.append(pace if 1 / MAX_PACE <= pace <= MAX_PACE else None)
    usual = float(np.median([pace for pace in found if pace is not None] or [1.0]))
    return [usual if pace is None else pace for pace in found]


def edge_times(
    layers: Sequence[Layer], options: Mapping[str, Sequence[Candidate]], arithmetic: str, behind_float: Container[str]
) -> dict[str, float]:
    """Return for each layer the ms that it costs to keep it in float32 among layers in 8 bits or bfloat16: there and back.

    Args:
        layers: those that may change.
        options: their candidates with times, by name.
        arithmetic: of the layers around it.
        behind_float: layers whose inputs come in float32 anyway.
    """
    rounded = {
        layer.name: max((c.rounding_ms for c in options[layer.name] if c.arithmetic == arithmetic), default=0.0)
        for layer in layers
    }
    given = {layer.name: layer.in_channels * sum(map(math.prod, layer.sizes)) for layer in layers}
    # Results take as long to round as the inputs of all layers do on the average.
    each = sum(rounded.values()) / max(1, sum(given[name] for name, ms in rounded.items() if ms))
    found = {}
    for layer in layers:
        made = layer.out_channels * sum(math.prod(layer.geometry.output_size(*size)) for size in layer.sizes)
        found[layer.name] = each * made + (0.0 if layer.name in behind_float else rounded[layer.name])
    return found


def layer_shapes(layer: Layer) -> dict[Shape, float]:
    """Return the shapes that stand for a layer and how many times each of them it takes; a Linear runs once on all its rows.

    A call of more than ``STRIP_MACS`` is stood for by a strip of its input, as many times as it has the strip's MACs.
    """
    sizes = Counter(layer.sizes)
    channels = layer.in_channels, layer.out_channels
    if layer.is_linear:
        return {Shape(*channels, layer.geometry, size, count, linear=True): 1.0 for size, count in sizes.items()}
    shapes: dict[Shape, float] = {}
    for size, count in sizes.items():
        strip = _strip(layer, size)
        parts = dense_macs(*channels, layer.geometry, size) / dense_macs(*channels, layer.geometry, strip)
        shape = Shape(*channels, layer.geometry, strip)
        shapes[shape] = shapes.get(shape, 0.0) + count * parts
    return shapes


def _strip(layer: Layer, size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of an input of the same width with about ``STRIP_MACS`` at most; no kernel is higher."""
    macs = dense_macs(layer.in_channels, layer.out_channels, layer.geometry, size)
    least = (layer.geometry.kernel[0] - 1) * layer.geometry.dilation[0] + 1
    return max(min(least, size[0]), min(size[0], math.ceil(size[0] * STRIP_MACS / macs))), size[1]


def _measured_forms(layer: Layer, plan: LayerPlan) -> list[LookupForm] | list[NarrowForm]:
    if plan.arithmetic != FLOAT32:
        return [NarrowForm(plan.arithmetic, plan.form.projected_rows(plan.dictionary_size))]
    slots = layer.out_channels * layer.geometry.taps * plan.dictionary_size
    if plan.form.is_full:
        return [LookupForm(plan.dictionary_size, slots)]
    if plan.form.is_identity:
        return [LookupForm(0, max(1, round(density * slots)), plan.filters_per_pattern) for density in TIMED_DENSITIES]
    positions = layer.out_channels * layer.geometry.taps
    most = plan.dictionary_size - 1
    return [
        LookupForm(plan.dictionary_size, n * positions, plan.filters_per_pattern)
        for n in sorted({min(n, most) for n in TIMED_LOOKUPS})
    ]


def _time(layer: Layer, candidate: Candidate, times: Mapping[Shape, Mapping[Form, float]]) -> float:
    forms = _measured_forms(layer, candidate.plan)
    counts = [form.nonzeros if isinstance(form, LookupForm) else candidate.nonzeros for form in forms]
    total = 0.0
    for shape, count in layer_shapes(layer).items():
        # Fewer lookups never take longer: what says so was disturbed.
        ms = np.minimum.accumulate([times[shape][form] for form in forms][::-1])[::-1]
        total += count * float(np.interp(candidate.nonzeros, counts, ms))
    return total


def _rounding_time(layer: Layer, candidate: Candidate, times: Mapping[Shape, Mapping[Form, float]]) -> float:
    if not candidate.is_narrow:
        return 0.0
    return sum(count * times[shape][Rounding(candidate.arithmetic)] for shape, count in layer_shapes(layer).items())

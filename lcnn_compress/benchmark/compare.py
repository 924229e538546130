"""Measure a dense against a lookup ONNX file: latency, memory, size, and time per layer. No torch.

Every figure that matters comes from child processes that import NumPy and ONNX Runtime only. Latency is taken in one child that
runs dense and lookup in turn, so that a busy machine slows both; peak memory in a fresh child for each net.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from lcnn_compress import runtime
from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.benchmark.child import run_child
from lcnn_compress.benchmark.gain import Gain, TimingPlan, measure_gain
from lcnn_compress.benchmark.profile import OTHER
from lcnn_compress.benchmark.statistics import Latency, latency_statistics, ratio_interval
from lcnn_compress.benchmark.timing import Memory, PairTimes, open_net, outputs_in_turn, peak_memory, read_onnx
from lcnn_compress.errors import ArtefactError
from lcnn_compress.export.metadata import stored_layers
from lcnn_compress.machine import Machine, machine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileSize:
    """``file_bytes`` counts a file with its external data, ``weight_bytes`` its initialisers alone."""

    file_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class NetFigures(Latency):
    """What is measured of one net at one batch size; ``macs`` counts those of the whole batch."""

    peak_rss_bytes: int
    file_bytes: int
    weight_bytes: int
    macs: int


@dataclass(frozen=True)
class ComparedRun:
    """Two nets measured at one batch size and number of threads.

    ``max_abs_diff`` compares them on one random input: it is what compression changed, not an error of the kernels.
    ``baseline_rss_bytes`` is the peak memory of a process without a net.
    """

    batch: int
    threads: int
    dense: NetFigures
    lookup: NetFigures
    speedup_p50: float
    speedup_ci95: tuple[float, float]
    macs_ratio: float
    realised_fraction: float
    max_abs_diff: float
    baseline_rss_bytes: int


@dataclass(frozen=True)
class FormsMs:
    """The ms that one image takes in each net; None where that was not measured."""

    dense_ms: float | None
    lookup_ms: float | None


@dataclass(frozen=True)
class ComparedLayer:
    """A layer as the lookup file describes it; its MACs and ms are those of one image."""

    name: str
    kind: str | None
    reason: str | None
    macs_dense: int
    macs: int
    dense_ms: float | None = None
    lookup_ms: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What ``lcnn bench --json`` prints, but for where the two nets come from.

    ``isa`` is None where the native library is absent; the lookup file then runs as dense convolutions. ``other`` is the time
    of what belongs to no layer.
    """

    command: str
    isa: str | None
    onnxruntime: str
    runs: tuple[ComparedRun, ...]
    layers: tuple[ComparedLayer, ...]
    other: FormsMs
    input_shape: tuple[int, ...]
    machine: Machine
    date: str


def compare(dense: Path, lookup: Path, settings: BenchSettings = BenchSettings()) -> Comparison:
    """Measure two files of one net.

    Raises:
        SettingsError: a batch does not fit the files, the memory or the time limit, or the files are not forms of one net.
        ArtefactError, FileError: a file is damaged or missing.
        ChildError: a measuring process crashed.
    """
    for path in (dense, lookup):
        runtime.session(path, threads=1)  # a missing or damaged file is refused here, with its name
    layers, shape = _metadata(lookup)
    nets = (
        _Net(dense, file_size(dense), sum(row.macs_dense for row in layers)),
        _Net(lookup, file_size(lookup), sum(row.macs for row in layers)),
    )
    pairs = [(batch, threads) for batch in settings.batches for threads in settings.threads]
    runs = tuple(_compare_at(nets, (batch, *shape[1:]), threads, settings) for batch, threads in pairs)
    log.info("measured %s against %s: %d settings of batch and threads", lookup.name, dense.name, len(pairs))
    times = layer_pairs(dense, lookup, settings) if settings.per_layer else {}
    return Comparison(
        command="bench", isa=runtime.isa(), onnxruntime=runtime.onnxruntime_version(), runs=runs,
        layers=tuple(_with_times(row, times) for row in layers), other=FormsMs(*times.get(OTHER, (None, None))),
        input_shape=shape, machine=machine(), date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )  # fmt: skip


@dataclass(frozen=True)
class _Net:
    """A file and what is known of it without running it; ``macs`` counts those of one image."""

    path: Path
    size: FileSize
    macs: int


def _compare_at(nets: tuple[_Net, _Net], shape: tuple[int, ...], threads: int, settings: BenchSettings) -> ComparedRun:
    common = {"shape": shape, "threads": threads, "seed": settings.seed}
    pairs = (settings.iterations, settings.warmup)
    dense, lookup = (net.path for net in nets)
    given = {"dense": dense, "lookup": lookup, "pairs": pairs, **common}
    times = PairTimes(**run_child(measure_latency, given, f"the latency measurement of {lookup}", settings.timeout_s))
    found = []
    for net, ms in zip(nets, (times.dense_ms, times.lookup_ms), strict=True):
        latency, memory = latency_statistics(ms, shape[0]), _memory_of(net.path, settings, common)
        found.append(NetFigures(**vars(latency), **vars(memory), **vars(net.size), macs=shape[0] * net.macs))
    first, second = found
    speedup, macs_ratio = first.latency_ms_p50 / second.latency_ms_p50, first.macs / max(1, second.macs)
    return ComparedRun(
        batch=shape[0], threads=threads, dense=first, lookup=second, speedup_p50=speedup,
        speedup_ci95=ratio_interval(times.dense_ms, times.lookup_ms, settings.seed), macs_ratio=macs_ratio,
        realised_fraction=speedup / macs_ratio, max_abs_diff=times.max_abs_diff,
        baseline_rss_bytes=_memory_of(None, settings, {}).peak_rss_bytes,
    )  # fmt: skip


def _memory_of(path: Path | None, settings: BenchSettings, common: Mapping[str, object]) -> Memory:
    subject = f"the memory measurement of {path or 'an empty process'}"
    return Memory(**run_child(measure_memory, {"model": path, **common}, subject, settings.timeout_s))


def layer_pairs(dense: Path, lookup: Path, settings: BenchSettings) -> dict[str, tuple[float, float]]:
    """Time the layers of two files in a child process; return the ms (dense, lookup) of each, and of ``OTHER``, for one image.

    Raises:
        SettingsError: it took longer than the time limit.
        ArtefactError, FileError: a file is damaged or missing.
        ChildError: the measuring process crashed.
    """
    given = {"dense": dense, "lookup": lookup, "threads": settings.threads[0], "seed": settings.seed}
    answer = run_child(measure_layers, given, f"the layers measurement of {lookup}", settings.timeout_s)
    return {name: (dense_ms, lookup_ms) for name, (dense_ms, lookup_ms) in answer["layers"].items()}


def _with_times(row: ComparedLayer, times: dict[str, tuple[float, float]]) -> ComparedLayer:
    dense_ms, lookup_ms = times.get(row.name, (None, None))
    return replace(row, dense_ms=dense_ms, lookup_ms=lookup_ms)


def _metadata(path: Path) -> tuple[list[ComparedLayer], tuple[int, ...]]:
    """Return the rows of ``lcnn.layers`` and ``lcnn.input_shape``."""
    rows, shape = stored_layers(read_onnx(path), Path(path.name))
    if rows is None or shape is None:
        raise ArtefactError(f"{path.name}: has no metadata 'lcnn.layers' and 'lcnn.input_shape'; write it with lcnn export")
    if not sum(row.macs for row in rows) or not sum(row.macs_dense for row in rows):
        raise ArtefactError(
            f"{path.name}: its layers compute nothing, by its metadata 'lcnn.layers'; write it with lcnn export"
        )
    return [ComparedLayer(row.name, row.kind, row.reason, row.macs_dense, row.macs) for row in rows], tuple(shape)


def file_size(path: Path) -> FileSize:
    """Return the bytes of an ONNX file."""
    import onnx

    tensors = read_onnx(path).graph.initializer
    outside = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    sizes = (int(np.prod(t.dims)) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in tensors)
    return FileSize(sum(file.stat().st_size for file in (path, *(path.parent / name for name in outside))), sum(sizes))


# The functions below run in child processes, so they take and return what JSON holds.


def measure_latency(dense: str, lookup: str, shape: list[int], threads: int, pairs: tuple[int, int], seed: int) -> PairTimes:
    """Time two files in turn."""
    return outputs_in_turn((Path(dense), Path(lookup)), shape, threads, pairs, seed)


def measure_memory(model: str | None = None, shape: list[int] | None = None, threads: int = 1, seed: int = 0) -> Memory:
    """Run a file, if there is one, and return the most memory this process held."""
    return peak_memory(None if model is None else open_net(Path(model), shape, threads, seed))


def measure_layers(dense: str, lookup: str, threads: int, seed: int) -> Gain:
    """Time the layers of two files."""
    return measure_gain(Path(dense), Path(lookup), plan=TimingPlan(threads=threads, seed=seed))

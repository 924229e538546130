"""Measure a dense against a lookup ONNX file, and both against what else runs here: latency, memory, size, time per layer.

Every figure that matters comes from child processes that import NumPy and the engines only, no torch. Latency is taken in one
child that runs all forms in turn, so that a busy machine slows all; peak memory in a fresh child for each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcnn_compress import runtime
from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.benchmark.child import run_child
from lcnn_compress.benchmark.gain import Gain, TimingPlan, measure_gain
from lcnn_compress.benchmark.profile import OTHER
from lcnn_compress.benchmark.rivals import Rival, Rivals, file_bytes, make_rivals
from lcnn_compress.benchmark.timing import (
    ONNXRUNTIME,
    EngineFile,
    Latency,
    Memory,
    Turns,
    latency_statistics,
    open_file,
    outputs_in_turn,
    peak_memory,
    ratio_interval,
    read_onnx,
)
from lcnn_compress.errors import ArtefactError
from lcnn_compress.export.metadata import stored_layers
from lcnn_compress.files import temporary_folder
from lcnn_compress.machine import Machine, machine

log = logging.getLogger(__name__)

DENSE, LOOKUP = "dense", "lookup"
# Such a function takes the shape of the input and returns images (n, C, H, W) or (n, features) as the net takes them.
ImageSource = Callable[[tuple[int, ...]], NDArray[np.float32]]


@dataclass(frozen=True)
class FileSize:
    """``file_bytes`` counts a file with its external data, ``weight_bytes`` its initialisers alone."""

    file_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class FormFigures(Latency):
    """What is measured of any form of a net; speed-ups are over ``DENSE``, with the 95 % interval."""

    peak_rss_bytes: int
    speedup_p50: float
    speedup_ci95: tuple[float, float]


@dataclass(frozen=True)
class NetFigures(Latency):
    """What is measured of one net at one batch size; ``macs`` counts those of the whole batch."""

    peak_rss_bytes: int
    file_bytes: int
    weight_bytes: int
    macs: int


@dataclass(frozen=True)
class RivalFigures(FormFigures):
    """What is measured of another way to run the dense net; ``name`` is that of a ``Rival``."""

    name: str
    file_bytes: int


@dataclass(frozen=True)
class BestOther:
    """The fastest of the other forms, dense among them, and how many times faster than it lookup is: below 1 it wins."""

    name: str
    speedup_p50: float
    speedup_ci95: tuple[float, float]


@dataclass(frozen=True)
class ComparedRun:
    """Two nets, and what else runs the dense one, measured at one batch size and number of threads.

    ``max_abs_diff`` compares the two on one random input: it is what compression changed, not an error of the kernels.
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
    rivals: tuple[RivalFigures, ...]
    best_other: BestOther


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
    of what belongs to no layer. ``rivals`` has also those that could not be timed, with the reason; ``rival_images`` says what
    the ranges of int8 were taken from.
    """

    command: str
    isa: str | None
    onnxruntime: str
    runs: tuple[ComparedRun, ...]
    layers: tuple[ComparedLayer, ...]
    other: FormsMs
    rivals: tuple[Rival, ...]
    rival_images: str
    input_shape: tuple[int, ...]
    machine: Machine
    date: str


def compare(
    dense: Path, lookup: Path, settings: BenchSettings = BenchSettings(), images: ImageSource | None = None
) -> Comparison:
    """Measure two files of one net, and the dense one in every other way that is here.

    Args:
        dense: the file of the float32 net.
        lookup: the file with our metadata.
        settings: what is measured.
        images: returns the images that the ranges of int8 rivals come from; None takes random ones.

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
    with temporary_folder() as folder:
        given = None if images is None or not settings.rivals else images(shape)
        rivals = make_rivals(dense, folder, shape, settings, given)
        runs = tuple(_compare_at(nets, rivals, (batch, *shape[1:]), threads, settings) for batch, threads in pairs)
    log.info("measured %s against %s: %d settings of batch and threads", lookup.name, dense.name, len(pairs))
    times = layer_pairs(dense, lookup, settings) if settings.per_layer else {}
    return Comparison(
        command="bench", isa=runtime.isa(), onnxruntime=runtime.onnxruntime_version(), runs=runs,
        layers=tuple(_with_times(row, times) for row in layers), other=FormsMs(*times.get(OTHER, (None, None))),
        rivals=rivals.rows, rival_images=rivals.images, input_shape=shape, machine=machine(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )  # fmt: skip


@dataclass(frozen=True)
class _Net:
    """A file and what is known of it without running it; ``macs`` counts those of one image."""

    path: Path
    size: FileSize
    macs: int


def _compare_at(
    nets: tuple[_Net, _Net], rivals: Rivals, shape: tuple[int, ...], threads: int, settings: BenchSettings
) -> ComparedRun:
    forms = {DENSE: EngineFile(nets[0].path), LOOKUP: EngineFile(nets[1].path)} | rivals.files
    timed = time_files(forms, shape, threads, settings)
    first, second = (_net_figures(timed.figures[name], net, shape[0]) for name, net in zip((DENSE, LOOKUP), nets, strict=True))
    speedup, interval = timed.faster(LOOKUP, DENSE)
    macs_ratio = first.macs / max(1, second.macs)
    return ComparedRun(
        batch=shape[0], threads=threads, dense=first, lookup=second, speedup_p50=speedup, speedup_ci95=interval,
        macs_ratio=macs_ratio, realised_fraction=speedup / macs_ratio, max_abs_diff=timed.max_abs_diff[LOOKUP],
        baseline_rss_bytes=_memory_of(None, settings, {}).peak_rss_bytes,
        rivals=tuple(
            RivalFigures(**vars(timed.figures[name]), name=name, file_bytes=file_bytes(file.path))
            for name, file in rivals.files.items()
        ),
        best_other=timed.best_other(LOOKUP, (DENSE, *rivals.files)),
    )  # fmt: skip


def _net_figures(figures: FormFigures, net: _Net, batch: int) -> NetFigures:
    latency = {field.name: getattr(figures, field.name) for field in fields(Latency)}
    return NetFigures(**latency, peak_rss_bytes=figures.peak_rss_bytes, **vars(net.size), macs=batch * net.macs)


@dataclass(frozen=True)
class Timed:
    """Forms of one net in turn: their figures, ms of every counted run, and max |outputs - those of ``DENSE``|."""

    figures: dict[str, FormFigures]
    ms: dict[str, list[float]]
    max_abs_diff: dict[str, float]
    seed: int

    def faster(self, form: str, than: str) -> tuple[float, tuple[float, float]]:
        """Return how many times faster a form is than another one, by medians, and the 95 % interval."""
        return _faster(self.ms, form, than, self.seed)

    def best_other(self, form: str, others: Iterable[str]) -> BestOther:
        """Hold a form against the fastest of others."""
        best = min(others, key=lambda name: self.figures[name].latency_ms_p50)
        return BestOther(best, *self.faster(form, best))


def time_files(forms: Mapping[str, EngineFile], shape: Sequence[int], threads: int, settings: BenchSettings) -> Timed:
    """Measure all forms of a net, in their engines, at one batch size and number of threads.

    Args:
        forms: files by the name of the form; the first is ``DENSE``.
        shape: shape of the input, (N, C, H, W) or (N, features).
        threads: number that one operator may use.
        settings: iterations, warm-up, seed and the time limit.

    Raises:
        SettingsError: the batch does not fit the files, the memory or the time limit.
        ChildError: a measuring process crashed.
    """
    common = {"shape": shape, "threads": threads, "seed": settings.seed}
    given = {
        "paths": [form.path for form in forms.values()], "engines": [form.engine for form in forms.values()],
        "rounds": (settings.iterations, settings.warmup), **common,
    }  # fmt: skip
    turns = Turns(**run_child(measure_latency, given, f"the latency measurement of {', '.join(forms)}", settings.timeout_s))
    ms = dict(zip(forms, turns.ms, strict=True))
    figures = {}
    for name, form in forms.items():
        speedup, interval = _faster(ms, name, DENSE, settings.seed)
        figures[name] = FormFigures(
            **vars(latency_statistics(ms[name], shape[0])), **vars(_memory_of(form, settings, common)), speedup_p50=speedup,
            speedup_ci95=interval,
        )  # fmt: skip
    return Timed(figures, ms, dict(zip(forms, turns.max_abs_diff, strict=True)), settings.seed)


def _faster(ms: Mapping[str, list[float]], form: str, than: str, seed: int) -> tuple[float, tuple[float, float]]:
    return float(np.median(ms[than]) / np.median(ms[form])), ratio_interval(ms[than], ms[form], seed)


def _memory_of(form: EngineFile | None, settings: BenchSettings, common: Mapping[str, object]) -> Memory:
    given = {} if form is None else {"model": form.path, "engine": form.engine, **common}
    subject = f"the memory measurement of {'an empty process' if form is None else form.path}"
    return Memory(**run_child(measure_memory, given, subject, settings.timeout_s))


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


def measure_latency(
    paths: list[str], engines: list[str], shape: list[int], threads: int, rounds: Sequence[int], seed: int
) -> Turns:
    """Time files in turn, each in its engine."""
    files = [EngineFile(Path(path), engine) for path, engine in zip(paths, engines, strict=True)]
    return outputs_in_turn(files, shape, threads, rounds, seed)


def measure_memory(
    model: str | None = None, shape: list[int] | None = None, threads: int = 1, seed: int = 0, engine: str = ONNXRUNTIME
) -> Memory:
    """Run a file, if there is one, and return the most memory this process held."""
    return peak_memory(None if model is None else open_file(EngineFile(Path(model), engine), shape, threads, seed))


def measure_layers(dense: str, lookup: str, threads: int, seed: int) -> Gain:
    """Time the layers of two files."""
    return measure_gain(Path(dense), Path(lookup), plan=TimingPlan(threads=threads, seed=seed))

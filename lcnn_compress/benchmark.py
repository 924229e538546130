"""Measure a dense against a lookup ONNX file: latency, memory, size, and time per layer. No torch.

Every figure that matters comes from child processes that import NumPy and ONNX Runtime only. Latency is taken in one child that
runs dense and lookup in turn, so that a busy machine slows both; peak memory in a fresh child for each net.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lcnn_compress import runtime
from lcnn_compress.child import Job, answer_parent, run_child
from lcnn_compress.errors import ArtefactError, SettingsError
from lcnn_compress.machine import machine
from lcnn_compress.node_layers import LAYER_OPS, add_inlined, add_layout_changes, layers_of_events
from lcnn_compress.op import layer_name
from lcnn_compress.progress import Progress, silent

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

OTHER = "(other)"  # everything that belongs to no layer: reorders, pooling, activations of their own
RUN_ERRORS: tuple[type[Exception], ...] = (MemoryError, *runtime.ORT_ERRORS)
Run = Callable[[], list[NDArray[np.float32]]]  # runs a net once
BOOTSTRAP_SAMPLES = 1000
MEMORY_RUNS = 3
PROFILE_WARMUP = 3
PROFILE_ROUNDS = 5
PROFILE_RUNS = 10
RATIO_SECONDS = 0.5  # of counted runs; as many come before them
RATIO_PAIRS = (8, 2000)
GAIN_SESSIONS = 3  # one net's time in two sessions, seconds apart, differs by several per cent


@dataclass(frozen=True)
class BenchSettings:
    """What to measure; every batch is measured with every number of threads."""

    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    iterations: int = 50  # pairs of a dense and a lookup run
    warmup: int = 5  # pairs that are not counted
    per_layer: bool = True  # at batch 1 with the first number of threads
    seed: int = 0  # of the input and the bootstrap
    timeout_s: float = 3600.0  # of each child process

    def __post_init__(self) -> None:
        for name, values in (("threads", self.threads), ("batches", self.batches), ("iterations", (self.iterations,))):
            if not values or min(values) < 1:
                raise SettingsError(f"{name} is {values}; each must be at least 1")
        if self.warmup < 0:
            raise SettingsError(f"warmup is {self.warmup}; it must be at least 0")


@dataclass(frozen=True)
class Gain:
    """Times (dense, lookup) of one image in ms: per layer the least of several medians, of the nets the median of sessions."""

    layers: dict[str, tuple[float, float]]
    dense_ms: float
    lookup_ms: float


def compare(dense: Path, lookup: Path, settings: BenchSettings = BenchSettings()) -> dict[str, Any]:
    """Measure two files of one net; return the object of ``lcnn bench --json``.

    ``macs`` counts the whole batch, ``layers`` and their times one image. ``max_abs_diff`` compares the two nets on one random
    input: it is what compression changed, not an error of the kernels. ``isa`` is None where the native library is absent; the
    lookup file then runs as dense convolutions. ``baseline_rss_bytes`` is the peak memory of a process without a net.

    Raises:
        SettingsError: a batch does not fit the files, the memory or the time limit, or the files are not forms of one net.
        ArtefactError, FileError: a file is damaged or missing.
        ChildError: a measuring process crashed.
    """
    for path in (dense, lookup):
        runtime.session(path, threads=1)  # a missing or damaged file is refused here, with its name
    rows, shape = _metadata(lookup)
    files = {"dense": dense, "lookup": lookup}
    facts = {
        "dense": _file_facts(dense) | {"macs": sum(row["macs_dense"] for row in rows)},
        "lookup": _file_facts(lookup) | {"macs": sum(row["macs"] for row in rows)},
    }
    pairs = [(batch, threads) for batch in settings.batches for threads in settings.threads]
    runs = [_run(files, facts, [batch, *shape[1:]], threads, settings) for batch, threads in pairs]
    log.info("measured %s against %s: %d settings of batch and threads", lookup.name, dense.name, len(pairs))
    times: dict[str, tuple[float | None, float | None]] = {}
    if settings.per_layer:
        job = {"job": "layers", "threads": settings.threads[0], "seed": settings.seed, **files}
        times = run_child(job, __name__, settings.timeout_s)["layers"]
    nothing = (None, None)
    keys = ("name", "kind", "reason", "macs_dense", "macs")
    layers = [{key: row.get(key) for key in keys} | _named(times.get(row["name"], nothing)) for row in rows]
    return {
        "command": "bench", "isa": runtime.isa(), "onnxruntime": runtime.onnxruntime_version(), "runs": runs, "layers": layers,
        "other": _named(times.get(OTHER, nothing)), "input_shape": shape, "machine": machine(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip


def layer_times(model: Path, *, threads: int = 1, runs: int = 20, rounds: int = 1, seed: int = 0) -> dict[str, float]:
    """Return ms of every layer for one image, least of the medians of ``rounds``, and of everything else as ``"(other)"``.

    A layer is a node Conv, Gemm, MatMul or LookupConv that has a name. An activation counts where it was fused into the layer;
    layout changes next to a LookupConv count for it (``add_layout_changes``). A layer that cannot be found in the profile is
    missing here and logged.

    Raises:
        ArtefactError, FileError: the file is damaged or missing.
    """
    with tempfile.TemporaryDirectory(prefix="lcnn-") as folder:
        profile = _Profile(model, threads, seed, Path(folder))
        for _ in range(rounds):
            profile.run(PROFILE_WARMUP + runs)
        return _least_medians(profile.finish(), rounds)


def measure_gain(
    dense: Path,
    lookup: Path,
    layers: Sequence[str] | None = None,
    *,
    threads: int = 1,
    rounds: int = PROFILE_ROUNDS,
    runs: int = PROFILE_RUNS,
    seed: int = 0,
    progress: Progress = silent,
) -> Gain:
    """Time two forms of one net, dense and lookup in turn: whole, and layer by layer ``rounds`` times ``runs`` runs of each.

    Args:
        dense: a file that names its layers like ``lookup``.
        lookup: the file with LookupConv nodes.
        layers: names to return; None returns every layer found in both files, and ``"(other)"``.
        threads, runs, seed: of one operator; of one round; of the input.
        rounds: the least of their medians counts: whatever else the machine does only ever adds time.
        progress: gets ("measuring", done, in total).

    Raises:
        ArtefactError, FileError: a file is damaged or missing.
    """
    total, sessions = GAIN_SESSIONS + rounds, []
    for done in range(GAIN_SESSIONS):
        progress("measuring", done, total)
        sessions.append(_medians_in_turn((dense, lookup), threads, seed))
    dense_ms, lookup_ms = sorted(sessions, key=lambda pair: pair[0] / pair[1])[GAIN_SESSIONS // 2]
    with tempfile.TemporaryDirectory(prefix="lcnn-") as folder:
        profiles = [_Profile(path, threads, seed, Path(folder)) for path in (dense, lookup)]
        for done in range(rounds):
            progress("measuring", GAIN_SESSIONS + done, total)
            for profile in profiles:
                profile.run(PROFILE_WARMUP + runs)
        progress("measuring", total, total)
        found = [_least_medians(profile.finish(), rounds) for profile in profiles]
    both = [name for name in found[0] if name in found[1] and (layers is None or name in layers)]
    times = {name: (found[0][name], found[1][name]) for name in both}
    return Gain(times, dense_ms, lookup_ms)


def time_ratio(first: Path, second: Path, *, threads: int = 1, seed: int = 0) -> float:
    """Return how many times faster ``second`` is: the ratio of the medians of runs in turn, for a second or so.

    Raises:
        ArtefactError, FileError: a file is damaged or missing.
    """
    first_ms, second_ms = _medians_in_turn((first, second), threads, seed)
    return first_ms / second_ms


def _medians_in_turn(files: tuple[Path, Path], threads: int, seed: int) -> tuple[float, float]:
    runs = [open_net(path, None, threads, seed) for path in files]
    trial_ms = time_in_turn(runs, (2, 1))
    pairs = int(np.clip(1000 * RATIO_SECONDS / sum(min(ms) for ms in trial_ms), *RATIO_PAIRS))
    first_ms, second_ms = time_in_turn(runs, (pairs, 0))
    return float(np.median(first_ms)), float(np.median(second_ms))


def latency_statistics(latency_ms: Iterable[float], batch: int) -> dict[str, float]:
    """Return percentiles (interpolated linearly), the minimum and images per second at the median."""
    values = np.asarray(list(latency_ms), np.float64)
    p50, p90, p99 = (float(p) for p in np.percentile(values, (50, 90, 99)))
    return {
        "latency_ms_p50": p50, "latency_ms_p90": p90, "latency_ms_p99": p99, "latency_ms_min": float(values.min()),
        "throughput_per_s": 1000 * batch / p50,
    }  # fmt: skip


def ratio_interval(dense_ms: Sequence[float], lookup_ms: Sequence[float], seed: int) -> list[float]:
    """Return the 95 % interval of median(dense) / median(lookup) by a bootstrap over pairs of runs (Efron 1979)."""
    pairs = np.array([dense_ms, lookup_ms], np.float64)  # (2, n)
    chosen = np.random.default_rng(seed).integers(0, pairs.shape[1], (BOOTSTRAP_SAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, chosen], axis=2)  # (2, samples)
    return [float(bound) for bound in np.percentile(medians[0] / medians[1], (2.5, 97.5))]


def _run(
    files: dict[str, Path], facts: dict[str, dict[str, int]], shape: list[int], threads: int, settings: BenchSettings
) -> dict[str, Any]:
    batch = shape[0]
    common = {"shape": shape, "threads": threads, "seed": settings.seed}
    pairs = [settings.iterations, settings.warmup]
    latency = run_child({"job": "latency", "pairs": pairs, **files, **common}, __name__, settings.timeout_s)
    nets: dict[str, dict[str, Any]] = {}
    for net in files:
        memory = run_child({"job": "memory", "model": files[net], **common}, __name__, settings.timeout_s)
        nets[net] = latency_statistics(latency[f"{net}_ms"], batch) | memory | facts[net] | {"macs": facts[net]["macs"] * batch}
    speedup = nets["dense"]["latency_ms_p50"] / nets["lookup"]["latency_ms_p50"]
    macs_ratio = nets["dense"]["macs"] / max(1, nets["lookup"]["macs"])
    return {
        "batch": batch, "threads": threads, **nets, "speedup_p50": speedup,
        "speedup_ci95": ratio_interval(latency["dense_ms"], latency["lookup_ms"], settings.seed),
        "macs_ratio": macs_ratio, "realised_fraction": speedup / macs_ratio, "max_abs_diff": latency["max_abs_diff"],
        "baseline_rss_bytes": run_child({"job": "memory"}, __name__, settings.timeout_s)["peak_rss_bytes"],
    }  # fmt: skip


def _named(times: Sequence[float | None]) -> dict[str, float | None]:
    return {"dense_ms": times[0], "lookup_ms": times[1]}


def _metadata(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the rows of ``lcnn.layers`` and ``lcnn.input_shape``."""
    stored = {entry.key: entry.value for entry in _read_onnx(path).metadata_props}
    try:
        return json.loads(stored["lcnn.layers"]), json.loads(stored["lcnn.input_shape"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ArtefactError(
            f"{path.name}: metadata 'lcnn.layers' or 'lcnn.input_shape' cannot be read ({error}); write it with lcnn export"
        ) from error


def _file_facts(path: Path) -> dict[str, int]:
    """Return the bytes of the file, with its external data, and of its initialisers."""
    import onnx

    tensors = _read_onnx(path).graph.initializer
    outside = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    sizes = (int(np.prod(t.dims)) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in tensors)
    file_bytes = sum(file.stat().st_size for file in (path, *(path.parent / name for name in outside)))
    return {"file_bytes": file_bytes, "weight_bytes": sum(sizes)}


def _read_onnx(path: Path) -> onnx.ModelProto:
    import onnx

    return onnx.load(path, load_external_data=False)


def child_main() -> None:
    """Do one of ``JOBS`` for the parent process."""
    answer_parent(JOBS)


def _latency_job(dense: str, lookup: str, shape: list[int], threads: int, pairs: tuple[int, int], seed: int) -> dict[str, Any]:
    dense_ms, lookup_ms, difference = _in_turn((Path(dense), Path(lookup)), shape, threads, pairs, seed)
    return {"dense_ms": dense_ms, "lookup_ms": lookup_ms, "max_abs_diff": difference}


def _memory_job(model: str | None = None, shape: list[int] | None = None, threads: int = 1, seed: int = 0) -> dict[str, Any]:
    return peak_memory(None if model is None else open_net(Path(model), shape, threads, seed))


def peak_memory(run: Run | None) -> dict[str, Any]:
    """Run a net, if there is one, and return the most memory this process ever held."""
    if run is not None:
        for _ in range(MEMORY_RUNS):
            run()
    # Not getrusage: its peak survives exec, so a large parent process would be counted.
    status = Path("/proc/self/status").read_text()
    return {"peak_rss_bytes": 1024 * int(status.partition("VmHWM:")[2].split()[0])}


def _layers_job(dense: str, lookup: str, threads: int, seed: int) -> dict[str, Any]:
    return asdict(measure_gain(Path(dense), Path(lookup), threads=threads, seed=seed))


JOBS: dict[str, Job] = {"latency": _latency_job, "memory": _memory_job, "layers": _layers_job}


def _in_turn(
    files: tuple[Path, Path], shape: list[int], threads: int, pairs: tuple[int, int], seed: int
) -> tuple[list[float], list[float], float]:
    """Time runs of two files in turn, the order swapped each time.

    Args:
        files: dense and lookup.
        shape: of the input.
        threads: of one operator.
        pairs: counted and warm-up.
        seed: of the input.

    Returns:
        ms of every dense run, of every lookup run, and max |dense - lookup| over all outputs.
    """
    runs = [open_net(path, shape, threads, seed) for path in files]
    results = [run() for run in runs]
    shapes = [[output.shape for output in outputs] for outputs in results]
    if shapes[0] != shapes[1]:
        raise SettingsError(f"{files[0].name} gives {shapes[0]}, {files[1].name} {shapes[1]}; both must be forms of one net")
    difference = max(float(np.abs(a - b).max(initial=0)) for a, b in zip(*results, strict=True))
    dense_ms, lookup_ms = time_in_turn(runs, pairs)
    return dense_ms, lookup_ms, difference


def time_in_turn(runs: Sequence[Run], rounds: Sequence[int]) -> list[list[float]]:
    """Return the ms of the counted run of each net in each round.

    The nets take turns, and another one comes first in each round. A turn is two runs, the second counted: what the other
    nets left in the caches is no part of it, as where a process runs one net again and again.

    Args:
        runs: one for each net.
        rounds: counted and warm-up.
    """
    times: list[list[float]] = [[] for _ in runs]
    counted, warmup = rounds
    for turn in range(-warmup, counted):
        for step in range(len(runs)):
            net = (turn + 1 + step) % len(runs)
            runs[net]()
            start = time.perf_counter()
            runs[net]()
            times[net].append(1000 * (time.perf_counter() - start))
    return [ms[warmup:] for ms in times]


def open_net(model: Path, shape: Sequence[int] | None, threads: int, seed: int) -> Run:
    """Return what runs a file once in ONNX Runtime, on random values of ``shape`` or of one image."""
    session = runtime.session(model, threads=threads, options=_options())
    feed = _input(session, model, shape, seed)
    return lambda: _outputs(session, feed, model.name)


def _options() -> ort.SessionOptions:
    """Let the workers of a session sleep between runs: they would spin on the cores the other session is timed on."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _input(session: Any, model: Path, shape: Sequence[int] | None, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return random values (normal) for the only input of a net, of ``shape`` or of one image."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        kinds = [value.type for value in inputs]
        raise SettingsError(f"{model.name}: takes {kinds}; only nets with one float32 input can be measured")
    dims = inputs[0].shape
    if shape is None:
        stored = session.get_modelmeta().custom_metadata_map.get("lcnn.input_shape")
        shape = json.loads(stored) if stored else [1 if axis == 0 and isinstance(d, str) else d for axis, d in enumerate(dims)]
    if isinstance(dims[0], int) and dims[0] != shape[0]:
        raise SettingsError(
            f"{model.name}: batch is {shape[0]}, but the file fixes it to {dims[0]}; choose that batch or export a dynamic one"
        )
    fits = len(shape) == len(dims) and all(isinstance(d, str) or d == s for d, s in zip(dims, shape, strict=True))
    if not fits or not all(isinstance(s, int) for s in shape):
        raise SettingsError(f"{model.name}: takes {dims}, not {list(shape)}; 'lcnn.input_shape' must state its size")
    try:
        return {inputs[0].name: np.random.default_rng(seed).standard_normal(shape, np.float32)}
    except MemoryError as error:
        raise _too_large(shape[0], error) from error


def _outputs(session: Any, feed: dict[str, NDArray[np.float32]], name: str) -> list[NDArray[np.float32]]:
    try:
        outputs: list[NDArray[np.float32]] = session.run(None, feed)
    except RUN_ERRORS as error:
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise _too_large(len(next(iter(feed.values()))), error) from error
        raise ArtefactError(f"{Path(name).name}: ONNX Runtime cannot run it: {runtime.ort_message(error)}") from error
    return outputs


def _too_large(batch: int, error: Exception) -> SettingsError:
    return SettingsError(f"batch is {batch}: it does not fit in memory ({runtime.ort_message(error)}); choose a smaller one")


class _Profile:
    """A session that notes the time of every node in every run; a file with lookups also leaves its optimised graph.

    ONNX Runtime executes nodes in the order in which it writes them to that file, so the n-th event of a run is its n-th node.
    """

    def __init__(self, model: Path, threads: int, seed: int, folder: Path) -> None:
        options = _options()
        self.optimised: Path | None = None
        if runtime.uses_lookups(model):
            self.optimised = folder / f"{model.stem}.optimised.onnx"
            options.optimized_model_filepath = str(self.optimised)
            weights = f"{model.stem}.optimised.bin"
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
        self.session = runtime.session(model, threads=threads, profile_prefix=folder / model.stem, options=options)
        self.feed = _input(self.session, model, None, seed)
        self.graph = _read_onnx(model).graph
        self.name, self.n_runs = model.name, 0

    def run(self, times: int) -> None:
        for _ in range(times):
            self.session.run(None, self.feed)
        self.n_runs += times

    def finish(self) -> list[dict[str, float]]:
        """Return ms per layer and of ``OTHER`` for each run."""
        noted = json.loads(Path(self.session.end_profiling()).read_text())
        events = [e for e in noted if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        n_nodes, rest = divmod(len(events), self.n_runs)
        assert rest == 0, (len(events), self.n_runs)
        shares = self._shares(events[-n_nodes:])
        expected = {layer_name(node) for node in self.graph.node if node.op_type in LAYER_OPS and node.name}
        missing = expected - {name for names in shares for name in names}
        if missing:
            log.warning("%s: no time found for %s", self.name, ", ".join(sorted(missing)))
        runs = []
        for run in range(self.n_runs):
            times: dict[str, float] = defaultdict(float, {OTHER: 0.0})
            for event, names in zip(events[run * n_nodes :], shares, strict=False):
                for name in names or [OTHER]:
                    times[name] += event["dur"] / 1000 / max(1, len(names))
            runs.append(dict(times))
        return runs

    def _shares(self, events: list[dict[str, Any]]) -> list[list[str]]:
        """Return for each event of a run the layers it counts for, in equal parts."""
        by_name = layers_of_events(self.graph)
        titles = [(event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]) for event in events]
        shares = [[by_name[t]] if t in by_name and op.removeprefix("Fused") in LAYER_OPS else [] for t, op in titles]
        if self.optimised is None:
            return shares
        nodes = list(_read_onnx(self.optimised).graph.node)
        if [node.op_type for node in nodes] != [op for _, op in titles]:
            log.warning("%s: the profile does not follow the optimised graph; layout changes count as %s", self.name, OTHER)
            return shares
        add_inlined(self.graph, nodes, shares)
        add_layout_changes(nodes, shares)
        return shares


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def _least_medians(runs: list[dict[str, float]], rounds: int) -> dict[str, float]:
    length = len(runs) // rounds
    medians = [_medians(runs[i * length + PROFILE_WARMUP : (i + 1) * length]) for i in range(rounds)]
    return {name: min(median[name] for median in medians) for name in medians[0]}

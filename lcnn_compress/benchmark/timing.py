"""Open files, each in the engine that runs it, ONNX Runtime or OpenVINO, time runs in turn, and sum times up. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lcnn_compress import runtime
from lcnn_compress.errors import ArtefactError, SettingsError
from lcnn_compress.export.metadata import stored_shape

if TYPE_CHECKING:
    import onnx

ONNXRUNTIME, OPENVINO = "ONNX Runtime", "OpenVINO"
RUN_ERRORS: tuple[type[Exception], ...] = (MemoryError, *runtime.ORT_ERRORS)
Outputs = list[NDArray[np.float32]]
# A function of this type runs a net once and returns its outputs.
RunOnce = Callable[[], Outputs]
MEMORY_RUNS = 3
# A run of more ms than this is not spoilt by what other nets left in the caches: it reads far more than they hold.
LONG_MS = 100.0
BOOTSTRAP_SAMPLES = 1000


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read a file without the weights that lie in other files."""
    import onnx

    return onnx.load(path, load_external_data=False)


@dataclass(frozen=True)
class Memory:
    """The most memory that a process ever held."""

    peak_rss_bytes: int


@dataclass(frozen=True)
class EngineFile:
    """A file and the engine that runs it."""

    path: Path
    engine: str = ONNXRUNTIME


@dataclass(frozen=True)
class Turns:
    """Of each file: ms of every counted run, and max |its outputs - those of the first file| on the input that was timed."""

    ms: list[list[float]]
    max_abs_diff: list[float]


def peak_memory(run: RunOnce | None) -> Memory:
    """Run a net, if there is one, and return the most memory this process ever held."""
    if run is not None:
        for _ in range(MEMORY_RUNS):
            run()
    # getrusage would not do: its peak survives exec, so a large parent process would be counted.
    status = Path("/proc/self/status").read_text()
    return Memory(1024 * int(status.partition("VmHWM:")[2].split()[0]))


def outputs_in_turn(files: Sequence[EngineFile], shape: list[int], threads: int, rounds: Sequence[int], seed: int) -> Turns:
    """Time runs of the files of one net in turn.

    Args:
        files: the first one is what the others are compared with.
        shape: shape of the input.
        threads: number that one operator may use.
        rounds: numbers of counted rounds and of warm-up rounds before them.
        seed: seed of the random input.

    Raises:
        SettingsError: the shape does not fit the files or the memory, or the outputs are not of one shape.
        ArtefactError, FileError: a file is damaged or missing.
    """
    runs = [open_file(file, shape, threads, seed) for file in files]
    first, *_ = results = [run() for run in runs]
    for file, result in zip(files, results, strict=True):
        want, got = ([output.shape for output in outputs] for outputs in (first, result))
        if want != got:
            names = files[0].path.name, file.path.name
            raise SettingsError(f"{names[0]} gives {want}, {names[1]} {got}; both must be forms of one net")
    differences = [max(float(np.abs(a - b).max(initial=0)) for a, b in zip(first, y, strict=True)) for y in results]
    del first, results  # outputs are no part of what is timed
    return Turns(time_in_turn(runs, rounds), differences)


def time_in_turn(runs: Sequence[RunOnce], rounds: Sequence[int]) -> list[list[float]]:
    """Return the ms of the counted run of each net in each round.

    The nets take turns, and another one comes first in each round. A turn is two runs, the second counted: what the other
    nets left in the caches is no part of it, as where a process runs one net again and again. A run of more than ``LONG_MS``
    hardly notices, so that it counts itself.

    Args:
        runs: a function for each net that runs it once.
        rounds: numbers of counted rounds and of warm-up rounds before them.
    """
    times: list[list[float]] = [[] for _ in runs]
    counted, warmup = rounds
    for turn in range(-warmup, counted):
        for step in range(len(runs)):
            net = (turn + 1 + step) % len(runs)
            ms = _ms_of(runs[net])
            times[net].append(ms if ms > LONG_MS else _ms_of(runs[net]))
    return [ms[warmup:] for ms in times]


def _ms_of(run: RunOnce) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def open_file(file: EngineFile, shape: Sequence[int] | None, threads: int, seed: int) -> RunOnce:
    """Return what runs a file once in its engine; OpenVINO is told the shape, ONNX Runtime can do without."""
    if file.engine == ONNXRUNTIME:
        return open_net(file.path, shape, threads, seed)
    import openvino

    assert shape is not None
    request = openvino_request(file.path, shape, threads)[0]
    # Tensors are set once: what Python does for each call would count against a small net.
    request.set_input_tensor(openvino.Tensor(random_values(shape, seed)))
    outputs = [tensor.data for tensor in request.output_tensors]

    def run() -> Outputs:
        request.infer(share_outputs=True)
        return outputs

    return run


def openvino_request(path: Path, shape: Sequence[int], threads: int) -> tuple[Any, str]:
    """Compile a file as OpenVINO does by default where images come one after another.

    Returns:
        An InferRequest for inputs of ``shape``, and the type it computes in where the file does not say int8: bfloat16 where
        the processor has that.
    """
    import openvino

    core = openvino.Core()
    net = core.read_model(path)
    net.reshape(list(shape))
    compiled = core.compile_model(net, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    names = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
    return compiled.create_infer_request(), names.get(precision, precision)


def random_values(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Return normal random values.

    Raises:
        SettingsError: they do not fit in memory.
    """
    try:
        return np.random.default_rng(seed).standard_normal(shape, np.float32)
    except (MemoryError, ValueError) as error:  # numpy refuses what no address reaches as a value
        raise _too_large(shape[0], error) from error


def open_net(model: Path, shape: Sequence[int] | None, threads: int, seed: int) -> RunOnce:
    """Return what runs a file once in ONNX Runtime, on random values of ``shape`` or of one image."""
    session = runtime.session(model, threads=threads, options=session_options())
    feed = random_input(session, model, shape, seed)
    return lambda: _outputs(session, feed, model.name)


def session_options() -> ort.SessionOptions:
    """Return options with which workers sleep between runs: they would spin on the cores another session is timed on."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def random_input(session: Any, model: Path, shape: Sequence[int] | None, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return random values (normal) for the only input of a net, of ``shape`` or of one image."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        kinds = [value.type for value in inputs]
        raise SettingsError(f"{model.name}: takes {kinds}; only nets with one float32 input can be measured")
    dims = inputs[0].shape
    if shape is None:
        stored = session.get_modelmeta().custom_metadata_map.get("lcnn.input_shape")
        one = [1 if axis == 0 and isinstance(d, str) else d for axis, d in enumerate(dims)]
        shape = stored_shape(stored, Path(model.name)) if stored else one
    if dims and shape and isinstance(dims[0], int) and dims[0] != shape[0]:
        raise SettingsError(
            f"{model.name}: batch is {shape[0]}, but the file fixes it to {dims[0]}; choose that batch or export a dynamic one"
        )
    fits = len(shape) == len(dims) and all(isinstance(d, str) or d == s for d, s in zip(dims, shape, strict=True))
    if not fits or not all(isinstance(s, int) for s in shape):
        raise SettingsError(f"{model.name}: takes {dims}, not {list(shape)}; 'lcnn.input_shape' must state its size")
    return {inputs[0].name: random_values(shape, seed)}


def _outputs(session: Any, feed: dict[str, NDArray[np.float32]], name: str) -> Outputs:
    try:
        outputs: Outputs = session.run(None, feed)
    except RUN_ERRORS as error:
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise _too_large(len(next(iter(feed.values()))), error) from error
        raise ArtefactError(f"{Path(name).name}: ONNX Runtime cannot run it: {runtime.ort_message(error)}") from error
    return outputs


def _too_large(batch: int, error: Exception) -> SettingsError:
    return SettingsError(f"batch is {batch}: it does not fit in memory ({runtime.ort_message(error)}); choose a smaller one")


@dataclass(frozen=True)
class Latency:
    """Percentiles (interpolated linearly) and minimum of the ms that a batch takes, and images per second at the median."""

    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p99: float
    latency_ms_min: float
    throughput_per_s: float


def latency_statistics(latency_ms: Iterable[float], batch: int) -> Latency:
    """Return the statistics of the ms of runs of ``batch`` images each."""
    values = np.asarray(list(latency_ms), np.float64)
    p50, p90, p99 = (float(p) for p in np.percentile(values, (50, 90, 99)))
    return Latency(p50, p90, p99, float(values.min()), 1000 * batch / p50)


def ratio_interval(dense_ms: Sequence[float], lookup_ms: Sequence[float], seed: int) -> tuple[float, float]:
    """Return the 95 % interval of median(dense) / median(lookup) by a bootstrap over pairs of runs (Efron 1979)."""
    pairs = np.array([dense_ms, lookup_ms], np.float64)  # (2, n)
    chosen = np.random.default_rng(seed).integers(0, pairs.shape[1], (BOOTSTRAP_SAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, chosen], axis=2)  # (2, samples)
    low, high = np.percentile(medians[0] / medians[1], (2.5, 97.5))
    return float(low), float(high)

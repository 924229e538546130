"""Time any number of forms of one net in turn, each in the engine that runs it: ONNX Runtime or OpenVINO. No torch.

``compare`` compares two files in ONNX Runtime; this module adds what else a user could run: int8 and another engine. As there,
latency is taken in one child process, so that a busy machine slows all forms, and peak memory in a fresh one for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.benchmark.child import run_child
from lcnn_compress.benchmark.statistics import Latency, latency_statistics, ratio_interval
from lcnn_compress.benchmark.timing import Memory, RunOnce, open_net, peak_memory, time_in_turn

ONNXRUNTIME, OPENVINO = "ONNX Runtime", "OpenVINO"
# All other forms are compared with the form of this name.
REFERENCE = "dense"
# The ranges of int8 activations are taken from this many random images.
INT8_IMAGES = 4


@dataclass(frozen=True)
class EngineFile:
    """A file and the engine that runs it."""

    path: Path
    engine: str = ONNXRUNTIME


@dataclass(frozen=True)
class FormFigures(Latency):
    """What is measured of one form of a net; speed-ups are over ``REFERENCE``, with the 95 % interval."""

    peak_rss_bytes: int
    speedup_p50: float
    speedup_ci95: tuple[float, float]


def installed_engines() -> tuple[str, ...]:
    """Return the engines that can be measured here."""
    return (ONNXRUNTIME, OPENVINO) if find_spec("openvino") is not None else (ONNXRUNTIME,)


def time_files(
    forms: Mapping[str, EngineFile], shape: Sequence[int], threads: int, settings: BenchSettings
) -> dict[str, FormFigures]:
    """Measure all forms of a net at one batch size and number of threads.

    Args:
        forms: files by the name of the form; one is called ``REFERENCE``.
        shape: shape of the input, (N, C, H, W).
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
    answer = run_child(measure_turns, given, f"the turns measurement of {', '.join(forms)}", settings.timeout_s)
    times = dict(zip(forms, Turns(**answer).ms, strict=True))
    found = {}
    for name, form in forms.items():
        given, subject = {"path": form.path, "engine": form.engine, **common}, f"the memory measurement of {form.path}"
        memory = Memory(**run_child(measure_engine_memory, given, subject, settings.timeout_s))
        found[name] = FormFigures(
            **vars(latency_statistics(times[name], shape[0])), **vars(memory),
            speedup_p50=float(np.median(times[REFERENCE]) / np.median(times[name])),
            speedup_ci95=ratio_interval(times[REFERENCE], times[name], settings.seed),
        )  # fmt: skip
    return found


def write_int8(dense: Path, path: Path, shape: Sequence[int], settings: BenchSettings) -> None:
    """Write a float32 file as int8: static QDQ, weights per channel, activations uint8 with ranges of random images."""
    given = {"model": dense, "path": path, "shape": (1, *shape[1:]), "seed": settings.seed}
    run_child(quantise, given, f"the quantise measurement of {dense}", settings.timeout_s)


# The functions below run in child processes, so they take and return what JSON holds.


@dataclass(frozen=True)
class Turns:
    """``ms`` holds the times of the counted runs, a list for each file."""

    ms: list[list[float]]


def measure_turns(
    paths: list[str], engines: list[str], rounds: Sequence[int], shape: list[int], threads: int, seed: int
) -> Turns:
    """Time files in turn, each in its engine."""
    files = [EngineFile(Path(path), engine) for path, engine in zip(paths, engines, strict=True)]
    return Turns(time_in_turn([open_file(file, shape, threads, seed) for file in files], rounds))


def measure_engine_memory(path: str, engine: str, shape: list[int], threads: int, seed: int) -> Memory:
    """Run a file in its engine and return the most memory this process held."""
    return peak_memory(open_file(EngineFile(Path(path), engine), shape, threads, seed))


def open_file(file: EngineFile, shape: list[int], threads: int, seed: int) -> RunOnce:
    """Return what runs a file once in its engine, on random values of ``shape``."""
    if file.engine == ONNXRUNTIME:
        return open_net(file.path, shape, threads, seed)
    import openvino

    net = openvino.Core().read_model(str(file.path))
    net.reshape(shape)
    # Without the hint OpenVINO computes in bfloat16 where the processor can.
    chosen = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(net, "CPU", chosen).create_infer_request()
    x = _random(shape, seed)
    return lambda: [np.asarray(y) for y in request.infer([x], share_inputs=True, share_outputs=True).values()]


def quantise(model: str, path: str, shape: list[int], seed: int) -> dict[str, str]:
    """Write ``model`` as int8 to ``path``, which is also the answer."""
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    name = InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()[0].name

    class RandomImages(CalibrationDataReader):  # type: ignore[misc]  # a class without types
        def __init__(self) -> None:
            self.images: Iterator[NDArray[np.float32]] = (_random(shape, seed + i) for i in range(INT8_IMAGES))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            x = next(self.images, None)
            return None if x is None else {name: x}

    quantize_static(
        model, path, RandomImages(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return {"path": path}


def _random(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)

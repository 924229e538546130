"""Time any number of forms of one net in turn, each in the engine that runs it: ONNX Runtime or OpenVINO. No torch.

``benchmark`` compares two files in ONNX Runtime; this adds what else a user could run: int8 and another engine. As there,
latency is taken in one child process, so that a busy machine slows all forms, and peak memory in a fresh one for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnn_compress.bench.child import Job, answer_parent, run_child
from lcnn_compress.bench.settings import BenchSettings
from lcnn_compress.bench.statistics import latency_statistics, ratio_interval
from lcnn_compress.bench.timing import Run, open_net, peak_memory, time_in_turn

ONNXRUNTIME, OPENVINO = "ONNX Runtime", "OpenVINO"
DENSE = "dense"  # the form all others are compared with
CALIBRATION_IMAGES = 4


@dataclass(frozen=True)
class EngineFile:
    """A file and the engine that runs it."""

    path: Path
    engine: str = ONNXRUNTIME


def has_openvino() -> bool:
    """Whether the package openvino is installed."""
    return find_spec("openvino") is not None


def time_files(forms: Mapping[str, EngineFile], shape: Sequence[int], threads: int, settings: BenchSettings) -> dict[str, Any]:
    """Measure all forms of a net at one batch size and number of threads.

    Args:
        forms: by name; one is called ``DENSE``.
        shape: of the input, (N, C, H, W).

    Returns:
        By form: ``latency_statistics``, ``peak_rss_bytes``, ``speedup_p50`` over dense and its 95 % interval.

    Raises:
        SettingsError: the batch does not fit the files, the memory or the time limit.
        ChildError: a measuring process crashed.
    """
    common = {"shape": list(shape), "threads": threads, "seed": settings.seed}
    files = {name: (str(form.path), form.engine) for name, form in forms.items()}
    rounds = [settings.iterations, settings.warmup]
    job = {"job": "turns", "model": ", ".join(forms), "forms": files, "rounds": rounds, **common}
    times = run_child(job, __name__, settings.timeout_s)
    dense = np.median(times[DENSE])
    found = {}
    for name, (path, engine) in files.items():
        memory = run_child({"job": "memory", "model": path, "engine": engine, **common}, __name__, settings.timeout_s)
        found[name] = latency_statistics(times[name], shape[0]) | memory
        found[name]["speedup_p50"] = float(dense / np.median(times[name]))
        found[name]["speedup_ci95"] = ratio_interval(times[DENSE], times[name], settings.seed)
    return found


def write_int8(dense: Path, path: Path, shape: Sequence[int], settings: BenchSettings) -> None:
    """Write a float32 file as int8: static QDQ, weights per channel, activations uint8 with ranges of random images."""
    job = {"job": "quantise", "model": dense, "path": path, "shape": [1, *shape[1:]], "seed": settings.seed}
    run_child(job, __name__, settings.timeout_s)


def child_main() -> None:
    """Do one of ``JOBS`` for the parent process."""
    answer_parent(JOBS)


def _turns_job(
    model: str,  # noqa: ARG001  # names the job in errors
    forms: dict[str, tuple[str, str]],
    rounds: Sequence[int],
    shape: list[int],
    threads: int,
    seed: int,
) -> dict[str, list[float]]:
    runs = [_open(path, engine, shape, threads, seed) for path, engine in forms.values()]
    return dict(zip(forms, time_in_turn(runs, rounds), strict=True))


def _memory_job(model: str, engine: str, shape: list[int], threads: int, seed: int) -> dict[str, Any]:
    return peak_memory(_open(model, engine, shape, threads, seed))


def _open(path: str, engine: str, shape: list[int], threads: int, seed: int) -> Run:
    if engine == ONNXRUNTIME:
        return open_net(Path(path), shape, threads, seed)
    import openvino

    net = openvino.Core().read_model(path)
    net.reshape(shape)
    # Without the hint OpenVINO computes in bfloat16 where the processor can.
    chosen = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(net, "CPU", chosen).create_infer_request()
    x = _random(shape, seed)
    return lambda: [np.asarray(y) for y in request.infer([x], share_inputs=True, share_outputs=True).values()]


def _quantise_job(model: str, path: str, shape: list[int], seed: int) -> dict[str, Any]:
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    name = InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()[0].name

    class RandomImages(CalibrationDataReader):  # type: ignore[misc]  # a class without types
        def __init__(self) -> None:
            self.images: Iterator[NDArray[np.float32]] = (_random(shape, seed + i) for i in range(CALIBRATION_IMAGES))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            x = next(self.images, None)
            return None if x is None else {name: x}

    quantize_static(
        model, path, RandomImages(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return {}


def _random(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


JOBS: dict[str, Job] = {"turns": _turns_job, "memory": _memory_job, "quantise": _quantise_job}

"""Measure a dense against a lookup ONNX file: latency, memory, size, and time per layer. No torch.

Every figure that matters comes from child processes that import NumPy and ONNX Runtime only. Latency is taken in one child that
runs dense and lookup in turn, so that a busy machine slows both; peak memory in a fresh child for each net.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from lcnn_compress import runtime
from lcnn_compress.bench.child import Job, answer_parent, run_child
from lcnn_compress.bench.gain import measure_gain
from lcnn_compress.bench.profile import OTHER, log
from lcnn_compress.bench.settings import BenchSettings
from lcnn_compress.bench.statistics import latency_statistics, ratio_interval
from lcnn_compress.bench.timing import open_net, outputs_in_turn, peak_memory, read_onnx
from lcnn_compress.errors import ArtefactError
from lcnn_compress.machine import machine


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
    stored = {entry.key: entry.value for entry in read_onnx(path).metadata_props}
    try:
        return json.loads(stored["lcnn.layers"]), json.loads(stored["lcnn.input_shape"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ArtefactError(
            f"{path.name}: metadata 'lcnn.layers' or 'lcnn.input_shape' cannot be read ({error}); write it with lcnn export"
        ) from error


def _file_facts(path: Path) -> dict[str, int]:
    """Return the bytes of the file, with its external data, and of its initialisers."""
    import onnx

    tensors = read_onnx(path).graph.initializer
    outside = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    sizes = (int(np.prod(t.dims)) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize for t in tensors)
    file_bytes = sum(file.stat().st_size for file in (path, *(path.parent / name for name in outside)))
    return {"file_bytes": file_bytes, "weight_bytes": sum(sizes)}


def child_main() -> None:
    """Do one of ``JOBS`` for the parent process."""
    answer_parent(JOBS)


def _latency_job(dense: str, lookup: str, shape: list[int], threads: int, pairs: tuple[int, int], seed: int) -> dict[str, Any]:
    dense_ms, lookup_ms, difference = outputs_in_turn((Path(dense), Path(lookup)), shape, threads, pairs, seed)
    return {"dense_ms": dense_ms, "lookup_ms": lookup_ms, "max_abs_diff": difference}


def _memory_job(model: str | None = None, shape: list[int] | None = None, threads: int = 1, seed: int = 0) -> dict[str, Any]:
    return peak_memory(None if model is None else open_net(Path(model), shape, threads, seed))


def _layers_job(dense: str, lookup: str, threads: int, seed: int) -> dict[str, Any]:
    return asdict(measure_gain(Path(dense), Path(lookup), threads=threads, seed=seed))


JOBS: dict[str, Job] = {"latency": _latency_job, "memory": _memory_job, "layers": _layers_job}

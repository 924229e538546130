"""Where the time of an ONNX file goes, node by node, as ONNX Runtime's own profile tells it, and the same as a trace.

A lookup convolution is one node: the native library has no means to time its two stages in a session. A layer of low rank is
two nodes, NAME/dictionary and NAME.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lcnn_compress import api, runtime
from lcnn_compress.artefact.report import Json
from lcnn_compress.benchmark.bench_settings import MAX_THREADS
from lcnn_compress.benchmark.profile import NodeEvent, Noted, Profile
from lcnn_compress.benchmark.timing import Outputs, open_net, random_input, read_onnx, time_in_turn
from lcnn_compress.errors import SettingsError
from lcnn_compress.files import temporary_folder, write_atomically

RUNS, WARMUP = 50, 3
# ONNX Runtime notes at most a million events in a session; a net of open sizes may get nodes that its file does not have.
MAX_EVENTS = 300_000


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph that ONNX Runtime made of the file.

    Attributes:
        name: as ONNX Runtime calls it, which may be the name of a tensor where it fused nodes.
        layers: those it counts for; none where it is a pooling, a change of layout or the like between layers.
        median_us: of one run, in microseconds, of which ONNX Runtime notes whole ones.
        share: of the time of all nodes, 0 to 1.
    """

    name: str
    operator: str
    layers: tuple[str, ...]
    median_us: float
    share: float


@dataclass(frozen=True)
class NodeProfile:
    """The nodes in the order in which they run, and medians of whole runs in microseconds.

    Attributes:
        input_shape: of the input that was run, random values.
        nodes_us: the times of all nodes of a run together.
        profiled_us: a run while nodes are timed; what is more than ``nodes_us`` is spent between them.
        unprofiled_us: a run of the same file, on the same input, while nothing is noted.
    """

    file: str
    input_shape: tuple[int, ...]
    threads: int
    runs: int
    onnxruntime: str
    isa: str | None
    nodes: tuple[NodeTime, ...]
    nodes_us: float
    profiled_us: float
    unprofiled_us: float


def profile(
    path: str | Path,
    *,
    threads: int = 1,
    batch: int = 1,
    runs: int = RUNS,
    input_shape: Sequence[int] | None = None,
    trace: str | Path | None = None,
) -> NodeProfile:
    """Time every node of an ONNX file, or of the file of an artefact, in turn with runs that are not profiled.

    Args:
        path: an ONNX file, or an artefact.
        threads: number that one operator may use.
        batch: images in a run.
        runs: runs that count, after some that do not.
        input_shape: (1, ...) of the input, where the file does not say it; without it that of the file.
        trace: write one event for every node and run there, as JSON that chrome://tracing and Perfetto read.

    Raises:
        ArtefactError, FileError: the file is damaged or missing, or the trace cannot be written.
        SettingsError: a number makes no sense, or the shape does not fit the file.
    """
    for name, value, most in (("threads", threads, MAX_THREADS), ("batch", batch, None), ("runs", runs, None)):
        if value < 1 or (most is not None and value > most):
            raise SettingsError(f"`{name}` is {value}; it must be at least 1{'' if most is None else f' and at most {most}'}")
    with temporary_folder() as folder:
        file = Path(path)
        if file.suffix != ".onnx":
            artefact, file = api.load(file), file / "model.onnx"
            if not file.is_file():
                file = folder / "model.onnx"
                api.export_onnx(artefact, file)
        shape = _shape(file, batch, input_shape)
        plain = open_net(file, shape, threads, 0)
        plain()  # a batch that does not fit in memory, and a net that cannot be run, are refused here
        most = MAX_EVENTS // len(read_onnx(file).graph.node or [None]) // 2 - WARMUP
        if runs > most:
            raise SettingsError(f"`runs` is {runs}; ONNX Runtime notes at most {most} runs of a net of so many nodes")
        session = Profile(file, threads, 0, folder, shape=shape)

        def profiled() -> Outputs:
            session.run(1)
            return []

        plain_ms, _ = time_in_turn([plain, profiled], (runs, WARMUP))
        noted = session.noted()
        # A turn is two runs, of which the second counts.
        counted = range(2 * WARMUP + 1, session.n_runs, 2)
        noted = replace(noted, runs=[noted.runs[i] for i in counted], whole_us=[noted.whole_us[i] for i in counted])
    result = _result(str(path), shape, threads, noted, 1000 * float(np.median(plain_ms)))
    if trace is not None:
        write_atomically(Path(trace), json.dumps(trace_of(result, noted)).encode())
    return result


def _shape(file: Path, batch: int, input_shape: Sequence[int] | None) -> tuple[int, ...]:
    """Return the shape of the input; raise SettingsError where it cannot be known."""
    asked = None if input_shape is None else [batch, *input_shape[1:]]
    (x,) = random_input(runtime.session(file, threads=1), file, asked, 0).values()
    return x.shape if batch == 1 else (batch, *x.shape[1:])


def _result(file: str, shape: tuple[int, ...], threads: int, noted: Noted, unprofiled_us: float) -> NodeProfile:
    times = np.array([[event.us for event in events] for events in noted.runs], np.float64)  # (runs, nodes)
    medians = np.median(times, axis=0)
    total = float(medians.sum()) or 1.0
    nodes = tuple(
        NodeTime(event.title, event.operator, tuple(layers), float(median), float(median) / total)
        for event, layers, median in zip(noted.runs[0], noted.layers, medians, strict=True)
    )
    profiled = float(np.median([us for _, us in noted.whole_us]))
    return NodeProfile(
        file, shape, threads, len(noted.runs), runtime.onnxruntime_version(), runtime.isa(), nodes,
        float(np.median(times.sum(axis=1))), profiled, unprofiled_us,
    )  # fmt: skip


def trace_of(profile: NodeProfile, noted: Noted) -> Json:
    """Return the runs of a profile in the Trace Event Format: a slice for each run and in it one for each node.

    Source: "Trace Event Format" (Google, 2016), complete events ("ph": "X"); times are in microseconds.
    """
    start = noted.whole_us[0][0]
    place = {"pid": 1, "tid": 1}
    events: list[Json] = [
        {"ph": "M", "name": "process_name", **place, "args": {"name": f"ONNX Runtime {profile.onnxruntime}: {profile.file}"}},
        {"ph": "M", "name": "thread_name", **place, "args": {"name": f"nodes, {profile.threads} threads each"}},
    ]
    for number, (nodes, (began, us)) in enumerate(zip(noted.runs, noted.whole_us, strict=True)):
        whole = {"ph": "X", "name": f"run {number}", "cat": "run", "ts": began - start, "dur": us, **place}
        events.append({**whole, "args": {"input": list(profile.input_shape)}})
        for node, layers in zip(nodes, noted.layers, strict=True):
            events.append(
                {"ph": "X", "name": node.title, "cat": node.operator, "ts": node.start_us - start, "dur": node.us, **place,
                 "args": _arguments(node, layers, number)}
            )  # fmt: skip
    about = {"file": profile.file, "threads": profile.threads, "isa": profile.isa}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _arguments(node: NodeEvent, layers: Sequence[str], run: int) -> Json:
    inputs, outputs = ([_tensor(tensor) for tensor in tensors] for tensors in (node.inputs, node.outputs))
    return {"operator": node.operator, "layer": ", ".join(layers), "run": run, "inputs": inputs, "outputs": outputs}


def _tensor(tensor: dict[str, list[int]]) -> str:
    """Return "float 1x3x8x8" for {"float": [1, 3, 8, 8]}."""
    return ", ".join(f"{kind} {'x'.join(map(str, shape)) or 'scalar'}" for kind, shape in tensor.items())

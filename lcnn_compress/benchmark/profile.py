"""The time of a net from runs in turn, and of every layer from ONNX Runtime's own profile of its nodes."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcnn_compress import runtime
from lcnn_compress.benchmark.node_layers import add_inlined, add_layout_changes, layers_of_events
from lcnn_compress.benchmark.timing import open_net, random_input, read_onnx, session_options, time_in_turn
from lcnn_compress.files import temporary_folder
from lcnn_compress.operators.common import layer_name
from lcnn_compress.operators.lookup_conv import LAYER_OPS

log = logging.getLogger(__name__)

# Under this name stands the time of what belongs to no layer: reorders, pooling, activations of their own.
OTHER = "(other)"
# A round of one net, or of two in turn, takes about this long, but has at least one run and at most so many.
ROUND_MS, MAX_RUNS = 400.0, 40


@dataclass(frozen=True)
class Rounds:
    """How often a net is run: ``count`` times ``runs`` runs that count, behind ``warmup`` others."""

    count: int = 5
    warmup: int = 3
    runs: int = 10

    @classmethod
    def of(cls, ms: float) -> Rounds:
        """Return those for a run, of one net or of two in turn, of ``ms``.

        Runs that take long are few: what disturbs a machine for moments is a small part of each.
        """
        runs = int(np.clip(ROUND_MS / max(ms, 1e-3), 1, MAX_RUNS))
        return cls(cls.count if runs > cls.warmup else 3, min(cls.warmup, runs), runs)


@dataclass(frozen=True)
class NetTimes:
    """Times of one image in ms.

    ``whole_ms`` is the median of runs of the net on the machine, busy as it is. ``layers`` are as ``layer_times`` returns them,
    ``OTHER`` included: the least of several medians, as if nothing else ran.
    """

    whole_ms: float
    layers: dict[str, float]


def net_times(model: Path, *, threads: int = 1) -> NetTimes:
    """Time a net as a whole and layer by layer, on one image.

    Raises:
        ArtefactError, FileError: the file is damaged or missing.
    """
    run = open_net(model, None, threads, 0)
    rounds = Rounds.of(min(time_in_turn([run], (1, 1))[0]))
    whole_ms = float(np.median(time_in_turn([run], (rounds.count * rounds.runs, 1))[0]))
    return NetTimes(whole_ms, layer_times(model, threads=threads, rounds=rounds))


def layer_times(
    model: Path,
    *,
    threads: int = 1,
    rounds: Rounds = Rounds(),
    seed: int = 0,
    native: bool = True,
    layer_ops: Collection[str] = LAYER_OPS,
) -> dict[str, float]:
    """Return the ms of each layer for one image, and of all else as ``"(other)"``: the least of the medians of ``rounds``.

    A layer is a node Conv, Gemm, MatMul or LookupConv, or another of ``layer_ops``, that has a name. An activation counts
    where it was fused into the layer; layout changes next to a LookupConv count for it (``add_layout_changes``). A layer that
    cannot be found in the profile is missing here and logged. ``native`` False leaves the native library aside, as where it is
    not installed.

    Raises:
        ArtefactError, FileError: the file is damaged or missing.
    """
    with temporary_folder() as folder:
        profile = Profile(model, threads, seed, folder, native, layer_ops)
        for _ in range(rounds.count):
            profile.run(rounds.warmup + rounds.runs)
        return least_medians(profile.finish(), rounds)


@dataclass(frozen=True)
class NodeEvent:
    """One run of one node, under the name ONNX Runtime gave it; times are in microseconds, since the session began.

    ``inputs`` and ``outputs`` are a list of {type: shape}, one for each tensor that is there.
    """

    title: str
    operator: str
    start_us: int
    us: int
    inputs: list[dict[str, list[int]]]
    outputs: list[dict[str, list[int]]]


@dataclass(frozen=True)
class Noted:
    """The events of the nodes of each run, the start and length of each run in microseconds, and the layers of each node."""

    runs: list[list[NodeEvent]]
    whole_us: list[tuple[int, int]]
    layers: list[list[str]]


class Profile:
    """A session that notes the time of every node in every run; a file with lookups also leaves its optimised graph.

    ONNX Runtime executes nodes in the order in which it writes them to that file, so the n-th event of a run is its n-th node.
    """

    def __init__(
        self,
        model: Path,
        threads: int,
        seed: int,
        folder: Path,
        native: bool = True,
        layer_ops: Collection[str] = LAYER_OPS,
        shape: Sequence[int] | None = None,
    ) -> None:
        options = session_options()
        self.optimised: Path | None = None
        if runtime.uses_lookups(model):
            self.optimised = folder / f"{model.stem}.optimised.onnx"
            options.optimized_model_filepath = str(self.optimised)
            weights = f"{model.stem}.optimised.bin"
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
        prefix = folder / model.stem
        self.session = runtime.session(model, threads=threads, native=native, profile_prefix=prefix, options=options)
        self.feed = random_input(self.session, model, shape, seed)
        self.graph = read_onnx(model).graph
        self.name, self.n_runs, self.layer_ops = model.name, 0, layer_ops

    def run(self, times: int) -> None:
        """Run the net ``times`` times on random values."""
        for _ in range(times):
            self.session.run(None, self.feed)
        self.n_runs += times

    def finish(self) -> list[dict[str, float]]:
        """Return ms per layer and of ``OTHER`` for each run."""
        noted = self.noted()
        runs = []
        for events in noted.runs:
            times: dict[str, float] = defaultdict(float, {OTHER: 0.0})
            for event, names in zip(events, noted.layers, strict=True):
                for name in names or [OTHER]:
                    times[name] += event.us / 1000 / max(1, len(names))
            runs.append(dict(times))
        return runs

    def noted(self) -> Noted:
        """End the session's profile and return what it noted of all runs."""
        written = json.loads(Path(self.session.end_profiling()).read_text())
        nodes = [e for e in written if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        events = [
            NodeEvent(
                e["name"].removesuffix("_kernel_time"), e["args"]["op_name"], e["ts"], e["dur"],
                e["args"].get("input_type_shape", []), e["args"].get("output_type_shape", []),
            )
            for e in nodes
        ]  # fmt: skip
        whole = [(e["ts"], e["dur"]) for e in written if e.get("name") == "model_run"]
        n_nodes, rest = divmod(len(events), self.n_runs)
        assert rest == 0, (len(events), self.n_runs)
        runs = [events[run * n_nodes : (run + 1) * n_nodes] for run in range(self.n_runs)]
        shares = self._shares(runs[-1])
        expected = {layer_name(node) for node in self.graph.node if node.op_type in self.layer_ops and node.name}
        missing = expected - {name for names in shares for name in names}
        if missing:
            log.warning("%s: no time found for %s", self.name, ", ".join(sorted(missing)))
        return Noted(runs, whole, shares)

    def _shares(self, events: list[NodeEvent]) -> list[list[str]]:
        """Return for each event of a run the layers it counts for, in equal parts."""
        by_name = layers_of_events(self.graph, self.layer_ops)
        shares = [
            [by_name[e.title]] if e.title in by_name and e.operator.removeprefix("Fused") in self.layer_ops else []
            for e in events
        ]
        if self.optimised is None:
            return shares
        nodes = list(read_onnx(self.optimised).graph.node)
        if [node.op_type for node in nodes] != [event.operator for event in events]:
            log.warning("%s: the profile does not follow the optimised graph; layout changes count as %s", self.name, OTHER)
            return shares
        add_inlined(self.graph, nodes, shares)
        add_layout_changes(nodes, shares)
        return shares


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def least_medians(runs: list[dict[str, float]], rounds: Rounds) -> dict[str, float]:
    """Return for each layer the least of the medians of the rounds that ``runs`` come from."""
    length = rounds.warmup + rounds.runs
    medians = [_medians(runs[i * length + rounds.warmup : (i + 1) * length]) for i in range(rounds.count)]
    return {name: min(median[name] for median in medians) for name in medians[0]}

"""How much faster one file is than another: layer by layer from profiles, the net from runs in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcnn_compress.benchmark.profile import Profile, Rounds, least_medians
from lcnn_compress.benchmark.timing import RunOnce, open_net, time_in_turn
from lcnn_compress.files import temporary_folder
from lcnn_compress.progress import Progress, silent

# The counted runs of a session take about this long together, and the uncounted runs before short ones as long again.
RATIO_SECONDS = 0.5
# A session has at least and at most this many pairs of counted runs, however long they take.
RATIO_PAIRS = (3, 2000)
# The median of this many sessions counts: a net's times in two sessions, seconds apart, differ by several per cent.
GAIN_SESSIONS = 3
# A timer takes and returns what ``time_in_turn`` does.
Timer = Callable[[Sequence[RunOnce], Sequence[int]], list[list[float]]]


@dataclass(frozen=True)
class TimingPlan:
    """How two nets are profiled: with ``threads`` for one operator, in ``rounds`` or, where that is None, as their time says.

    The least of the rounds' medians counts: whatever else the machine does only ever adds time. ``seed`` makes the input.
    """

    threads: int = 1
    rounds: Rounds | None = None
    seed: int = 0


@dataclass(frozen=True)
class Gain:
    """Times (dense, lookup) of one image in ms: of a layer the least of several medians, of the nets the median session's."""

    layers: dict[str, tuple[float, float]]
    dense_ms: float
    lookup_ms: float


def measure_gain(
    dense: Path,
    lookup: Path,
    layers: Sequence[str] | None = None,
    *,
    plan: TimingPlan = TimingPlan(),
    progress: Progress = silent,
    timer: Timer = time_in_turn,
) -> Gain:
    """Time two forms of one net, dense and lookup in turn: whole in several sessions, and layer by layer as ``plan`` says.

    Args:
        dense: a file that names its layers like ``lookup``.
        lookup: the file with LookupConv nodes.
        layers: names of those to return; None returns every layer found in both files, and ``"(other)"``.
        plan: threads, rounds and runs of the profiles, seed.
        progress: gets ("measuring", done, in total).
        timer: times the whole nets; the profiles are ONNX Runtime's own.

    Raises:
        ArtefactError, FileError: a file is damaged or missing.
    """
    sessions: list[tuple[float, float]] = []
    for done in range(GAIN_SESSIONS):
        progress("measuring", done, GAIN_SESSIONS + 1)
        sessions.append(_medians_in_turn((dense, lookup), plan.threads, plan.seed, timer))
    dense_ms, lookup_ms = sorted(sessions, key=lambda pair: pair[0] / pair[1])[GAIN_SESSIONS // 2]
    rounds = plan.rounds or Rounds.of(dense_ms + lookup_ms)
    total = GAIN_SESSIONS + rounds.count
    with temporary_folder() as folder:
        profiles = [Profile(path, plan.threads, plan.seed, folder) for path in (dense, lookup)]
        for done in range(rounds.count):
            progress("measuring", GAIN_SESSIONS + done, total)
            for profile in profiles:
                profile.run(rounds.warmup + rounds.runs)
        progress("measuring", total, total)
        found = [least_medians(profile.finish(), rounds) for profile in profiles]
    both = [name for name in found[0] if name in found[1] and (layers is None or name in layers)]
    times = {name: (found[0][name], found[1][name]) for name in both}
    return Gain(times, dense_ms, lookup_ms)


def time_ratio(first: Path, second: Path, *, threads: int = 1, seed: int = 0, timer: Timer = time_in_turn) -> float:
    """Return how many times faster ``second`` is: the ratio of the medians of runs in turn, for a second or so.

    Raises:
        ArtefactError, FileError: a file is damaged or missing.
    """
    first_ms, second_ms = _medians_in_turn((first, second), threads, seed, timer)
    return first_ms / second_ms


def _medians_in_turn(files: tuple[Path, Path], threads: int, seed: int, timer: Timer) -> tuple[float, float]:
    runs = [open_net(path, None, threads, seed) for path in files]
    trial_ms = timer(runs, (1, 1))
    pairs = int(np.clip(1000 * RATIO_SECONDS / sum(min(ms) for ms in trial_ms), *RATIO_PAIRS))
    first_ms, second_ms = timer(runs, (pairs, 0))
    return float(np.median(first_ms)), float(np.median(second_ms))

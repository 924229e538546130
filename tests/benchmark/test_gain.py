"""How many times faster a file is, from written times: which sessions, how many runs, which layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from small_onnx import LAYERS, LOOKUPS, write

from lcnn_compress.benchmark.gain import GAIN_SESSIONS, TimingPlan, measure_gain, time_ratio
from lcnn_compress.benchmark.profile import OTHER, Rounds
from lcnn_compress.benchmark.timing import RunOnce, open_net


class WrittenTimes:
    """A timer of two nets: what a trial and what each session of counted runs takes, in ms."""

    def __init__(self, trial: list[list[float]], sessions: list[list[list[float]]]) -> None:
        self.trial, self.sessions = trial, iter(sessions)
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, runs: Sequence[RunOnce], rounds: Sequence[int]) -> list[list[float]]:
        assert all(len(run()) == 1 for run in runs)  # they are nets that run
        self.asked.append(tuple(rounds))
        return self.trial if len(self.asked) % 2 else next(self.sessions)


@pytest.mark.parametrize(
    ("trial", "pairs"),
    [
        ([[4.0, 3.0], [1.0, 3.0]], 125),  # half a second of pairs of 3 + 1 ms
        ([[400.0, 300.0], [100.0, 300.0]], 3),  # slow nets run as often as that
        ([[0.01, 0.02], [0.01, 0.02]], 2000),
    ],
)
def test_time_ratio_takes_medians_over_half_a_second(trial: list[list[float]], pairs: int, tmp_path: Path) -> None:
    timer = WrittenTimes(trial, [[[4.0, 3.0, 5.0], [1.0, 3.0, 2.0]]])
    assert time_ratio(write(tmp_path, lookup=False), write(tmp_path, lookup=True), timer=timer) == 2.0
    assert timer.asked == [(1, 1), (pairs, 0)]


def test_time_ratio_times_the_first_file_over_the_second(tmp_path: Path) -> None:
    dense, lookup = write(tmp_path, lookup=False), write(tmp_path, lookup=True)
    counts: list[int] = []

    def timer(runs: Sequence[RunOnce], rounds: Sequence[int]) -> list[list[float]]:
        del rounds
        assert [float(run()[0].sum()) for run in runs] == pytest.approx(sums)
        counts.append(len(runs))
        return [[6.0], [2.0]]

    sums = [float(open_net(path, None, 1, 7)()[0].sum()) for path in (dense, lookup)]
    assert sums[0] != pytest.approx(sums[1])
    assert time_ratio(dense, lookup, seed=7, timer=timer) == 3.0
    assert counts == [2, 2]


def test_the_session_of_the_median_ratio_tells_the_gain(tmp_path: Path) -> None:
    sessions = [[[8.0], [2.0]], [[30.0], [10.0]], [[10.0], [2.0]]]
    timer = WrittenTimes([[4.0], [1.0]], sessions)
    files = write(tmp_path, lookup=False), write(tmp_path, lookup=True)
    gain = measure_gain(*files, plan=TimingPlan(rounds=Rounds(1, 1, 1)), timer=timer)
    assert (gain.dense_ms, gain.lookup_ms) == (8.0, 2.0)
    assert timer.asked == [(1, 1), (100, 0)] * GAIN_SESSIONS


def test_measure_gain_returns_the_layers_asked_for(tmp_path: Path) -> None:
    dense, lookup = write(tmp_path, lookup=False), write(tmp_path, lookup=True)
    steps: list[tuple[str, int, int]] = []
    plan = TimingPlan(rounds=Rounds(2, 1, 2))
    gain = measure_gain(dense, lookup, LOOKUPS, plan=plan, progress=lambda *step: steps.append(step))
    assert list(gain.layers) == LOOKUPS
    assert steps[-3:] == [("measuring", done, GAIN_SESSIONS + 2) for done in range(GAIN_SESSIONS, GAIN_SESSIONS + 3)]
    assert set(measure_gain(dense, lookup, plan=TimingPlan(rounds=Rounds(1, 1, 1))).layers) == {*LAYERS, OTHER}

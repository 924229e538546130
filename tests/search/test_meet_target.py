"""Meeting a target: landing on what is measured, what a built net teaches, and what cannot be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from given_times import BUSY_MS, DENSE_MS, small_problem, timers

from lcnn_compress.benchmark.gain import Gain
from lcnn_compress.benchmark.profile import OTHER
from lcnn_compress.errors import SettingsError
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.budget_report import SizeRound, TimeRound
from lcnn_compress.search.meet_target import CLOSE, correct_times, fit, initial_choice, second_choice, speed_over_target
from lcnn_compress.search.problem import Choice, Problem
from lcnn_compress.search.target import Target

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Watched(Problem):
    """Notes the choices whose nets are built."""

    asked: list[Choice] = field(default_factory=list)

    def model(self, choice: Choice, progress: Progress = silent) -> onnx.ModelProto:
        self.asked.append(choice)
        return super().model(choice, progress)


def measured(in_net: Callable[[float], float], problem: Problem) -> Watched:
    """Return the problem on a machine where lookups that take ms alone take ``in_net(ms)`` in the net."""

    def gain(dense: Path, lookup: Path, **_: Any) -> Gain:
        taken = {c.plan.name: in_net(c.ms) if c.plan.form.is_coded else c.ms for c in watched.asked[-1].picked}
        whole = sum(taken.values()) + DENSE_MS[OTHER]
        # The machine is twice as slow as when it is quiet.
        return Gain({name: (DENSE_MS[name], ms) for name, ms in taken.items()}, BUSY_MS, 2 * whole)

    watched = Watched(**(vars(problem) | {"timers": replace(timers(), measure_gain=gain)}))
    return watched


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.4])
@pytest.mark.parametrize(("kind", "value"), [("speedup", 1.6), ("latency_ms", 4.5)])
def test_a_target_is_met_although_layers_take_longer_in_the_net(scale: float, kind: str, value: float) -> None:
    result = fit(measured(lambda ms: scale * ms, small_problem()), Target(kind, value))
    found = []
    for done in result.rounds:
        assert isinstance(done, TimeRound)
        found.append(done.measured_ms if kind == "latency_ms" else done.measured_speedup)
    assert min(abs(got / value - 1) for got in found) <= 2 * CLOSE
    assert (len(result.rounds) == 1) == (scale == 1.0)


def test_the_problem_that_was_given_knows_nothing_of_what_was_measured() -> None:
    given = measured(lambda ms: 1.4 * ms, small_problem())
    before, target = given.corrections, Target("speedup", 1.6)
    result = fit(given, target)
    assert len(result.rounds) > 1
    assert given.corrections == before
    assert ("conv2", "float32") in result.problem.corrections.time_correction
    # A second plan starts from the same times as the first.
    again = replace(given, recovery_exponent=1.0)
    alone = replace(measured(lambda ms: 1.4 * ms, small_problem()), recovery_exponent=1.0)
    assert fit(again, target).rounds == fit(alone, target).rounds


@pytest.mark.parametrize("slower", [0.7, 1.0, 1.5])
def test_what_is_learnt_does_not_depend_on_how_fast_the_machine_is_by_then(slower: float) -> None:
    made = small_problem()
    choice = made.within_ms(2.2)
    assert choice is not None
    names = [c.plan.name for c in choice.picked]
    # In the net all layers take a fifth longer than foreseen; the profile is of a moment when the machine is so much slower.
    layers_ms = {c.plan.name: (slower * DENSE_MS[c.plan.name], slower * 1.2 * c.ms) for c in choice.picked}
    layers_ms[OTHER] = slower * DENSE_MS[OTHER], slower * 1.2 * DENSE_MS[OTHER]
    assert choice.ms is not None
    taught = correct_times(made, choice, Gain(layers_ms, 3.5, 1.2 * choice.ms), taken=1.2 * choice.ms)
    # Half of each difference is believed.
    found = {name: taught.ms(c) / c.ms for name, c in zip(names, choice.picked, strict=True)}
    assert found == pytest.approx(dict.fromkeys(names, 1.2**0.5))
    assert taught.other_ms("float32") == pytest.approx(1.2**0.5 * DENSE_MS[OTHER])
    assert {name: made.ms(c) / c.ms for name, c in zip(names, choice.picked, strict=True)} == dict.fromkeys(names, 1.0)


def test_a_finished_net_that_is_faster_than_foreseen_gives_the_plan_more_time() -> None:
    made, target = small_problem(), Target("speedup", 1.6)
    part = speed_over_target(made, target, 1.8)
    assert part == pytest.approx(1.8 / 1.6)
    first, second = made.within_ms(3.5 / 1.6), second_choice(made, target, part)
    assert first is not None
    assert second == made.within_ms(3.5 / 1.6 * part)
    assert second is not None
    assert second.error < first.error
    assert second_choice(made, target, 1 + CLOSE / 2) is None
    assert speed_over_target(made, target, None) == 1.0


def test_what_cannot_be_reached_is_refused_with_what_can() -> None:
    made = small_problem(given=timers(Gain({}, 7.0, 2.0)))
    with pytest.raises(SettingsError, match=r"`speedup` 50 cannot be reached: .* expected to take .*x; ask for less"):
        initial_choice(made, Target("speedup", 50))
    with pytest.raises(SettingsError, match=r"`speedup` 50 cannot be reached: .* measured 2 ms, 3.50x; ask for less"):
        fit(made, Target("speedup", 50))
    with pytest.raises(SettingsError, match=r"`size_mb` 0.001 cannot be reached: .* makes a file of 0\.\d+ MB"):
        fit(made, Target("size_mb", 0.001))
    with pytest.raises(SettingsError, match=r"`size_mb` 0.001 cannot be reached: .* makes a file of 0\.\d+ MB"):
        initial_choice(made, Target("size_mb", 0.001))


def test_a_file_is_at_most_as_large_as_asked() -> None:
    made = small_problem()
    dense_bytes = len(made.model(made.stay_dense()).SerializeToString())
    wanted = 0.6 * dense_bytes / 1e6
    result = fit(made, Target("size_mb", wanted))
    size = len(made.model(result.choice).SerializeToString())
    assert 0.85 * wanted * 1e6 <= size <= wanted * 1e6  # two layers and steps of a quarter in k leave a gap
    last = result.rounds[-1]
    assert isinstance(last, SizeRound)
    assert last.measured_bytes == size or len(result.rounds) > 1

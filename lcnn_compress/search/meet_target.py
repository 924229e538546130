"""Meet a target: allocate, build the net, measure it, correct what was foreseen and allocate again.

Layers timed alone and the same layers in a net differ by a few per cent, more where layouts change between them. The built net
tells by how much, so that a second or third allocation meets the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lcnn_compress.benchmark.gain import Gain, TimingPlan
from lcnn_compress.benchmark.profile import OTHER
from lcnn_compress.errors import SettingsError
from lcnn_compress.files import temporary_folder, write_atomically
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.budget_report import SizeRound, TimeRound
from lcnn_compress.search.problem import Choice, Problem
from lcnn_compress.search.target import Target

# A net meets a target of time within this fraction of it: two measurements of one net differ by as much.
CLOSE = 0.04
MAX_ROUNDS = 4
# A layer's time in the net over its time alone is within these bounds; beyond them something was disturbed.
TIME_CORRECTIONS = (0.3, 3.0)
# A file that takes at least this fraction of a target size is good enough.
SIZE_SLACK = 0.97
MB = 1e6


@dataclass(frozen=True)
class Fit:
    """The choice for a target, what was foreseen and measured on the way to it, and the problem with what that has taught."""

    problem: Problem
    choice: Choice
    rounds: tuple[TimeRound | SizeRound, ...] = ()


def initial_choice(problem: Problem, target: Target) -> Choice:
    """Return the choice for a target before anything is built.

    Raises:
        SettingsError: it cannot be reached; the message says what can.
    """
    if target.kind == "size_mb":
        assert problem.reusable.template is not None
        rest = _rest_bytes(problem)
        choice = problem.within_bytes(target.value * MB - rest)
        if choice is None:
            raise _too_small(target, problem.smallest().weight_bytes + rest)
        return choice
    choice = problem.within_ms(wanted_ms(problem, target))
    if choice is None:
        fastest = problem.fastest()
        assert fastest.ms is not None
        assert problem.dense_ms is not None
        faster = problem.dense_ms / fastest.ms
        raise _too_slow(target, f"is expected to take {fastest.ms / problem.corrections.quiet_over_busy:.3g} ms, {faster:.2f}x")
    return choice


def wanted_ms(problem: Problem, target: Target) -> float:
    """Return the time of the net that a target of time asks for, as a quiet machine would measure it."""
    assert problem.dense_ms is not None
    if target.kind == "latency_ms":
        return target.value * problem.corrections.quiet_over_busy
    return problem.dense_ms / target.value


def fit(problem: Problem, target: Target, progress: Progress = silent) -> Fit:
    """Return the choice that meets a target, measured on the built net.

    Raises:
        SettingsError: the target cannot be reached; the message names the figure that can.
    """
    return _fit_size(problem, target) if target.kind == "size_mb" else _fit_time(problem, target, progress)


def _fit_time(problem: Problem, target: Target, progress: Progress) -> Fit:
    # The first of each pair is the measured over the wanted time.
    rounds: list[tuple[float, Choice]] = []
    notes: list[TimeRound] = []
    dense_ms = problem.dense_ms
    assert dense_ms is not None
    with temporary_folder() as folder:
        dense = folder / "dense.onnx"
        write_atomically(dense, problem.model(problem.stay_dense()).SerializeToString())
        for _ in range(MAX_ROUNDS):
            # The fastest choice is measured before the target is given up.
            choice = problem.within_ms(wanted_ms(problem, target)) or problem.fastest()
            if any(choice.plans == known.plans for _, known in rounds):
                break
            gain = _measure(problem, choice, dense, progress)
            assert choice.ms is not None
            # A busier machine slows the dense net too: a ratio stays what it is, a latency does not.
            slowed = replace(problem.corrections, quiet_over_busy=dense_ms / gain.dense_ms)
            problem = replace(problem, corrections=slowed)
            # Runs in turn are disturbed alike; the least times of two profiles are of two moments of the machine.
            faster = gain.dense_ms / gain.lookup_ms
            taken = dense_ms / faster
            ratio = taken / wanted_ms(problem, target)
            rounds.append((ratio, choice))
            foreseen = choice.ms, dense_ms / choice.ms
            notes.append(TimeRound(*foreseen, taken / slowed.quiet_over_busy, gain.dense_ms, faster))
            if abs(ratio - 1) <= CLOSE:
                break
            problem = correct_times(problem, choice, gain, taken)
    ratio, choice = min(rounds, key=lambda pair: abs(math.log(pair[0])))
    if ratio > 1 + CLOSE and problem.within_ms(wanted_ms(problem, target)) is None:
        best = max(notes, key=lambda note: note.measured_speedup)
        raise _too_slow(target, f"measured {best.measured_ms:.3g} ms, {best.measured_speedup:.2f}x")
    return Fit(problem, choice, tuple(notes))


def _measure(problem: Problem, choice: Choice, dense: Path, progress: Progress) -> Gain:
    assert problem.dense_ms is not None
    lookup = dense.with_name("lookup.onnx")
    write_atomically(lookup, problem.model(choice, progress).SerializeToString())
    plan = TimingPlan(threads=problem.settings.threads)
    return problem.timers.measure_gain(dense, lookup, plan=plan, progress=progress)


def correct_times(problem: Problem, choice: Choice, gain: Gain, taken: float) -> Problem:
    """Return the problem with the times of layers and of the rest corrected by what was measured of a built net.

    Half of each difference is believed (the geometric mean): measurements scatter, and the next choice must not follow that.

    Args:
        problem: the problem that the choice was made for.
        choice: what was built.
        gain: its measured times.
        taken: ms of the whole built net, as a quiet machine would measure it.
    """
    corrections, known = problem.corrections, 0.0
    # A profile shares the time of the net out among its layers; how long the net takes is known from runs in turn.
    pace = taken / max(sum(ms for _, ms in gain.layers.values()), 1e-9) if OTHER in gain.layers else 1.0
    in_net, correction = dict(corrections.dense_ms_in_net), dict(corrections.time_correction)
    for candidate in choice.picked:
        name = candidate.plan.name
        before = problem.ms(candidate)
        measured = pace * gain.layers[name][1] if name in gain.layers else before
        believed = math.sqrt(max(before, 1e-9) * max(measured, 1e-9))
        known += believed + problem.ms(candidate, choice.arithmetic) - before
        if candidate.plan.form.is_coded or candidate.is_narrow:
            corrected_by = float(np.clip(believed / max(candidate.ms, 1e-9), *TIME_CORRECTIONS))
            correction[name, candidate.arithmetic] = corrected_by
        else:
            in_net[name] = believed
    other_ms = math.sqrt((choice.ms or 0.0) * taken) - known
    rest = {**corrections.other_ms, choice.arithmetic: other_ms}
    corrected = replace(corrections, time_correction=correction, dense_ms_in_net=in_net, other_ms=rest)
    return replace(problem, corrections=corrected)


def speed_over_target(problem: Problem, target: Target, speedup: float | None) -> float:
    """Return the speed of a finished net, ``speedup`` times the dense one's, over the one asked for; 1 if it is unknown."""
    if speedup is None or problem.dense_ms is None:
        return 1.0
    return speedup * wanted_ms(problem, target) / problem.dense_ms


def second_choice(problem: Problem, target: Target, part: float) -> Choice | None:
    """Return the choice for a target when finished nets run at ``part`` of the speed foreseen; None where nothing changes.

    Calibration chooses entries anew, and nets come out a tenth faster or slower than the ones fitted to the target.
    """
    if abs(part - 1) <= CLOSE:
        return None
    return problem.within_ms(wanted_ms(problem, target) * part)


def _fit_size(problem: Problem, target: Target) -> Fit:
    rest = float(_rest_bytes(problem))
    notes: list[SizeRound] = []
    best: Choice | None = None
    wanted = target.value * MB
    actual = wanted
    for _ in range(MAX_ROUNDS):
        choice = problem.within_bytes(wanted - rest)
        if choice is None:
            break
        actual = len(problem.model(choice).SerializeToString())
        notes.append(SizeRound(choice.weight_bytes + rest, actual))
        if actual <= wanted:
            best = choice
            if actual >= SIZE_SLACK * wanted:
                break
        rest = actual - choice.weight_bytes
    if best is None:
        smallest = problem.smallest()
        n_bytes = len(problem.model(smallest).SerializeToString())
        if n_bytes > wanted:
            raise _too_small(target, n_bytes)
        best = smallest
    return Fit(problem, best, tuple(notes))


def _rest_bytes(problem: Problem) -> int:
    """Return about how many bytes of a file belong to no layer: those of the dense net without its layers."""
    model = problem.model(problem.stay_dense())
    return max(0, len(model.SerializeToString()) - problem.stay_dense().weight_bytes)


def _too_slow(target: Target, what: str) -> SettingsError:
    return SettingsError(
        f"{_said(target)} cannot be reached: the fastest form of every layer {what}; ask for less, or let more layers be "
        "compressed with `only`"
    )


def _too_small(target: Target, n_bytes: float) -> SettingsError:
    return SettingsError(
        f"{_said(target)} cannot be reached: the smallest form of every layer makes a file of {n_bytes / MB:.3g} MB; ask for "
        "more, or let more layers be compressed with `only`"
    )


def _said(target: Target) -> str:
    return f"`{target.kind}` {target.value:g}"

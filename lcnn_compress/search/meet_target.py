"""Meet a target: allocate, build the net, measure it, correct what was foreseen and allocate again.

Layers timed alone and the same layers in a net differ by a few per cent, more where layouts change between them. The built net
tells by how much, so that a second or third allocation lands.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lcnn_compress.artefact.report import Report
from lcnn_compress.bench.gain import Gain, TimingPlan, measure_gain
from lcnn_compress.bench.profile import OTHER, runs_for
from lcnn_compress.errors import SettingsError
from lcnn_compress.files import write_atomically
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.problem import Choice, Problem
from lcnn_compress.search.target import Target

CLOSE = 0.04  # relative; two measurements of one net differ by as much
MOST_ROUNDS = 4
SCALES = (0.3, 3.0)  # of a layer in the net against the layer alone; beyond that something was disturbed
SIZE_SLACK = 0.97  # of a target size that is used well enough
MB = 1e6


@dataclass
class Fit:
    """The choice for a target, and what was foreseen and measured on the way to it, round by round."""

    choice: Choice
    rounds: list[dict[str, Any]] = field(default_factory=list)


def foresee(problem: Problem, target: Target) -> Choice:
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
        raise _too_slow(target, f"is expected to take {fastest.ms / problem.pace:.3g} ms, {faster:.2f}x")
    return choice


def wanted_ms(problem: Problem, target: Target) -> float:
    """Return the time of the net, as a quiet machine would measure it, that a target of time asks for."""
    assert problem.dense_ms is not None
    return target.value * problem.pace if target.kind == "latency_ms" else problem.dense_ms / target.value


def fit(problem: Problem, target: Target, progress: Progress = silent) -> Fit:
    """Return the choice that meets a target, measured on the built net.

    Raises:
        SettingsError: the target cannot be reached; the message names the figure that can.
    """
    return _fit_size(problem, target) if target.kind == "size_mb" else _fit_time(problem, target, progress)


def _fit_time(problem: Problem, target: Target, progress: Progress) -> Fit:
    rounds: list[tuple[float, Choice]] = []  # measured over wanted
    notes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lcnn-") as folder:
        dense = Path(folder) / "dense.onnx"
        write_atomically(dense, problem.model(problem.stay_dense()).SerializeToString())
        for _ in range(MOST_ROUNDS):
            choice = problem.within_ms(wanted_ms(problem, target)) or problem.fastest()  # measured before it is given up
            if any(choice.plans == known.plans for _, known in rounds):
                break
            gain = _measure(problem, choice, dense, progress)
            assert choice.ms is not None
            assert problem.dense_ms is not None
            # A busier machine slows the dense net too: a ratio stays what it is, a latency does not.
            problem.pace = problem.dense_ms / gain.dense_ms
            # Runs in turn are disturbed alike; the least times of two profiles are of two moments of the machine.
            faster = gain.dense_ms / gain.lookup_ms
            taken = problem.dense_ms / faster
            ratio = taken / wanted_ms(problem, target)
            rounds.append((ratio, choice))
            notes.append({
                "predicted_ms": choice.ms, "predicted_speedup": problem.dense_ms / choice.ms,
                "measured_ms": taken / problem.pace, "measured_dense_ms": gain.dense_ms, "measured_speedup": faster,
            })  # fmt: skip
            if abs(ratio - 1) <= CLOSE:
                break
            learn(problem, choice, gain, taken)
    ratio, choice = min(rounds, key=lambda pair: abs(math.log(pair[0])))
    if ratio > 1 + CLOSE and problem.within_ms(wanted_ms(problem, target)) is None:
        best = max(notes, key=lambda note: float(note["measured_speedup"]))
        raise _too_slow(target, f"measured {best['measured_ms']:.3g} ms, {best['measured_speedup']:.2f}x")
    return Fit(choice, notes)


def _measure(problem: Problem, choice: Choice, dense: Path, progress: Progress) -> Gain:
    assert problem.dense_ms is not None
    lookup = dense.with_name("lookup.onnx")
    write_atomically(lookup, problem.model(choice, progress).SerializeToString())
    plan = TimingPlan(threads=problem.settings.threads, runs=runs_for(2 * problem.dense_ms))
    return measure_gain(dense, lookup, plan=plan, progress=progress)


def learn(problem: Problem, choice: Choice, gain: Gain, taken: float) -> None:
    """Let what was measured of a built net, ``taken`` ms in all, correct the times of its layers and of the rest.

    Half of each difference is believed (the geometric mean): measurements scatter, and the next choice must not follow that.
    """
    expected = choice.ms or 0.0
    known = 0.0
    # A profile shares the time of the net out among its layers; how long the net takes is known from runs in turn.
    pace = taken / max(sum(ms for _, ms in gain.layers.values()), 1e-9) if OTHER in gain.layers else 1.0
    for candidate in choice.picked:
        name = candidate.plan.name
        before = problem.ms(candidate)
        measured = pace * gain.layers[name][1] if name in gain.layers else before
        believed = math.sqrt(max(before, 1e-9) * max(measured, 1e-9))
        known += believed
        if not candidate.plan.form.is_coded:
            problem.dense_again[name] = believed
        else:
            problem.scale[name] = float(np.clip(believed / max(candidate.ms, 1e-9), *SCALES))
    problem.other_ms = math.sqrt(expected * taken) - known


def part_of_target(problem: Problem, target: Target, report: Report) -> float:
    """Return the speed of a finished net over the one asked for; 1 where it was not measured."""
    faster = report.totals.speedup
    if faster is None or problem.dense_ms is None:
        return 1.0
    return float(faster * wanted_ms(problem, target) / problem.dense_ms)


def corrected(problem: Problem, target: Target, part: float) -> Choice | None:
    """Return the choice for a target when finished nets run at ``part`` of the speed foreseen; None where nothing changes.

    Calibration chooses entries anew, and nets come out a tenth faster or slower than the ones fitted to the target.
    """
    if abs(part - 1) <= CLOSE:
        return None
    return problem.within_ms(wanted_ms(problem, target) * part)


def _fit_size(problem: Problem, target: Target) -> Fit:
    rest = float(_rest_bytes(problem))
    notes: list[dict[str, Any]] = []
    best: Choice | None = None
    wanted = target.value * MB
    actual = wanted
    for _ in range(MOST_ROUNDS):
        choice = problem.within_bytes(wanted - rest)
        if choice is None:
            break
        actual = len(problem.model(choice).SerializeToString())
        notes.append({"predicted_bytes": choice.weight_bytes + rest, "measured_bytes": actual})
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
    return Fit(best, notes)


def _rest_bytes(problem: Problem) -> int:
    """Return the bytes of a file that belong to no layer, about: those of the dense net without its layers."""
    model = problem.model(problem.stay_dense())
    return max(0, len(model.SerializeToString()) - problem.stay_dense().weight_bytes)


def _too_slow(target: Target, what: str) -> SettingsError:
    return SettingsError(
        f"{_said(target)} cannot be reached: the fastest form of every layer {what}; ask for less, or let more layers be "
        "compressed with --only"
    )


def _too_small(target: Target, n_bytes: float) -> SettingsError:
    return SettingsError(
        f"{_said(target)} cannot be reached: the smallest form of every layer makes a file of {n_bytes / MB:.3g} MB; ask for "
        "more, or let more layers be compressed with --only"
    )


def _said(target: Target) -> str:
    return f"--target-{target.kind.replace('_', '-')} {target.value:g}"

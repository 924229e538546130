"""From a target to an artefact, or to the plan alone: options, choice, the built net, and how well the forecast held."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.benchmark.timers import Timers
from lcnn_compress.compression.improve import JUDGED_IMAGES
from lcnn_compress.compression.keep_faster import measured_report
from lcnn_compress.compression.pipeline import compress_net
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.net.layers import Captured
from lcnn_compress.net.output_error import Outputs, affordable_images
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.budget_report import Expected, Forecast, KeptDrop, MetTarget, as_json
from lcnn_compress.search.max_drop import fastest_within, judge_by
from lcnn_compress.search.meet_target import fit, initial_choice, second_choice, speed_over_target
from lcnn_compress.search.problem import Choice, Problem, prepare
from lcnn_compress.search.target import Target
from lcnn_compress.search.trained_choice import Trials, best_trained

# The finished net's outputs are held against the dense net's on at least and at most this many images, and as many as take the
# dense net about this many MACs.
JUDGED, MAX_JUDGE_MACS = (8, JUDGED_IMAGES), 5e11


def forecast(
    captured: Captured,
    settings: CompressSettings,
    target: Target,
    data: TrainingData = TrainingData(),
    *,
    cache: Path | None = None,
    progress: Progress = silent,
    timers: Timers = Timers(),
) -> dict[str, Any]:
    """Return the plan for a target with its expected time, MACs, bytes and error; nothing is built.

    For a largest drop the plan is the fastest one, which the search would start from. The answer is ``Forecast`` as JSON.

    Raises:
        SettingsError, MissingError: as ``compress_to_target``.
    """
    target.check(settings)
    data = data.calibrated()
    problem = prepare(captured, settings, data.calibration, cache=cache, progress=progress, timers=timers)
    choice = problem.fastest() if target.kind == "max_drop" else initial_choice(problem, target)
    planned = problem.table(choice)
    return as_json(Forecast("compress", True, captured.input_shape, planned, _expected(problem, target, choice)))


def compress_to_target(
    captured: Captured,
    settings: CompressSettings,
    target: Target,
    data: TrainingData = TrainingData(),
    *,
    cache: Path | None = None,
    progress: Progress = silent,
    timers: Timers = Timers(),
) -> Artefact:
    """Compress a captured net to a speed, latency, file size or largest drop; the captured net itself is not changed.

    Args:
        captured: the net and its layers.
        settings: how to compress; ``plan`` says which layers may be, its dictionary plays no part.
        target: what is asked for.
        data: calibration inputs or examples let effects be measured on outputs; a largest drop needs ``held_out``.
        cache: folder of layer times; None is the user's.
        progress: called as work goes on.
        timers: what layers and nets are measured with.

    Raises:
        SettingsError: the target cannot be reached, or a largest drop is asked for without held-out examples.
        MissingError: the native library is not there.
    """
    target.check(settings)
    data = data.calibrated()
    if target.kind == "max_drop" and data.held_out is None:
        raise SettingsError("`max_drop` is judged on labelled examples; add `data`")
    problem = prepare(captured, settings, data.calibration, cache=cache, progress=progress, timers=timers)
    keep = _keep_drop if target.kind == "max_drop" else _meet
    made = keep(problem, target, data, progress)
    artefact, budget = made.artefact, made.budget
    if data.calibration:
        images = affordable_images(captured.net, captured.layers, data.calibration, MAX_JUDGE_MACS, JUDGED)
        judge = Outputs(captured.net, images)
        budget = replace(budget, measured_error=judge.error(artefact.net) ** 0.5)
    planned = {row.name: row for row in made.problem.table(made.choice)}
    layers = tuple(
        replace(row, predicted_ms=planned[row.name].predicted_ms, predicted_error=planned[row.name].error)
        for row in artefact.report.layers
    )
    return replace(artefact, report=replace(artefact.report, layers=layers, budget=as_json(budget)))


@dataclass(frozen=True)
class _Made:
    """The artefact of a choice, the problem as it was by then, and what the report says of the target."""

    artefact: Artefact
    problem: Problem
    choice: Choice
    budget: MetTarget | KeptDrop


def _keep_drop(problem: Problem, target: Target, data: TrainingData, progress: Progress) -> _Made:
    """Make the fastest net within a largest drop, and measure it."""
    assert data.held_out is not None
    tuning = problem.settings.finetune
    judge = judge_by(problem.captured.net, data.held_out, data.task if tuning is None else tuning.task, progress)
    found = fastest_within(problem, target.value, data, judge, progress)
    report = measured_report(found.artefact, problem.settings, problem.reusable.template, progress, problem.timers)
    budget = KeptDrop(**vars(_expected(problem, target, found.choice)), drop=found.drop, tried=found.tried)
    return _Made(replace(found.artefact, report=report), problem, found.choice, budget)


def _meet(problem: Problem, target: Target, data: TrainingData, progress: Progress) -> _Made:
    """Make the net that meets a speed, latency or size; a second one where calibration took the first one off the target."""
    settings = problem.settings
    if settings.finetune is None or data.examples is None or target.kind == "size_mb":
        best = Trials(fit(problem, target, progress))
    else:
        best = best_trained(problem, target, data, progress)
    problem, choice = best.fit.problem, best.fit.choice
    artefact = _built(problem, choice, data, progress)
    if target.kind != "size_mb" and data.calibration and settings.finetune is None:
        part = speed_over_target(problem, target, artefact.report.totals.speedup)
        second = second_choice(problem, target, part)
        if second is not None and second.plans != choice.plans:
            other = _built(problem, second, data, progress)
            reached = speed_over_target(problem, target, other.report.totals.speedup)
            if abs(math.log(reached)) < abs(math.log(part)):
                artefact, choice = other, second
    budget = MetTarget(**vars(_expected(problem, target, choice)), rounds=best.fit.rounds, trials=best.tried)
    return _Made(artefact, problem, choice, budget)


def _built(problem: Problem, choice: Choice, data: TrainingData, progress: Progress) -> Artefact:
    return compress_net(problem.captured, problem.settings, data, choice.plans, progress, problem.reusable, problem.timers)


def _expected(problem: Problem, target: Target, choice: Choice) -> Expected:
    dense_ms, ms = problem.dense_ms, choice.ms
    return Expected(
        target={target.kind: target.value}, threads=problem.settings.threads,
        effects="outputs" if problem.measured_effects else "filters", dense_ms=dense_ms, predicted_ms=ms,
        predicted_speedup=None if dense_ms is None or ms is None else dense_ms / ms, predicted_macs=choice.macs,
        macs_dense=sum(layer.dense_macs for layer in problem.captured.layers),
        predicted_weight_bytes=choice.weight_bytes, predicted_error=choice.error,
    )  # fmt: skip

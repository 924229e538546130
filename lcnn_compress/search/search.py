"""From a target to an artefact, or to the plan alone: options, choice, the built net, and how well the forecast held."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.compress.improve import JUDGED_IMAGES
from lcnn_compress.compress.keep_faster import measured_report
from lcnn_compress.compress.output_error import Outputs, first_images
from lcnn_compress.compress.pipeline import compress_net
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.net.layers import Captured
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.max_drop import fastest_within
from lcnn_compress.search.meet_target import Fit, corrected, fit, foresee, part_of_target
from lcnn_compress.search.problem import Choice, Problem, prepare
from lcnn_compress.search.target import Target
from lcnn_compress.search.trained_choice import best_trained


def forecast(
    captured: Captured,
    settings: CompressSettings,
    target: Target,
    data: TrainingData = TrainingData(),
    *,
    cache: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Return the plan for a target with its expected time, MACs, bytes and error; nothing is built (``--dry-run``).

    For a largest drop the plans are those the search would start from: the fastest one and dense.

    Raises:
        SettingsError, MissingError: as ``compress_to_target``.
    """
    data = data.calibrated()
    problem = prepare(captured, settings, data.calibration, cache=cache, progress=progress)
    choice = problem.fastest() if target.kind == "max_drop" else foresee(problem, target)
    return {
        "command": "compress", "dry_run": True, "input_shape": list(captured.input_shape), "layers": problem.table(choice),
        "budget": _expected(problem, target, choice),
    }  # fmt: skip


def compress_to_target(
    captured: Captured,
    settings: CompressSettings,
    target: Target,
    data: TrainingData = TrainingData(),
    *,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Artefact:
    """Compress a captured net to a speed, latency, file size or largest drop; the captured net itself is not changed.

    Args:
        captured: the net and its layers.
        settings: ``plan`` says which layers may be compressed, its dictionary plays no part.
        target: what is asked for.
        data: with calibration inputs or examples effects are measured on outputs; a largest drop needs ``held_out``.
        cache: folder of layer times; None is the user's.
        progress: called as work goes on.

    Raises:
        SettingsError: the target cannot be reached, or a largest drop is asked for without held-out examples.
        MissingError: the native library is not there.
    """
    data = data.calibrated()
    if target.kind == "max_drop" and data.held_out is None:
        raise SettingsError("--max-drop is judged on labelled examples; add --data")
    problem = prepare(captured, settings, data.calibration, cache=cache, progress=progress)
    if target.kind == "max_drop":
        found = fastest_within(problem, target.value, data, progress)
        artefact, choice = found.artefact, found.choice
        artefact = replace(artefact, report=measured_report(artefact, settings, problem.reusable.template, progress))
        more: dict[str, Any] = {"drop": asdict(found.drop), "tried": found.tried}
    else:
        trials: list[dict[str, Any]] = []
        if settings.finetune is None or data.examples is None or target.kind == "size_mb":
            result: Fit = fit(problem, target, progress)
        else:
            best = best_trained(problem, target, data, progress)
            result, trials = best.fit, best.tried
        choice = result.choice
        artefact = _built(problem, choice, data, progress)
        if target.kind != "size_mb" and data.calibration and settings.finetune is None:
            part = part_of_target(problem, target, artefact.report)
            second = corrected(problem, target, part)
            if second is not None and second.plans != choice.plans:
                other = _built(problem, second, data, progress)
                if abs(math.log(part_of_target(problem, target, other.report))) < abs(math.log(part)):
                    artefact, choice = other, second
        more = {"rounds": result.rounds, "trials": trials}
    budget = _expected(problem, target, choice) | more
    if data.calibration:
        budget["measured_error"] = (
            Outputs(captured.net, first_images(data.calibration, JUDGED_IMAGES)).error(artefact.net) ** 0.5
        )
    layers = tuple(
        replace(row, predicted_ms=expected["predicted_ms"], predicted_error=expected["error"])
        for row, expected in zip(artefact.report.layers, problem.table(choice), strict=True)
    )
    return replace(artefact, report=replace(artefact.report, layers=layers, budget=budget))


def _built(problem: Problem, choice: Choice, data: TrainingData, progress: Progress) -> Artefact:
    return compress_net(problem.captured, problem.settings, data, choice.plans, progress, problem.reusable)


def _expected(problem: Problem, target: Target, choice: Choice) -> dict[str, Any]:
    dense_ms, ms = problem.dense_ms, choice.ms
    return {
        "target": {target.kind: target.value}, "threads": problem.settings.threads,
        "effects": "outputs" if problem.measured_effects else "filters", "dense_ms": dense_ms, "predicted_ms": ms,
        "predicted_speedup": None if dense_ms is None or ms is None else dense_ms / ms,
        "predicted_macs": choice.macs, "macs_dense": sum(layer.dense_macs for layer in problem.captured.layers),
        "predicted_weight_bytes": choice.weight_bytes, "predicted_error": choice.error,
    }  # fmt: skip

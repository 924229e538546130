"""Find the fastest net whose score stays within a largest drop, judged on examples that nothing was calibrated or trained on.

The drop is the mean over images of how much more the dense net scores: both nets are judged on the same images. Its 95 %
interval is that of this mean (1.96 standard errors). With few images the interval is wide, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, fx, nn

from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.compression.pipeline import compress_net
from lcnn_compress.compression.settings import TrainingData
from lcnn_compress.data.examples import Examples
from lcnn_compress.data.score import image_scores, torch_runner
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import SettingsError
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.budget_report import Drop, TriedNet
from lcnn_compress.search.problem import Choice, Problem

# The bisection builds and scores at most this many nets.
TRIALS = 6
# At most this many nets are trained.
TRAININGS = 3
# A net is worth fine-tuning up to a drop this many times the limit: training usually wins back three quarters.
RECOVERED = 4.0
Judge = Callable[[fx.GraphModule], Drop]


@dataclass(frozen=True)
class Found:
    """The net that was found, its choice, its drop, and every net that was tried."""

    artefact: Artefact
    choice: Choice
    drop: Drop
    tried: tuple[TriedNet, ...]


def judge_by(dense: fx.GraphModule, held_out: Examples, task: Task | None = None, progress: Progress = silent) -> Judge:
    """Return what tells the drop of a net against the dense one on held-out examples; without a ``task`` labels tell it."""
    metric, scores = image_scores(torch_runner(dense), held_out, progress, task)
    return lambda net: drop_of(metric, scores, image_scores(torch_runner(net), held_out, progress, task)[1])


def drop_of(metric: str, dense: Tensor, scores: Tensor) -> Drop:
    """Return the drop from the scores of each image in the two nets, (n,) both."""
    lost = dense - scores
    half = 1.96 * float(lost.std(correction=1)) / math.sqrt(len(lost)) if len(lost) > 1 else math.inf
    value = float(lost.mean())
    return Drop(metric, float(dense.mean()), value, value - half, value + half, len(lost))


def fastest_within(problem: Problem, limit: float, data: TrainingData, judge: Judge, progress: Progress = silent) -> Found:
    """Return the fastest net that loses at most ``limit``: a bisection over the budget of time.

    With fine-tuning, the fastest net that loses up to ``RECOVERED`` times as much is trained, then slower ones until one stays
    within.

    Args:
        problem: with times; its settings say how to fine-tune.
        limit: largest drop, in points or dB.
        data: calibration inputs, and examples if there is fine-tuning.
        judge: tells the drop of a net, on examples that are no part of ``data``.
        progress: called as work goes on.

    Raises:
        SettingsError: even the mildest net tried loses more.
    """
    assert problem.dense_ms is not None
    settings = replace(problem.settings, measure=False)
    untrained = replace(data, examples=None, checkpoint=None, on_plan=None)
    tolerated = limit * (RECOVERED if settings.finetune is not None else 1.0)
    low, high = problem.fastest().ms or 0.0, problem.dense_ms
    trials: list[tuple[Choice, Drop, Artefact]] = []
    for step in range(TRIALS):
        progress("searching", step, TRIALS)
        choice = problem.within_ms(low if step == 0 else math.sqrt(low * high)) or problem.fastest()
        if any(choice.plans == known.plans for known, _, _ in trials):
            break
        plain = replace(settings, finetune=None)
        net = compress_net(problem.captured, plain, untrained, choice.plans, progress, problem.reusable)
        trials.append((choice, judge(net.net), net))
        assert choice.ms is not None
        if trials[-1][1].value <= tolerated:
            high = choice.ms
            if step == 0:
                break
        else:
            low = choice.ms if step else low
    progress("searching", TRIALS, TRIALS)
    trials.sort(key=lambda trial: trial[0].ms or 0.0)
    tried = tuple(_tried(choice, drop, trained=False) for choice, drop, _ in trials)
    worth = [choice for choice, drop, _ in trials if drop.value <= tolerated]
    if settings.finetune is not None and worth:
        found = _trained_within(problem, limit, worth[0], judge, replace(data, checkpoint=None, on_plan=None), progress)
        tried += found.tried
        if found.drop.value <= limit:
            return replace(found, tried=tried)
    for choice, drop, net in trials:
        if drop.value <= limit:
            return Found(net, choice, drop, tried)
    mildest, drop, _ = trials[-1]
    faster = problem.dense_ms / (mildest.ms or problem.dense_ms)
    raise SettingsError(
        f"`max_drop` {limit:g} cannot be kept: the mildest net tried, {faster:.2f}x faster, loses "
        f"{drop.value:.2f} ({drop.low:.2f} to {drop.high:.2f}) on {drop.n} held-out images; allow more, or add `epochs`"
    )


def _trained_within(
    problem: Problem, limit: float, choice: Choice, judge: Judge, data: TrainingData, progress: Progress
) -> Found:
    """Train a choice and, while it loses too much, others halfway to the dense net's time; return the last one."""
    assert problem.dense_ms is not None
    settings = replace(problem.settings, measure=False)
    tried: list[TriedNet] = []

    def may_stop(net: nn.Module) -> bool:
        # Training may stop once even the upper end of the drop's interval is within the limit.
        return judge(cast(fx.GraphModule, net)).high <= limit

    while True:
        judged = replace(data, enough=may_stop)
        net = compress_net(problem.captured, settings, judged, choice.plans, progress, problem.reusable)
        drop = judge(net.net)
        tried.append(_tried(choice, drop, trained=True))
        milder = problem.within_ms(math.sqrt((choice.ms or problem.dense_ms) * problem.dense_ms)) or choice
        if drop.value <= limit or len(tried) == TRAININGS or milder.plans == choice.plans:
            return Found(net, choice, drop, tuple(tried))
        choice = milder


def _tried(choice: Choice, drop: Drop, *, trained: bool) -> TriedNet:
    return TriedNet(**vars(drop), predicted_ms=choice.ms, trained=trained)

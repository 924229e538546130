"""Which of two plans trains better: each is trained for a short while and judged on examples it has not seen.

Effects are measured before training. Forms with more parameters win back more of theirs by training, but how much more differs
from net to net: when effects were divided by the fraction of parameters kept, at the same speed, the residual net of
``examples/compare_methods.py`` came out better and demosaicnet worse. So both plans are tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from lcnn_compress.compression.pipeline import compress_net
from lcnn_compress.compression.settings import TrainingData
from lcnn_compress.data.examples import Examples, batches, split
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.budget_report import Trial
from lcnn_compress.search.meet_target import Fit, fit
from lcnn_compress.search.problem import Problem
from lcnn_compress.search.target import Target
from lcnn_compress.train.losses import loss_of
from lcnn_compress.train.recipe import FinetuneSettings

# A plan is tried for each of these values of ``Problem.recovery_exponent``.
RECOVERIES = (0.0, 1.0)
# A short training has this fraction of the steps of the whole one.
SHARE = 0.1
# A short training has at least and at most this many steps.
STEPS = 50, 500
# This fraction of the examples is held out to judge by, and at most this many of them.
JUDGED = 0.1, 1000
Judge = Callable[[nn.Module, fx.GraphModule, Examples, FinetuneSettings], float]


@dataclass(frozen=True)
class Trials:
    """The fit that trained best, and the loss of each; empty where nothing had to be trained to tell."""

    fit: Fit
    tried: tuple[Trial, ...] = ()


@torch.inference_mode()
def mean_loss(net: nn.Module, teacher: fx.GraphModule, examples: Examples, settings: FinetuneSettings) -> float:
    """Return the loss of training on examples, both nets in eval mode."""
    net, teacher = net.eval(), teacher.eval()
    total = 0.0
    for x, y in batches(examples, settings.batch_size):
        taught = teacher(x) if settings.distill or y is None else None
        total += float(loss_of(net(x), y, taught, settings)) * len(x)
    return total / len(examples)


def best_trained(
    problem: Problem, target: Target, data: TrainingData, progress: Progress = silent, judge: Judge = mean_loss
) -> Trials:
    """Fit a plan for each of ``RECOVERIES`` to a target of time and return the one with the least loss after a short training.

    Args:
        problem: what the net can become; its settings say how to train, and every plan starts from its corrections.
        target: a target of time.
        data: training data with examples, of which some are held out here to judge by.
        progress: called as work goes on.
        judge: returns the loss of a net on examples, given the dense one.

    Raises:
        SettingsError: the target cannot be reached.
    """
    settings = problem.settings.finetune
    assert settings is not None
    assert data.examples is not None
    fits = [fit(replace(problem, recovery_exponent=recovery), target, progress) for recovery in RECOVERIES]
    if len(data.examples) < 2 / JUDGED[0] or all(found.choice.plans == fits[0].choice.plans for found in fits):
        return Trials(fits[0])
    rest, judged = split(data.examples, min(JUDGED[1], int(JUDGED[0] * len(data.examples))), settings.seed)
    steps = int(min(max(SHARE * settings.epochs * len(rest) / settings.batch_size, STEPS[0]), STEPS[1]))
    few, _ = split(rest, max(0, len(rest) - steps * settings.batch_size), settings.seed)
    short = replace(settings, epochs=max(1, round(steps * settings.batch_size / len(few))))
    trial = TrainingData(calibration=data.calibration, examples=few)
    made = replace(problem.settings, finetune=short, measure=False)
    tried = []
    for recovery, found in zip(RECOVERIES, fits, strict=True):
        artefact = compress_net(problem.captured, made, trial, found.choice.plans, progress, problem.reusable)
        tried.append(Trial(recovery, judge(artefact.net, problem.captured.net, judged, short)))
    best = min(range(len(fits)), key=lambda i: tried[i].loss)
    return Trials(fits[best], tuple(tried))

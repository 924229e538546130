"""Plans that are trained: what has more parameters may be preferred, and a short training tells whether that is better."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Noise
from given_times import SETTINGS, nothing_is_measured, small_problem, timers
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.benchmark.gain import Gain
from lcnn_compress.compression.settings import LayerPlan, PlanSettings, TrainingData
from lcnn_compress.search.budget_report import Trial
from lcnn_compress.search.candidates import Candidate
from lcnn_compress.search.problem import Corrections, Problem
from lcnn_compress.search.target import Target
from lcnn_compress.search.trained_choice import best_trained, mean_loss
from lcnn_compress.train.recipe import FinetuneSettings

TUNING = FinetuneSettings(epochs=4, batch_size=8, lr=1e-3)
TINY, FEW, MORE = (LayerPlan("conv2", "sparse", "", 32, density) for density in (0.02, 0.1, 0.3))
TARGET = Target("speedup", 8 / 7.5)
pytestmark = pytest.mark.usefixtures("one_thread")


def problem(effect_of_more: float, gain: Gain = Gain({}, 8.0, 7.5)) -> Problem:
    """A net of 8 ms of which only conv2 (9,216 weights) may change: to 1,000 of them in 1 ms, or to 3,000 in 1 ms.

    Whatever is built takes what ``gain`` says, by default what the target asks for.
    """
    settings = replace(SETTINGS, plan=PlanSettings(only=("conv2",)), finetune=TUNING)
    made = small_problem(settings=settings, given=timers(gain))
    options, effects = [[replace(listed[0], ms=2.0)] for listed in made.options], [[0.0] for _ in made.options]
    place = [layer.name for layer in made.captured.layers].index("conv2")
    options[place] += [Candidate(FEW, 1000, 1, 1, 0.5, 1.0), Candidate(MORE, 3000, 1, 1, 0.5, 1.0)]
    effects[place] += [1.0, effect_of_more]
    return replace(made, options=options, effects=effects, dense_ms=8.0, corrections=Corrections())


@pytest.mark.parametrize(
    ("recovery", "effect_of_more", "expected"),
    [(0.0, 2.9, FEW), (0.0, 0.9, MORE), (1.0, 2.9, MORE), (1.0, 3.1, FEW), (0.5, 1.7, MORE), (0.5, 1.8, FEW)],
)
def test_effects_are_divided_by_a_power_of_the_parameters(recovery: float, effect_of_more: float, expected: LayerPlan) -> None:
    choice = replace(problem(effect_of_more), recovery_exponent=recovery).within_ms(7.5)
    assert choice is not None
    assert expected in choice.plans
    assert choice.error == pytest.approx((1.0 if expected is FEW else effect_of_more) ** 0.5)  # what was measured


def test_the_plan_that_trains_best_is_taken() -> None:
    given = problem(2.0)
    trained: list[tuple[LayerPlan, int]] = []
    losses = {FEW: 0.7, MORE: 0.4}

    def judge(net: nn.Module, teacher: nn.Module, examples: Any, settings: FinetuneSettings) -> float:
        kept = net.get_submodule("conv2").n_nonzeros
        plan = FEW if kept < 2000 else MORE
        trained.append((plan, len(examples)))
        return losses[plan]

    data = TrainingData(examples=Noise(200))
    best = best_trained(given, TARGET, data, judge=judge)
    assert trained == [(FEW, 20), (MORE, 20)]
    assert MORE in best.fit.choice.plans
    assert best.tried == (Trial(0.0, 0.7), Trial(1.0, 0.4))
    losses[FEW] = 0.3
    assert FEW in best_trained(given, TARGET, data, judge=judge).fit.choice.plans


def test_equal_plans_are_not_tried() -> None:
    best = best_trained(problem(0.5), TARGET, TrainingData(examples=Noise(200)), judge=nothing_is_measured)
    assert best.tried == ()
    assert MORE in best.fit.choice.plans


def test_what_the_first_plan_has_taught_does_not_reach_the_second() -> None:
    # Built nets take 9.5 ms whatever they are, so the first of each plan is nearest to the target. Whoever knows already that
    # lookups are slow starts with the fastest form.
    given = with_tiny_form(problem(2.0, Gain({"conv2": (2.0, 3.5)}, 8.0, 9.5)))
    kept: list[int] = []

    def judge(net: nn.Module, *_: Any) -> float:
        kept.append(net.get_submodule("conv2").n_nonzeros)
        return 0.0

    best = best_trained(given, TARGET, TrainingData(examples=Noise(200)), judge=judge)
    assert len(best.fit.rounds) > 1
    assert kept == [round(plan.lookups * 9216) for plan in (FEW, MORE)]
    assert given.corrections == Corrections()


def with_tiny_form(made: Problem) -> Problem:
    """Let conv2 become 184 of its weights too, in a fifth of the time and with a large effect."""
    place = [layer.name for layer in made.captured.layers].index("conv2")
    options, effects = ([*map(list, lists)] for lists in (made.options, made.effects))
    options[place].append(Candidate(TINY, 184, 1, 1, 0.5, 0.2))
    effects[place].append(50.0)
    return replace(made, options=options, effects=effects)


def test_the_loss_of_examples_by_hand() -> None:
    torch.manual_seed(0)
    net, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(768, 10)) for _ in range(2))

    class Few:
        x, y = torch.randn(5, 3, 16, 16), torch.arange(5)

        def __len__(self) -> int:
            return 5

        def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            return self.x[indices], self.y[indices]

    settings = FinetuneSettings(batch_size=2, distill=False)
    with torch.no_grad():
        expected = float(functional.cross_entropy(net(Few.x), Few.y))
    assert mean_loss(net, teacher, Few(), settings) == pytest.approx(expected, rel=1e-5)
    both = replace(settings, distill=True, distill_weight=0.0)
    assert mean_loss(net, teacher, Few(), both) == pytest.approx(expected, rel=1e-5)

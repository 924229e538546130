"""Plans that are trained: what has more parameters may be preferred, and a short training tells whether that is better."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Noise, small_net
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress import api
from lcnn_compress.cli.render import _budget_lines
from lcnn_compress.compress.plan import LayerPlan
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.net.layers import layers
from lcnn_compress.search import search, trained_choice
from lcnn_compress.search.candidates import Candidate, dense_candidate
from lcnn_compress.search.meet_target import Fit
from lcnn_compress.search.problem import Problem
from lcnn_compress.search.target import Target
from lcnn_compress.search.trained_choice import RECOVERIES, best_trained, mean_loss
from lcnn_compress.train.recipe import FinetuneSettings

SHAPE = (1, 3, 16, 16)
TUNING = FinetuneSettings(epochs=4, batch_size=8, lr=1e-3)
FEW, MORE = (LayerPlan("conv2", "sparse", "", 32, density) for density in (0.1, 0.3))
pytestmark = pytest.mark.usefixtures("one_thread")


def problem(effect_of_more: float) -> Problem:
    """A net of which only conv2 (9,216 weights) may change: to 1,000 of them in 1 ms, or to 3,000 in 1 ms."""
    source = api.open_model(small_net(), SHAPE)
    found = layers(source.net, torch.zeros(SHAPE))
    options, effects = [[dense_candidate(layer, "", 2.0)] for layer in found], [[0.0] for _ in found]
    place = [layer.name for layer in found].index("conv2")
    options[place] += [Candidate(FEW, 1000, 1, 1, 0.5, 1.0), Candidate(MORE, 3000, 1, 1, 0.5, 1.0)]
    effects[place] += [1.0, effect_of_more]
    settings = CompressSettings(measure=False, finetune=TUNING)
    return Problem(source.net, SHAPE, settings, found, options, effects, True, dense_ms=8.0)


@pytest.mark.parametrize(
    ("recovery", "effect_of_more", "expected"),
    [(0.0, 2.9, FEW), (0.0, 0.9, MORE), (1.0, 2.9, MORE), (1.0, 3.1, FEW), (0.5, 1.7, MORE), (0.5, 1.8, FEW)],
)
def test_effects_are_divided_by_a_power_of_the_parameters(recovery: float, effect_of_more: float, expected: LayerPlan) -> None:
    choice = replace(problem(effect_of_more), recovery=recovery).within_ms(7.5)
    assert choice is not None
    assert expected in choice.plans
    assert choice.error == pytest.approx((1.0 if expected is FEW else effect_of_more) ** 0.5)  # what was measured


def test_the_plan_that_trains_best_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(2.0)
    monkeypatch.setattr(trained_choice, "fit", lambda p, *_: Fit(p.within_ms(7.5), []))
    trained: list[tuple[LayerPlan, int]] = []
    losses = {FEW: 0.7, MORE: 0.4}

    def judged(net: nn.Module, teacher: nn.Module, examples: Any, settings: FinetuneSettings) -> float:
        kept = net.get_submodule("conv2").n_nonzeros
        plan = FEW if kept < 2000 else MORE
        trained.append((plan, len(examples)))
        return losses[plan]

    monkeypatch.setattr(trained_choice, "mean_loss", judged)
    data = TrainingData(examples=Noise(200))
    best = best_trained(given, Target("speedup", 2), data)
    assert trained == [(FEW, 20), (MORE, 20)]
    assert MORE in best.fit.choice.plans
    assert best.tried == [{"recovery": 0.0, "loss": 0.7}, {"recovery": 1.0, "loss": 0.4}]
    losses[FEW] = 0.3
    assert FEW in best_trained(given, Target("speedup", 2), data).fit.choice.plans


def test_equal_plans_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_choice, "fit", lambda p, *_: Fit(p.within_ms(7.5), []))
    monkeypatch.setattr(trained_choice, "compress_net", None)
    best = best_trained(problem(0.5), Target("speedup", 2), TrainingData(examples=Noise(200)))
    assert best.tried == []
    assert MORE in best.fit.choice.plans


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


def test_a_target_with_training_tries_both(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(2.0)
    monkeypatch.setattr(search, "prepare", lambda *_, **__: given)
    monkeypatch.setattr(trained_choice, "fit", lambda p, *_: Fit(p.within_ms(7.5), []))
    made = search.compress_to_target(given.dense, SHAPE, given.settings, Target("speedup", 2), TrainingData(examples=Noise(64)))
    tried = made.report.budget["trials"]
    assert [trial["recovery"] for trial in tried] == list(RECOVERIES)
    best = min(tried, key=lambda trial: trial["loss"])["recovery"]
    assert any(f"losses {tried[0]['loss']:.4g} and {tried[1]['loss']:.4g}" in line for line in _budget_lines(made.report))
    kept = {row.name: row.n_nonzeros for row in made.report.layers if row.kind == "sparse"}
    assert (kept["conv2"] > 2000) == (best == 1.0)

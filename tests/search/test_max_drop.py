"""The fastest net within a largest drop: the drop by hand, the bisection, and training that counts once it is judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import Noise
from given_times import SETTINGS, small_problem
from torch import Tensor, fx, nn

from lcnn_compress.compression.settings import TrainingData
from lcnn_compress.data.score import image_scores, torch_runner
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.search.budget_report import Drop
from lcnn_compress.search.max_drop import drop_of, fastest_within, judge_by
from lcnn_compress.search.problem import Problem
from lcnn_compress.train.recipe import FinetuneSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_drop_and_its_interval_by_hand() -> None:
    dense, lookup = torch.tensor([100.0, 100, 0, 100]), torch.tensor([100.0, 0, 0, 100])
    drop = drop_of("top1_percent", dense.double(), lookup.double())
    assert (drop.dense, drop.value, drop.n) == (75.0, 25.0, 4)
    assert drop.high - drop.value == pytest.approx(1.96 * 50 / 2)  # lost 0, 100, 0, 0: standard deviation 50
    assert drop.value - drop.low == pytest.approx(49.0)


def test_a_net_is_judged_against_the_dense_one_on_the_same_images() -> None:
    dense = small_problem().captured.net
    judge = judge_by(dense, Noise(40))
    metric, scores = image_scores(torch_runner(dense), Noise(40))
    same = judge(dense)
    assert (same.metric, same.dense, same.value, same.n) == (metric, pytest.approx(float(scores.mean())), 0.0, 40)


def lost(problem: Problem, net: nn.Module, most: float) -> float:
    """A drop that grows with the weights a net has not kept, up to ``most``."""
    weights = sum(layer.weight().numel() for layer in problem.captured.layers)
    dense = sum(module.weight.numel() for module in net.modules() if isinstance(module, nn.Conv2d))
    kept = dense + sum(module.n_nonzeros for module in net.modules() if isinstance(module, LookupConv2d))
    return most * (1 - kept / weights)


def test_the_fastest_net_within_the_limit_is_kept() -> None:
    made, data = small_problem(), TrainingData([torch.randn(16, 3, 16, 16)])

    def judge(net: fx.GraphModule) -> Drop:
        value = lost(made, net, 40)
        return Drop("top-1", 90.0, value, value - 1, value + 1, 40)

    assert fastest_within(made, 100, data, judge).choice == made.fastest()
    found = fastest_within(made, 20, data, judge)
    tried = [trial.predicted_ms for trial in found.tried]
    assert len(tried) > 2
    assert tried == sorted(tried, key=lambda ms: ms or 0.0)
    assert {trial.value <= 20 for trial in found.tried} == {False, True}
    assert found.choice.ms == min(trial.predicted_ms or 0.0 for trial in found.tried if trial.value <= 20)
    assert found.drop.value <= 20
    with pytest.raises(SettingsError, match=r"`max_drop` 0 cannot be kept: the mildest net tried, \d\.\d\dx faster, loses"):
        fastest_within(made, 0, data, judge)


class Watched(Noise):
    """Examples that note when training begins."""

    used = False

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.used = True
        return super().batch(indices)


def test_training_is_judged_before_it_counts() -> None:
    examples, settings = Watched(40), replace(SETTINGS, finetune=FinetuneSettings(epochs=3, batch_size=8))
    made = small_problem(settings=settings)
    judged: list[bool] = []  # whether training had begun, for each net that was judged

    def judge(net: fx.GraphModule) -> Drop:
        judged.append(examples.used)
        value = lost(made, net, 16 if examples.used else 40)
        return Drop("top-1", 90.0, value, value - 1, value + 1, 40)

    found = fastest_within(made, 8, TrainingData([torch.randn(16, 3, 16, 16)], examples), judge)
    # The fastest that lost at most four times as much before was trained, then slower ones until one was within the limit.
    worth = [trial.predicted_ms or 0.0 for trial in found.tried if not trial.trained and trial.value <= 32]
    trials = [trial for trial in found.tried if trial.trained]
    times = [trial.predicted_ms or 0.0 for trial in trials]
    assert times == sorted(times)
    assert times[0] == min(worth)
    assert [trial.value <= 8 for trial in trials] == [False] * (len(trials) - 1) + [True]
    assert len(trials) > 1
    assert trials[-1].high <= 8
    # Those that lose too much train for three epochs, each judged; the last one ends after one. Then each net is judged.
    assert sum(judged) == 4 * (len(trials) - 1) + 2
    assert (found.drop.value, found.choice.ms) == (trials[-1].value, trials[-1].predicted_ms)
    assert found.artefact.config["finetune"] is not None

"""Recipe: ranges, what a configuration records of it, and the optimiser and the schedule worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from math import cos, pi
from pathlib import Path

import pytest
import torch
from torch import nn
from training_cases import recipe

import lcnn_compress
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import SettingsError
from lcnn_compress.train.recipe import FinetuneSettings, Optimiser, Recipe, Schedule, Sgd, Steps, devices

# The object "finetune" of a configuration that 0.1.0 wrote.
RECORDED = (
    '{"epochs": 5, "batch_size": 64, "lr": 0.001, "sparsity": "gradual", "threshold_c": 0.01, "l1": 0.1, "distill": true, '
    '"distill_weight": 0.7, "temperature": 3.0, "seed": 0, "feature_weight": 0.0, "average": 0.0, "accumulate": 1, '
    '"precision": "float32", "device": "cpu"}'
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", "float16"), ("epochs", 0), ("batch_size", 1), ("lr", 0.0), ("lr", float("inf")), ("sparsity", "magic"),
        ("threshold_c", -0.1), ("l1", float("nan")), ("distill_weight", 1.1), ("temperature", 0.0),
        ("seed", -1), ("feature_weight", -1.0), ("average", 1.0), ("accumulate", 0), ("accumulate", 5), ("task", "boxes"),
    ],
)  # fmt: skip
def test_settings_out_of_range(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"^`?{name}`? is {value!r}; it must be"):
        recipe(**{name: value})


def test_devices_are_those_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SettingsError, match=r"device is 'cuda'; it must be one of those torch \S+ finds here: cpu$"):
        recipe(device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices() == ("cpu", "cuda", "cuda:0", "cuda:1")
    assert recipe(device="cuda:1").device == "cuda:1"


def test_the_fields_are_known_without_torch() -> None:
    source = "import sys, lcnn_compress.train.recipe; print('torch' in sys.modules, 'lcnn_compress.data.tasks' in sys.modules)"
    folder = Path(lcnn_compress.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


def test_a_configuration_holds_what_it_held_in_the_first_release() -> None:
    assert json.dumps(Recipe().recorded()) == RECORDED
    assert Recipe.from_recorded(json.loads(RECORDED)) == FinetuneSettings(**json.loads(RECORDED)) == Recipe()
    assert FinetuneSettings(3, 32, 1e-2, "threshold", 0.2, 0.3) == recipe(
        epochs=3, batch_size=32, lr=1e-2, sparsity="threshold", threshold_c=0.2, l1=0.3
    )


def test_what_is_new_is_recorded_where_it_differs() -> None:
    chosen = replace(Recipe(), task=Task.LABELS, optimiser=Optimiser((0.8, 0.9)), schedule=Schedule(5))
    found = json.loads(json.dumps(chosen.recorded()))
    assert {name: found[name] for name in found if name not in json.loads(RECORDED)} == {
        "task": "multilabel", "optimiser": {"betas": [0.8, 0.9]}, "schedule": {"warmup_steps": 5, "start": 0.0, "end": 1.0},
    }  # fmt: skip
    again = Recipe.from_recorded(found)
    assert again == chosen
    assert asdict(again) == asdict(chosen)
    with pytest.raises(TypeError, match="momentum"):
        Recipe.from_recorded({"momentum": 0.9})


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    def rates(schedule: Schedule, total: int) -> list[float]:
        return [schedule.rate(2.0, step, total) for step in range(total)]

    # A tenth of 40 steps is less than 30: a quarter, a half, three quarters, and all of the cosine's value.
    found = rates(Schedule(), 40)
    for step, part in enumerate((0.25, 0.5, 0.75, 1, 1, 1)):
        assert found[step] == pytest.approx(2 * part * (1 + cos(pi * step / 40)) / 2)
    assert found[20] == pytest.approx(1.0)
    assert found == sorted(found[:3]) + sorted(found[3:], reverse=True)
    assert rates(Schedule(2), 40)[:2] == pytest.approx([1.0, 2 * (1 + cos(pi / 40)) / 2])
    assert rates(Schedule(0), 1) == [2.0]
    with pytest.raises(SettingsError, match="warmup_steps is -1; it must be 0 or more"):
        Schedule(-1)


def test_parts_of_a_training_have_parts_of_its_cosine() -> None:
    whole = [Schedule(0).rate(2.0, step, 40) for step in range(40)]
    first, last = Schedule(0).part(0.0, 0.75), Schedule(0).part(0.75, 1.0)
    found = [first.rate(2.0, step, 30) for step in range(30)] + [last.rate(2.0, step, 10) for step in range(10)]
    assert found == pytest.approx(whole)
    assert first.part(1 / 3, 1.0) == Schedule(0, 0.25, 0.75)
    # Each part warms up: it starts with an optimiser that knows no gradients.
    assert Schedule(30, 0.5, 1.0).rate(2.0, 0, 40) == pytest.approx(0.25)
    with pytest.raises(SettingsError, match=r"start and end are 0\.5 and 0\.5; they must be in order, from 0 to 1"):
        Schedule(0, 0.5, 0.5)


def test_the_first_step_of_the_optimiser_is_as_long_as_the_learning_rate() -> None:
    weights = nn.Parameter(torch.tensor([1.0, -2.0]))
    weights.grad = torch.tensor([100.0, -0.1])
    optimiser = Optimiser((0.5, 0.9)).over([weights], lr=0.25)
    optimiser.step()
    # Both averages, corrected for their start, are the gradient and its square: their ratio is its sign.
    torch.testing.assert_close(weights.detach(), torch.tensor([0.75, -1.75]))
    torch.testing.assert_close(optimiser.state[weights]["exp_avg"], torch.tensor([50.0, -0.05]))
    torch.testing.assert_close(optimiser.state[weights]["exp_avg_sq"], torch.tensor([1000.0, 0.001]))


@pytest.mark.parametrize("betas", [(0.9,), (1.0, 0.5), (0.9, -0.1)])
def test_betas_out_of_range(betas: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match=r"betas is \(.*\); it must be two numbers"):
        Optimiser(betas)


def test_gradient_descent_with_momentum_and_decay_that_ends() -> None:
    parameter = nn.Parameter(torch.tensor([2.0]))
    sgd = Sgd(momentum=0.5, weight_decay=0.1, decay_until=0.5)
    optimiser = sgd.over([parameter], 1.0)
    seen = []
    for done in (0.0, 0.4, 0.5):
        sgd.adjust(optimiser, 0.1, done)
        parameter.grad = torch.ones(1)
        optimiser.step()
        seen.append(round(float(parameter.detach()), 6))
    # Sums of gradients: 1 + 0.1 * 2 = 1.2; 0.6 + 1 + 0.1 * 1.88 = 1.788; 0.894 + 1 without decay.
    assert seen == [2 - 0.12, round(1.88 - 0.1788, 6), round(1.7012 - 0.1894, 6)]


def test_the_rate_falls_in_steps() -> None:
    steps = Steps((0.5, 0.75, 1.0), (1.0, 0.3, 0.1))
    assert [round(steps.rate(2.0, step, 8), 6) for step in range(8)] == [2.0] * 4 + [0.6] * 2 + [0.2] * 2
    later = steps.part(0.25, 1.0)
    assert [round(later.rate(2.0, step, 6), 6) for step in range(6)] == [2.0] * 2 + [0.6] * 2 + [0.2] * 2
    assert steps.part(0.0, 0.5) == Steps((1.0,), (1.0,))


@pytest.mark.parametrize(
    ("until", "factors"),
    [((0.5,), (1.0,)), ((0.5, 0.5, 1.0), (1.0, 0.5, 0.1)), ((), ()), ((1.0,), (1.0, 0.1)), ((1.0,), (0.0,))],
)
def test_steps_that_make_no_sense(until: tuple[float, ...], factors: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match="must"):
        Steps(until, factors)


@pytest.mark.parametrize("values", [{"momentum": 1.5}, {"weight_decay": -0.1}, {"decay_until": 2.0}])
def test_gradient_descent_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"must be from 0 to 1"):
        Sgd(**values)


def test_a_recipe_of_the_paper_is_recorded_and_read_again() -> None:
    chosen = recipe(optimiser=Sgd(0.9, 5e-4, 0.5), schedule=Steps((0.5, 1.0), (1.0, 0.1)), sparsity="top", lookups=5)
    assert Recipe.from_recorded(json.loads(json.dumps(chosen.recorded()))) == chosen

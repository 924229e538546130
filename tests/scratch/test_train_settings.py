"""Settings of a training from scratch: what is refused, and the recipe they stand for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.published import ALEXNET_FAST, RESNET_ACCURATE
from lcnn_compress.scratch.schedules import ALEXNET, COSINE, RESNET, TIMETABLES
from lcnn_compress.scratch.train_settings import TrainSettings
from lcnn_compress.train.recipe import Recipe


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "fast"}, {"sparsity": "magic"}, {"timetable": "linear"}, {"dictionary": "x"}, {"shift": -1}, {"seed": -1},
        {"storage": "int4"}, {"epochs": 1.5}, {"preset": "dense", "dictionary": "4"},
    ],
)  # fmt: skip
def test_values_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=f"`{next(reversed(values))}`"):
        TrainSettings(**values)  # type: ignore[arg-type]


def test_numbers_of_the_recipe_are_checked_too() -> None:
    with pytest.raises(SettingsError, match="batch_size"):
        TrainSettings(batch_size=1).recipe(None, COSINE)


def test_epsilon_and_lambda_are_the_published_ones_unless_stated() -> None:
    def numbers(recipe: Recipe) -> tuple[float, float]:
        return recipe.threshold_c, recipe.l1

    assert numbers(TrainSettings().recipe(ALEXNET_FAST, ALEXNET)) == (0.01, 0.3)
    assert numbers(TrainSettings(preset="lcnn-accurate").recipe(RESNET_ACCURATE, RESNET)) == (0.001, 0.1)
    assert numbers(TrainSettings(preset="lcnn-accurate").recipe(None, COSINE)) == (0.01, 0.1)
    assert numbers(TrainSettings(threshold_c=0.0, l1=0.0).recipe(ALEXNET_FAST, ALEXNET)) == (0.0, 0.0)


def test_the_timetable_is_that_of_the_net_unless_stated() -> None:
    published = TrainSettings().recipe(RESNET_ACCURATE, RESNET)
    assert (published.epochs, published.batch_size, published.lr) == (55, 256, 0.1)
    assert (published.optimiser, published.schedule) == (TIMETABLES[RESNET].optimiser, TIMETABLES[RESNET].schedule)
    stated = TrainSettings(timetable=ALEXNET, epochs=7, batch_size=32, lr=0.5, sparsity="top", lookups=2, seed=9)
    recipe = stated.recipe(None, COSINE)
    assert recipe.schedule == TIMETABLES[ALEXNET].schedule
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.lookups, recipe.seed) == (7, 32, 0.5, 2, 9)


def test_options_are_made_without_torch() -> None:
    code = "import sys, lcnn_compress.scratch.train_settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

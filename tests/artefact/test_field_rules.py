"""Fields hold what their types say: settings of callers and what was read from JSON alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from lcnn_compress.artefact.field_rules import MAX_SEED, check_config, check_seed, fits
from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.compression.configuration import Configuration
from lcnn_compress.compression.settings import CompressSettings, LayerPlan, PlanSettings
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.errors import ArtefactError, SettingsError
from lcnn_compress.export.export_settings import ExportSettings
from lcnn_compress.search.target import SensitivitySettings, Target
from lcnn_compress.train.recipe import Optimiser, Recipe, Schedule

NAN, INFINITY = float("nan"), float("inf")


class Colour(str, Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("hint", "values"),
    [
        (int, [0, -3, 2**53]), (float, [0, -3, 0.5, -1e300]), (bool, [True, False]), (str, ["", "1"]),
        (int | None, [None, 4]), (int | float, [4, 0.25]), (tuple[float, ...], [(), (1, 0.5), [0.5]]),
        (tuple[int, str], [(1, "a"), [1, "a"]]), (tuple[float, ...] | None, [None, (1.0,)]),
        (Mapping[str, int], [{}, {"a": 1}]), (Colour, [Colour.RED, "red"]), (Any, [None, NAN]),
        (Target, [Target("speedup", 2)]),
    ],
)  # fmt: skip
def test_values_of_a_type(hint: Any, values: list[object]) -> None:
    assert [value for value in values if not fits(value, hint)] == []


@pytest.mark.parametrize(
    ("hint", "values"),
    [
        (int, [True, False, 1.0, "1", None, [], NAN, INFINITY, 2**53 + 1, -(10**400)]),
        (float, [True, False, "1", None, [], NAN, INFINITY, -INFINITY, 10**400]), (bool, [0, 1, "true", None]),
        (str, [1, None, b"a", ["a"]]), (int | None, [True, "1", NAN]),
        (tuple[float, ...], [1.0, "1", (1.0, NAN), (True,), None]),
        (tuple[int, str], [(1,), (1, 2), (1, "a", 2), "1a"]), (Mapping[str, int], [[], {"a": True}, {1: 1}, {"a": 2.5}]),
        (Colour, ["blue", 1, None, True]), (Target, ["speedup", None]),
    ],
)  # fmt: skip
def test_values_that_are_not_of_a_type(hint: Any, values: list[object]) -> None:
    assert [value for value in values if fits(value, hint)] == []


SETTINGS: list[Any] = [
    PlanSettings(), CompressSettings(), DataSettings(), Recipe(), ExportSettings(), BenchSettings(), SensitivitySettings(),
    LayerPlan("a", "dense", ""), Configuration(),
]  # fmt: skip


@pytest.mark.parametrize("made", SETTINGS, ids=lambda made: type(made).__name__)
def test_every_field_of_settings_is_checked(made: Any) -> None:
    values = {field.name: getattr(made, field.name) for field in fields(made)}
    for name in values:
        for wrong in (object(), NAN, INFINITY, 10**400, {}, [True]):
            with pytest.raises(SettingsError, match=rf"^`?{name}`? is .*; (it|each) must be "):
                type(made)(**{**values, name: wrong})


@pytest.mark.parametrize("made", SETTINGS, ids=lambda made: type(made).__name__)
def test_true_is_no_number(made: Any) -> None:
    numbers = [f.name for f in fields(made) if isinstance(f.type, str) and f.type.split(" ")[0] in ("int", "float")]
    assert numbers or isinstance(made, Configuration)
    values = {field.name: getattr(made, field.name) for field in fields(made)}
    for name in numbers:
        with pytest.raises(SettingsError, match=rf"^`{name}` is True; it must be a (whole )?number"):
            type(made)(**{**values, name: True})


def test_other_values_are_refused_too() -> None:
    for betas in ((True, 0.5), (NAN, 0.5), ("0", 0.5), 0.5, (0.5,)):
        with pytest.raises(SettingsError, match=r"^betas is "):
            Optimiser(betas)  # type: ignore[arg-type]
    for steps in (True, 1.5, NAN, "3", 10**400):
        with pytest.raises(SettingsError, match=r"^warmup_steps is "):
            Schedule(steps)  # type: ignore[arg-type]
    for value in (True, "2", None, NAN, INFINITY, 10**400):
        with pytest.raises(SettingsError, match=r"^`speedup` is .*; it must be a number above 1"):
            Target("speedup", value)  # type: ignore[arg-type]


def test_what_the_types_are_called() -> None:
    with pytest.raises(SettingsError, match=r"^`lookups` is '2'; it must be a whole number or a number or None$"):
        PlanSettings(lookups="2")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^`only` is 'conv\*'; it must be a tuple of text$"):  # not its letters
        PlanSettings(only="conv*")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^`mean` is 0.5; it must be a tuple of numbers or None$"):
        DataSettings(mean=0.5)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^`task` is 'boxes'; it must be one of classes, multilabel, targets or None$"):
        Recipe(task="boxes")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^`measure` is 1; it must be True or False$"):
        CompressSettings(measure=1)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"^`plan` is 3; it must be a PlanSettings$"):
        CompressSettings(plan=3)  # type: ignore[arg-type]


def test_paths_of_data_become_text() -> None:
    made = DataSettings(Path("a") / "b.npz", data=Path("c"))  # type: ignore[arg-type]
    assert (made.calib, made.data) == (str(Path("a") / "b.npz"), "c")
    assert json.loads(json.dumps(asdict(made)))["calib"] == made.calib


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**53])
def test_seeds_are_those_that_all_generators_take(seed: int) -> None:
    check_seed(MAX_SEED)
    with pytest.raises(SettingsError, match=rf"^`seed` is {seed}; it must be from 0 to 4294967295$"):
        check_seed(seed)
    for kind in (CompressSettings, BenchSettings, SensitivitySettings, Recipe):
        with pytest.raises(SettingsError, match=f"seed`? is {seed}; it must be from 0 to 4294967295"):
            kind(seed=seed)


CONFIG: dict[str, Any] = {
    "coefficients": "float16", "model": {"kind": "factory", "arch": None, "sha256": "ab"},
    "data": {"calib": "a.npz", "mean": [0.5], "std": [0.25]}, "layers": [], "seed": 0,
}  # fmt: skip


def test_a_configuration_may_lack_what_is_only_for_repeating_its_run() -> None:
    for config in (CONFIG, {"coefficients": "int8"}, {**CONFIG, "data": None}, {**CONFIG, "data": {"in_memory": True}}):
        check_config(config, "net.lcnn")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("coefficients", [None, 3, True]), ("model", [None, 3, [], "a", {"kind": 3}, {"arch": True}]), ("data", [3, [], "a"]),
        ("data.mean", [True, 0.5, "a", [NAN], [True]]), ("data.std", [{}, ["a"], INFINITY]),
    ],
)  # fmt: skip
def test_a_configuration_of_anything_is_refused(name: str, values: list[object]) -> None:
    outer, _, inner = name.partition(".")
    for value in values:
        config = {**CONFIG, outer: {**CONFIG[outer], inner: value} if inner else value}
        with pytest.raises(ArtefactError, match=rf"^net\.lcnn: {name} of config\.json is .*; it must be .* make it again$"):
            check_config(config, "net.lcnn")
    with pytest.raises(ArtefactError, match=r"coefficients of config\.json is None; it must be text"):
        check_config({"layers": []}, "net.lcnn")

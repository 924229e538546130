"""Settings written for release 0.1.0 are understood: the names that fields had there."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from typing import Any

import pytest

from lcnn_compress import CompressSettings, ExportSettings, LayerPlan, PlanSettings

RENAMED = [
    (CompressSettings, "coefficients", "storage", "int8"),
    (ExportSettings, "coefficients", "storage", "float32"),
    (PlanSettings, "share", "filters_per_pattern", 4),
]


@pytest.mark.parametrize(("settings", "earlier", "name", "value"), RENAMED)
def test_an_earlier_name_makes_and_reads_the_same_settings(settings: Any, earlier: str, name: str, value: object) -> None:
    with pytest.warns(DeprecationWarning, match=f"`{earlier}` of {settings.__name__} is called `{name}` now") as seen:
        made = settings(**{earlier: value})
    assert seen[0].filename == __file__
    assert made == settings(**{name: value}) != settings()
    assert getattr(made, earlier) == value
    assert earlier not in {field.name for field in fields(made)}
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_layer_s_plan_has_its_earlier_name_too() -> None:
    with pytest.warns(DeprecationWarning, match="`share` of LayerPlan"):
        assert LayerPlan("conv", "lookup", "", share=2).share == 2  # type: ignore[call-arg, attr-defined]


@pytest.mark.parametrize(("settings", "earlier", "name", "value"), RENAMED)
def test_both_names_are_refused(settings: Any, earlier: str, name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"got `{name}` and `{earlier}`, its earlier name; give `{name}` alone"):
        settings(**{earlier: value, name: value})
    with pytest.raises(TypeError, match=f"give `{name}` alone"):
        replace(settings(), **{earlier: value})


def test_other_names_are_refused_as_ever() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'storages'"):
        CompressSettings(storages="int8")  # type: ignore[call-arg]

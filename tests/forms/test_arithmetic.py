"""What layers compute in."""

from __future__ import annotations

import pytest

from lcnn_compress.compression.settings import CompressSettings, LayerPlan
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.arithmetic import ARITHMETICS, AUTO, check_arithmetic


def test_known_ones_are_taken_and_others_named() -> None:
    for arithmetic in ARITHMETICS:
        check_arithmetic(arithmetic)
        assert CompressSettings(arithmetic=arithmetic).arithmetic == arithmetic
        assert LayerPlan("a", "dense", "", arithmetic=arithmetic).arithmetic == arithmetic
    for make in (
        check_arithmetic,
        lambda name: CompressSettings(arithmetic=name),
        lambda n: LayerPlan("a", "dense", "", arithmetic=n),
    ):
        with pytest.raises(SettingsError, match=r"`arithmetic` is 'int4'; it must be one of (auto, )?float32, int8, bfloat16"):
            make("int4")


def test_the_choice_of_a_search_is_asked_for_and_never_planned() -> None:
    assert CompressSettings().arithmetic == AUTO
    with pytest.raises(SettingsError, match=r"`arithmetic` is 'auto'; it must be one of float32, int8"):
        LayerPlan("a", "dense", "", arithmetic=AUTO)


def test_configurations_of_float32_stay_as_they_were() -> None:
    plain = LayerPlan("a", "dense", "")
    assert "arithmetic" not in plain.to_json()
    for plan in (plain, *(LayerPlan("a", "dense", "", arithmetic=name) for name in ("int8", "bfloat16"))):
        assert LayerPlan.from_json(plan.to_json()) == plan

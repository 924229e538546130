"""How a dictionary's size is asked for."""

from __future__ import annotations

from lcnn_compress.compression.plan import PlanSettings
from lcnn_compress.forms.size_rules import parse_dictionary


def test_presets_and_shares():
    assert parse_dictionary("fast")[0].rows(64) == 16
    assert parse_dictionary("accurate")[0].rows(64) == 32
    assert parse_dictionary("1.0")[0].rows(64) == 64
    assert parse_dictionary("1")[0].rows(64) == 1
    assert PlanSettings(dictionary="fast").effective_lookups == 1

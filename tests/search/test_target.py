"""What may be asked for."""

from __future__ import annotations

import pytest

from lcnn_compress.errors import SettingsError
from lcnn_compress.search.target import TARGETS, Target


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("speedup", 1.0),
        ("speedup", float("nan")),
        ("speedup", float("inf")),
        ("latency_ms", 0),
        ("size_mb", -2),
        ("max_drop", -1),
    ],
)
def test_impossible_targets_are_refused(kind: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{value:g}; it must be a number above"):
        Target(kind, value)


def test_possible_targets_are_not() -> None:
    assert [Target(kind, 1.5).kind for kind in TARGETS] == ["speedup", "latency_ms", "size_mb", "max_drop"]
    assert Target("max_drop", 0).value == 0

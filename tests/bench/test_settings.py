"""What to measure: numbers that make no sense are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from lcnn_compress.bench.settings import BenchSettings
from lcnn_compress.errors import SettingsError


def test_the_defaults_are_those_of_the_command_line() -> None:
    settings = BenchSettings()
    assert (settings.threads, settings.batches, settings.iterations, settings.per_layer) == ((1,), (1,), 100, True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threads": (1, 0)}, r"threads is \(1, 0\); each must be at least 1"),
        ({"batches": ()}, r"batches is \(\); each must be at least 1"),
        ({"iterations": 0}, r"iterations is \(0,\); each must be at least 1"),
        ({"warmup": -1}, "warmup is -1; it must be at least 0"),
    ],
)
def test_numbers_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        BenchSettings(**values)

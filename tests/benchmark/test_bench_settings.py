"""Settings of a measurement."""

from __future__ import annotations

from typing import Any

import pytest

from lcnn_compress.benchmark.compare import BenchSettings
from lcnn_compress.errors import SettingsError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": (1, 0)}, r"threads is \(1, 0\); each must be at least 1"),
        ({"batches": ()}, r"batches is \(\); each must be at least 1"),
        ({"iterations": 0}, r"iterations is \(0,\); each must be at least 1"),
        ({"warmup": -1}, r"warmup is -1; it must be at least 0"),
    ],
)
def test_settings_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        BenchSettings(**wrong)

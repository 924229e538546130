"""The table and curves of the comparison of methods."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def test_best_at_equal_time() -> None:
    report = importlib.import_module("method_report")

    def point(method: str, ms: float, score: float) -> Any:
        return report.Point(method, 3, (score,), ms, 1, 1, 1, "")

    others = [point("a", 1.0, 80), point("a", 4.0, 90), point("b", 1.5, 84)]
    assert report.best_at(0.5, others) is None
    assert report.best_at(1.0, others) == (80, "a")
    score, method = report.best_at(2.0, others)
    assert (score, method) == (pytest.approx(85), "a")  # half way between on a logarithmic scale
    assert report.best_at(1.6, others)[1] == "b"
    assert report.best_at(9.0, others) == (90, "a")

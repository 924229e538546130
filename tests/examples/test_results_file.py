"""The file of results of a long comparison: kept after each result, refused for other settings."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest


def test_results_are_kept_and_other_settings_refused(tmp_path: Path) -> None:
    results_file = importlib.import_module("results_file")
    path = tmp_path / "methods.json"
    results = results_file.Results(path)
    results.check_settings("net", {"images": 3})
    assert results.get("runs", "a", lambda: {"score": 1.5}) == {"score": 1.5}
    assert json.loads(path.read_text())["runs"] == {"a": {"score": 1.5}}
    again = results_file.Results(path)
    assert again.get("runs", "a", lambda: {"score": 2.0}) == {"score": 1.5}
    again.check_settings("another", {"images": 4})
    with pytest.raises(SystemExit, match=r"net was made with .*another --output"):
        again.check_settings("net", {"images": 4})

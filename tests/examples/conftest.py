"""The scripts of examples/ import each other by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def examples_on_the_path() -> Iterator[None]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    yield
    del sys.path[0]

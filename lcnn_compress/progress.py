"""How work that takes long reports its progress: a callable that gets the stage, the steps done and the steps in total."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""

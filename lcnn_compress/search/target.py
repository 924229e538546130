"""What is asked for in place of a dictionary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lcnn_compress.errors import SettingsError

TARGETS = ("speedup", "latency_ms", "size_mb", "max_drop")


@dataclass(frozen=True)
class Target:
    """What is asked for: ``kind`` is one of ``TARGETS``; a drop is in the unit of the metric, points or dB."""

    kind: str
    value: float

    def __post_init__(self) -> None:
        rules = {"speedup": 1.0, "latency_ms": 0.0, "size_mb": 0.0, "max_drop": 0.0}
        assert self.kind in rules, self.kind
        if not (np.isfinite(self.value) and (self.value > rules[self.kind] or (self.kind == "max_drop" and self.value == 0))):
            option = "--max-drop" if self.kind == "max_drop" else f"--target-{self.kind.replace('_', '-')}"
            raise SettingsError(f"{option} is {self.value:g}; it must be a number above {rules[self.kind]:g}")

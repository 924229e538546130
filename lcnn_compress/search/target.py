"""What is asked for: a target in place of a dictionary, or how sensitive layers are.

Nothing heavy is imported, because options of commands are made from these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lcnn_compress.artefact.field_rules import check_fields, check_seed, fits
from lcnn_compress.compression.settings import CompressSettings, PlanSettings
from lcnn_compress.errors import SettingsError

TARGETS = ("speedup", "latency_ms", "size_mb", "max_drop")
# Dictionaries start from K-SVD: at the few lookups of a target it is clearly better than k-means, in every layer tried.
INIT = "ksvd"
# This fraction of the labelled examples is held out to judge a largest drop by.
HELD_OUT = 0.3


@dataclass(frozen=True)
class Target:
    """What is asked for: ``kind`` is one of ``TARGETS``; a drop is in the unit of the metric, points or dB."""

    kind: str
    value: float

    def __post_init__(self) -> None:
        rules = {"speedup": 1.0, "latency_ms": 0.0, "size_mb": 0.0, "max_drop": 0.0}
        assert self.kind in rules, self.kind
        least = rules[self.kind]
        if not fits(self.value, float) or not (self.value > least or (self.kind == "max_drop" and self.value == 0)):
            shown = f"{self.value:g}" if isinstance(self.value, float) else f"{self.value!r:.40}"
            raise SettingsError(f"`{self.kind}` is {shown}; it must be a number above {least:g}")

    def check(self, settings: CompressSettings) -> None:
        """Refuse settings that do not go with a target.

        Raises:
            SettingsError: nothing may be measured though the target is one of time or drop, or dictionaries start as svd.
        """
        if not settings.measure and self.kind != "size_mb":
            raise SettingsError("`measure=False` leaves out what a target of time or drop needs; drop it")
        if settings.init not in ("kmeans", "ksvd"):
            raise SettingsError(f"`init` {settings.init} does not go with a target; use kmeans or ksvd")


@dataclass(frozen=True)
class SensitivitySettings:
    """Which layers to try, and dictionaries as shares of their channels; a quarter of each dictionary is looked up.

    Raises:
        SettingsError: a share is not above 0 and up to 1.
    """

    sizes: tuple[float, ...] = field(default=(0.5, 0.25, 0.125), metadata={
        "help": "Dictionaries to try, as shares of the channels", "metavar": "SHARE,...",
    })  # fmt: skip
    plan: PlanSettings = field(default_factory=PlanSettings)
    init: str = "kmeans"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_seed(self.seed)
        if not self.sizes or not all(0 < size <= 1 for size in self.sizes):
            text = ",".join(f"{size:g}" for size in self.sizes)
            raise SettingsError(f"`sizes` is '{text}'; it must be shares above 0 and up to 1, separated by commas")

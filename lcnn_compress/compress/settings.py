"""What decides a compression: settings, and the data that may improve the net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lcnn_compress.compress.plan import LayerPlan, PlanSettings
from lcnn_compress.data.examples import Examples, batches
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.dictionary import INITS
from lcnn_compress.forms.storage import check_type
from lcnn_compress.train.recipe import FinetuneSettings

CALIBRATION_IMAGES = 512  # of the training data, where no calibration data is given
CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class CompressSettings:
    """Everything that decides the result, apart from the model and the data."""

    plan: PlanSettings = field(default_factory=PlanSettings)
    init: str = "kmeans"
    seed: int = 0
    storage: str = "float16"
    measure: bool = True  # layers not measured faster go back to dense
    threads: int = 1  # of the measurement
    finetune: FinetuneSettings | None = None

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise SettingsError(f"--init is '{self.init}'; it must be one of {', '.join(INITS)}")
        check_type(self.storage)
        if self.threads < 1:
            raise SettingsError(f"--threads is {self.threads}; it must be at least 1")


@dataclass(frozen=True)
class TrainingData:
    """What may improve a compressed net: unlabelled calibration batches, training examples, a checkpoint to keep or resume.

    ``on_plan`` gets the layer decisions before training starts: a resumed run must be given the same ones. ``origin`` says
    where the data came from, for the configuration; None where it was in memory. ``held_out`` are labelled examples nothing
    is trained or calibrated on: a largest drop is judged by them. ``enough`` may stop training early: see ``finetune``.
    """

    calibration: Sequence[Tensor] = ()
    examples: Examples | None = None
    held_out: Examples | None = None
    checkpoint: Path | None = None
    resume: bool = False
    on_plan: Callable[[Sequence[LayerPlan]], None] | None = None
    origin: dict[str, Any] | None = None
    enough: Callable[[nn.Module], bool] | None = None

    def calibrated(self) -> TrainingData:
        """Let the first training examples serve where no calibration inputs are given."""
        if self.calibration or self.examples is None:
            return self
        some = torch.arange(min(CALIBRATION_IMAGES, len(self.examples)))
        return replace(self, calibration=[x for x, _ in batches(self.examples, CALIBRATION_BATCH, some)])

    def recorded_origin(self) -> dict[str, Any] | None:
        """Return what the configuration says of the data: None where there is none."""
        present = bool(self.calibration) or self.examples is not None
        return self.origin or ({"in_memory": True} if present else None)

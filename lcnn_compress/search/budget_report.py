"""What a search reports: what was asked for, what was foreseen, and what was measured on the way there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# ``as_json`` leaves a field with this metadata out where its value is None.
OPTIONAL = {"optional": True}


@dataclass(frozen=True)
class PlannedLayer:
    """What one layer becomes and what that is expected to cost.

    MACs and times (ms; None where nothing was timed) are of one image. ``density`` is non-zeros over all coefficients;
    ``error`` is what the layer alone adds to the outputs, relative to their spread; ``arithmetic`` is what it computes in, None
    for float32.
    """

    name: str
    kind: str
    reason: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    dictionary_size: int
    density: float
    macs: int
    macs_dense: int
    predicted_ms: float | None
    dense_ms: float | None
    error: float
    arithmetic: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Expected:
    """What was asked for and what the chosen plan is expected to give.

    ``target`` maps the kind of target to its value. ``effects`` says what errors were measured on: "outputs" or "filters".
    Times are in ms of one image, None where nothing was timed.
    """

    target: Mapping[str, float]
    threads: int
    effects: str
    dense_ms: float | None
    predicted_ms: float | None
    predicted_speedup: float | None
    predicted_macs: int
    macs_dense: int
    predicted_weight_bytes: int
    predicted_error: float


@dataclass(frozen=True)
class Forecast:
    """What ``lcnn compress --dry-run --json`` prints."""

    command: str
    dry_run: bool
    input_shape: tuple[int, ...]
    layers: tuple[PlannedLayer, ...]
    budget: Expected


@dataclass(frozen=True)
class TimeRound:
    """One plan on the way to a target of time: ms of one image, as foreseen and as the built net took."""

    predicted_ms: float
    predicted_speedup: float
    measured_ms: float
    measured_dense_ms: float
    measured_speedup: float


@dataclass(frozen=True)
class SizeRound:
    """One plan on the way to a target size: bytes of the file, as foreseen and as written."""

    predicted_bytes: float
    measured_bytes: int


@dataclass(frozen=True)
class Trial:
    """The loss of a plan after a short training; ``recovery`` is the ``Problem.recovery_exponent`` it was chosen with."""

    recovery: float
    loss: float


@dataclass(frozen=True)
class Drop:
    """What a net loses against the dense one on ``n`` images, in points or dB, with its 95 % interval."""

    metric: str
    dense: float
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class TriedNet(Drop):
    """The drop of one net that was tried for a largest drop, its expected time, and whether it was trained."""

    predicted_ms: float | None
    trained: bool


@dataclass(frozen=True)
class MetTarget(Expected):
    """A target of time or size, and how it was met. ``trials`` is empty where no plans were compared by training.

    ``measured_error`` is that of the outputs on calibration images, relative to their spread.
    """

    rounds: tuple[TimeRound | SizeRound, ...]
    trials: tuple[Trial, ...]
    measured_error: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class KeptDrop(Expected):
    """A largest drop, the drop of the net that was made, and all nets tried for it; ``measured_error`` as in ``MetTarget``."""

    drop: Drop
    tried: tuple[TriedNet, ...]
    measured_error: float | None = field(default=None, metadata=OPTIONAL)


def as_json(value: DataclassInstance) -> dict[str, Any]:
    """Return a dataclass as JSON has it, in dicts and lists; optional fields that are None are left out."""
    pairs = [(f, getattr(value, f.name)) for f in fields(value)]
    return {f.name: _plain(part) for f, part in pairs if part is not None or "optional" not in f.metadata}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value

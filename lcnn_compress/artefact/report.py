"""The report of a compression: what was done to each layer, what the net costs now, what was foreseen and what was measured.

``report.json`` and ``lcnn compress --json`` hold it as JSON. What does not apply (times where nothing was measured, the lookups
of a dense layer) is None here and left out there.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import PurePath
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lcnn_compress.artefact.field_rules import fits
from lcnn_compress.forms.kinds import KINDS, Kind

# An object of JSON is a mapping; whoever wrote it says which keys it has.
Json = Mapping[str, Any]
T = TypeVar("T")
MOST_QUOTED = 100  # characters of a wrong value


@dataclass(frozen=True)
class LayerReport:
    """What was done to one layer and what it costs now. MACs are for one image, all calls of the layer together.

    Attributes:
        kind: name of one of ``kinds.KINDS``.
        reason: why the layer stays dense, else "".
        note: what else is to be known about the layer, else "".
        kernel: (kH, kW).
        input_sizes: (height, width) of the input of each call.
        weight_bytes: bytes of the weights as stored, bias included.
        dictionary_size: k, rows of the dictionary of a group; None in a dense layer, as all down to ``rows_used``.
        lookups_per_position: mean number of coefficients that are not 0 for an output channel and a position of the kernel.
        macs_stage1: MACs of the product with the dictionary.
        macs_stage2: MACs of the lookups.
        relative_error: |W - PD| / |W| (Frobenius).
        rows_used: number of rows, in all groups, that any filter looks up.
        dense_ms: time of the layer in the dense net (median, one image); None where times were not measured.
        lookup_ms: time of the layer now.
        predicted_ms: time that was foreseen where a target was asked for, else None.
        predicted_error: error that was foreseen in the outputs or filters, as a part of their spread.
        arithmetic: what the layer computes in; None is float32.
    """

    name: str
    type: str
    kind: str
    reason: str
    note: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    groups: int
    input_sizes: tuple[tuple[int, ...], ...]
    macs_dense: int
    macs: int
    weight_bytes_dense: int
    weight_bytes: int
    dictionary_size: int | None = None
    n_nonzeros: int | None = None
    lookups_per_position: float | None = None
    macs_stage1: int | None = None
    macs_stage2: int | None = None
    relative_error: float | None = None
    rows_used: int | None = None
    dense_ms: float | None = None
    lookup_ms: float | None = None
    predicted_ms: float | None = None
    predicted_error: float | None = None
    arithmetic: str | None = None

    @property
    def form(self) -> Kind:
        """The kind of form that ``kind`` names."""
        return KINDS[self.kind]

    def to_json(self) -> Json:
        """Return what applies to this layer."""
        return _known(asdict(self))


@dataclass(frozen=True)
class Totals:
    """Sums over the layers, and times of the whole net (ms, median of one image); None where they were not measured."""

    macs_dense: int
    macs: int
    weight_bytes_dense: int
    weight_bytes: int
    macs_ratio: float
    dense_ms: float | None = None
    lookup_ms: float | None = None
    speedup: float | None = None

    def to_json(self) -> Json:
        """Return what was measured."""
        return _known(asdict(self))


@dataclass(frozen=True)
class TrainingReport:
    """What training did: steps taken, mean loss of each epoch, coefficients left in each lookup layer."""

    steps: int
    losses: tuple[float, ...]
    nonzeros: Mapping[str, int]


@dataclass(frozen=True)
class Report(Mapping[str, Any]):
    """What a compression did; read by key, ``report["layers"]``, it is the object of ``report.json``, as in 0.1.0.

    Attributes:
        input_shape: (1, ...).
        calibration_images: number of images that coefficients were solved with.
        training: None where nothing was trained.
        machine: facts about the processor and the packages.
        date: time of the compression, ISO 8601 in UTC; None in reports of 0.1.0.
        budget: what was asked for and foreseen; None where no target was given.
        model: path or factory of the dense net; a path is relative to the artefact once that is saved.
        settings: the resolved configuration.
        notes: what was to be known about the model.
    """

    input_shape: tuple[int, ...]
    layers: tuple[LayerReport, ...]
    totals: Totals
    calibration_images: int
    training: TrainingReport | None
    machine: Json
    date: str | None = None
    budget: Json | None = None
    model: str | None = None
    settings: Json | None = None
    notes: tuple[str, ...] = ()
    command: str = "compress"

    @property
    def model_name(self) -> str | None:
        """The function of a factory, the file of a path without its folder and ending, or the class of a module."""
        _, colon, name = (self.model or "").rpartition(":")
        return name if colon and "/" not in name else PurePath(name).stem or None

    def to_json(self) -> Json:
        """Return the object of ``report.json``. Its ``evaluation`` was always null and stays for whoever reads that key."""
        parts = {"layers": [row.to_json() for row in self.layers], "totals": self.totals.to_json()}
        values = {"command": self.command} | asdict(self) | parts | {"evaluation": None}
        return {key: value for key, value in values.items() if value is not None or key in ("training", "evaluation")}

    def __getitem__(self, key: str) -> Any:
        return self.to_json()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_json())

    def __len__(self) -> int:
        return len(self.to_json())

    @staticmethod
    def from_json(values: Json) -> Report:
        """Invert ``to_json``; keys of other versions are ignored.

        Raises:
            ValueError: a value is missing or not of its type.
        """
        report: Report = read_object(Report, values, "the report")
        if report.budget is not None:
            read_object(_Budget, report.budget, "'budget' of the report")
        for row in report.layers:
            if row.kind not in KINDS:
                raise ValueError(f"the kind of layer '{row.name}' is '{row.kind}', not one of {', '.join(KINDS)}")
        return report


@dataclass(frozen=True)
class _Drop:
    """What is shown of ``search.budget_report.Drop``."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class _Budget:
    """What is shown of a budget, whose parts are those of ``search.budget_report``."""

    target: Mapping[str, float] | None = None
    effects: str | None = None
    predicted_speedup: float | None = None
    predicted_macs: int | None = None
    predicted_error: float | None = None
    measured_error: float | None = None
    drop: _Drop | None = None


def _known(values: Json) -> Json:
    return {key: value for key, value in values.items() if value is not None}


def read_object(wanted: type[T], values: Any, name: str) -> T:
    """Make a dataclass out of a JSON object. Fields with a default may be missing, unknown keys are left out.

    Raises:
        ValueError: it is no object, lacks a value or holds one of another type; ``name`` is what the error calls it.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} is {_quoted(values)}, not an object")
    hints = get_type_hints(wanted)
    if missing := [field.name for field in fields(wanted) if field.default is MISSING and field.name not in values]:  # type: ignore[arg-type]
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    return wanted(**{key: _value(hint, values[key], f"'{key}' of {name}") for key, hint in hints.items() if key in values})


def _value(hint: Any, value: Any, name: str) -> Any:
    """Return a JSON value as the type of a field: a list becomes a tuple, an object a dataclass."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(arguments[0], value, name)
    if is_dataclass(hint):
        return read_object(hint, value, name)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], part, f"{name}, number {i + 1},") for i, part in enumerate(value))
    if origin is Mapping and arguments[1] is not Any and isinstance(value, Mapping):
        return {key: _value(arguments[1], part, f"'{key}' of {name}") for key, part in value.items()}
    if not fits(value, hint):
        raise ValueError(f"{name} is {_quoted(value)}")
    return value


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}..."

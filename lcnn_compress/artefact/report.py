"""The report of a compression: what was done to each layer, what the net costs now, what was foreseen and what was measured.

``report.json`` and ``lcnn compress --json`` hold it as JSON. What does not apply (times where nothing was measured, the lookups
of a dense layer) is None here and left out there.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import PurePath
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lcnn_compress.artefact.field_rules import fits
from lcnn_compress.errors import ArtefactError
from lcnn_compress.forms.kinds import KINDS, Kind

# An object of JSON is a mapping; whoever wrote it says which keys it has.
Json = Mapping[str, Any]
T = TypeVar("T")
# What an exported file says about a layer, and the types of that.
_ROW = {"name": str, "kind": str | None, "reason": str | None, "macs_dense": int, "macs": int}


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
        report: Report = _read(Report, values, "the report")
        for row in report.layers:
            if row.kind not in KINDS:
                raise ValueError(f"the kind of layer '{row.name}' is '{row.kind}', not one of {', '.join(KINDS)}")
        return report


def stored_rows(metadata: Mapping[str, str], file: str) -> list[Json] | None:
    """Return what the metadata of an exported file says about each layer, or None where it says nothing.

    Raises:
        ArtefactError: it is not what an export writes.
    """
    rows = _stored(metadata, "lcnn.layers", file)
    for row in rows if isinstance(rows, list) else [rows] if rows is not None else []:
        if not isinstance(row, dict) or not all(fits(row.get(key), hint) for key, hint in _ROW.items()):
            raise _unreadable(file, "lcnn.layers", f"{row!r:.80}")
    return rows  # type: ignore[no-any-return]  # each row was looked at


def stored_shape(metadata: Mapping[str, str], file: str) -> tuple[int, ...] | None:
    """Return the input shape that the metadata of an exported file states, or None; raises as ``stored_rows``."""
    shape = _stored(metadata, "lcnn.input_shape", file)
    if shape is not None and not (shape and fits(shape, tuple[int, ...]) and min(shape) > 0):
        raise _unreadable(file, "lcnn.input_shape", f"{shape!r:.80}")
    return None if shape is None else tuple(shape)


def _stored(metadata: Mapping[str, str], key: str, file: str) -> Any:
    try:
        return json.loads(metadata[key]) if key in metadata else None
    except (ValueError, RecursionError) as error:
        raise _unreadable(file, key, f"{error}") from error


def _unreadable(file: str, key: str, seen: str) -> ArtefactError:
    return ArtefactError(f"{file}: metadata '{key}' cannot be read ({seen}); write the file with lcnn export")


def _known(values: Json) -> Json:
    return {key: value for key, value in values.items() if value is not None}


def _read(wanted: type[T], values: Any, name: str) -> T:
    """Make a dataclass out of a JSON object. Fields with a default may be missing, unknown keys are left out."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} is {values!r}, not an object")
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
        return _read(hint, value, name)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], part, f"{name}, number {i + 1},") for i, part in enumerate(value))
    if not fits(value, hint):
        raise ValueError(f"{name} is {value!r:.80}")
    return value

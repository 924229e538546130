"""What an ONNX file says of itself in its metadata; anybody may have written it. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcnn_compress.artefact.report import read_object
from lcnn_compress.artefact.strict_json import parse_json
from lcnn_compress.errors import ArtefactError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class StoredLayer:
    """What a file says of a layer in its metadata ``lcnn.layers``."""

    name: str
    macs_dense: int
    macs: int
    kind: str = ""
    reason: str = ""


def stored_shape(text: str, path: Path) -> list[int]:
    """Return the shape that the metadata ``lcnn.input_shape`` of a file state. Raises ArtefactError where it is none."""
    try:
        return _shape(parse_json(text))
    except ValueError as error:
        raise ArtefactError(
            f"{path}: metadata 'lcnn.input_shape' cannot be read ({error}); write it with lcnn export"
        ) from error


def stored_layers(model: onnx.ModelProto, path: Path) -> tuple[list[StoredLayer] | None, list[int] | None]:
    """Return what the metadata of a file, read from ``path``, say of its layers and of the shape of its input, if they do.

    Raises:
        ArtefactError: they are not as lcnn writes them.
    """
    try:
        stored = {entry.key: parse_json(entry.value) for entry in model.metadata_props if entry.key.startswith("lcnn.")}
        rows, shape = stored.get("lcnn.layers"), stored.get("lcnn.input_shape")
        if not (rows is None or isinstance(rows, list)):
            raise ValueError("it is no list of layers")
        layers = None if rows is None else [read_object(StoredLayer, row, f"layer {i + 1}") for i, row in enumerate(rows)]
        if any(min(layer.macs, layer.macs_dense) < 0 for layer in layers or ()):
            raise ValueError("a number of MACs is below 0")
        return layers, None if shape is None else _shape(shape)
    except ValueError as error:
        raise ArtefactError(
            f"{path}: metadata 'lcnn.layers' or 'lcnn.input_shape' cannot be read ({error}); write it with lcnn export"
        ) from error


def _shape(value: Any) -> list[int]:
    if not isinstance(value, list) or not value or not all(type(size) is int and size > 0 for size in value):
        raise ValueError(f"{value!r:.80} is no list of sizes")
    return value

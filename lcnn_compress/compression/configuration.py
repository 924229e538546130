"""The configuration of a compression, as config.json of its artefact records it, and how it is read to repeat the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lcnn_compress.artefact.field_rules import check_fields
from lcnn_compress.artefact.strict_json import parse_json
from lcnn_compress.compression.settings import CompressSettings, LayerPlan
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.errors import ArtefactError, FileError, SettingsError
from lcnn_compress.train.recipe import FinetuneSettings

_WAY_OUT = "use the config.json of an artefact"


@dataclass(frozen=True)
class Configuration:
    """A compression as asked for.

    Attributes:
        settings: how to compress. The plan in them plays no part where there are ``plans``.
        data: where the data comes from.
        arch: factory of the net whose state_dict is compressed.
        input_shape: shape (1, ...) of the input; None where it is found out.
        plans: decisions of an earlier run, which are repeated; nothing is planned or measured then.
        sha256: hash of the net those decisions were made for.

    Raises:
        SettingsError: a value is of another type, or a size is below 1.
    """

    settings: CompressSettings = field(default_factory=CompressSettings)
    data: DataSettings = field(default_factory=DataSettings)
    arch: str | None = None
    input_shape: tuple[int, ...] | None = None
    plans: tuple[LayerPlan, ...] | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.input_shape is not None and not (self.input_shape and min(self.input_shape) > 0):
            raise SettingsError(f"`input_shape` is {self.input_shape}; it must be sizes of at least 1")


def read_configuration(path: Path, data: Mapping[str, Any] | None = None) -> Configuration:
    """Read the configuration that a config.json records.

    Args:
        path: config.json of an artefact.
        data: fields of ``DataSettings`` that take the place of those recorded.

    Raises:
        FileError, ArtefactError: it cannot be read, or is no configuration.
        SettingsError: the data of that run was in memory, and none is given.
    """
    values = read_object(path)
    if values.get("command") == "train":
        raise ArtefactError(f"{path}: records a training from scratch, which `lcnn train` repeats; {_WAY_OUT} of a compression")
    try:
        tuning, recorded, model = values["finetune"], values["data"] or {}, values["model"]
        settings = CompressSettings(
            init=values["init"], seed=values["seed"], storage=values["coefficients"],
            finetune=FinetuneSettings.from_recorded(tuning) if tuning else None,
        )  # fmt: skip
        plans = tuple(LayerPlan.from_json(layer) for layer in values["layers"])
        in_memory = bool(recorded.get("in_memory"))
        held: Mapping[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in recorded.items()}
        used = DataSettings() if in_memory else DataSettings(**held)
        found = Configuration(settings, used, model["arch"], tuple(values["input_shape"]), plans, model["sha256"])
    except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
        reason = str(error) if isinstance(error, SettingsError) else f"{type(error).__name__}: {error}"
        raise ArtefactError(f"{path}: not a configuration of this version ({reason}); {_WAY_OUT}") from error
    if in_memory and not (data or {}).keys() & {"calib", "data"}:
        raise SettingsError(f"{path}: the data of that run was in memory; give it with `calib` or `data`")
    return replace(found, data=replace(used, **(data or {})))


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        FileError: it cannot be read.
        ArtefactError: it is not a JSON object.
    """
    try:
        values = parse_json(path.read_bytes())
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}; give the config.json of an artefact") from error
    except ValueError as error:
        raise ArtefactError(f"{path}: not JSON ({error}); {_WAY_OUT}") from error
    if not isinstance(values, dict):
        raise ArtefactError(f"{path}: holds a {type(values).__name__}, not an object; {_WAY_OUT}")
    return values

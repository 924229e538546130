"""What fields of our dataclasses may hold, whether a caller or a JSON file sets them: what their types say.

Python itself takes True for 1, NaN for a number and text for a sequence of letters, and a JSON file holds whatever was written.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from lcnn_compress.errors import ArtefactError, SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Readers of JSON in all languages hold whole numbers up to this exactly.
MAX_WHOLE = 2**53
# scikit-learn takes seeds up to this.
MAX_SEED = 2**32 - 1

_MANY = {int: "whole numbers", float: "numbers", str: "text"}
_CONFIG: Mapping[str, Any] = {
    "coefficients": str, "model": Mapping[str, str | None], "data": Mapping[str, Any] | None,
    "data.mean": tuple[float, ...] | None, "data.std": tuple[float, ...] | None,
    "data.task": str | None,
}  # fmt: skip
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False", types.NoneType: "None"}


def fits(value: object, hint: Any) -> bool:
    """Tell whether a value is of a type.

    Numbers are finite and whole ones not beyond ``MAX_WHOLE``; True and False are no numbers. A whole number serves as a float,
    a list as a tuple, and the value of a member of an enum as that member.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return any(fits(value, part) for part in arguments)
    if origin is tuple:
        every = arguments[1:] == (...,)
        if not isinstance(value, (tuple, list)) or not (every or len(value) == len(arguments)):
            return False
        return all(fits(part, arguments[0 if every else i]) for i, part in enumerate(value))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(fits(k, arguments[0]) and fits(v, arguments[1]) for k, v in value.items())
    if hint in (int, float):
        if type(value) is int:
            return abs(value) <= MAX_WHOLE
        return hint is float and isinstance(value, float) and math.isfinite(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value in list(hint)
    return hint is Any or isinstance(value, hint)


def check_fields(made: DataclassInstance) -> None:
    """Refuse values that are not of the types of their fields.

    Raises:
        SettingsError: a value is of another type; the message names the field.
    """
    for name, hint in _hints(type(made)).items():
        value = getattr(made, name)
        if not fits(value, hint):
            raise SettingsError(f"`{name}` is {value!r:.80}; it must be {_in_words(hint)}")


def check_config(config: Mapping[str, Any], source: object) -> None:
    """Refuse a configuration that an artefact cannot have, as far as anything but the repetition of its run reads it.

    Args:
        config: the object of config.json.
        source: names the artefact in messages.

    Raises:
        ArtefactError: something is missing or of another type.
    """
    data = config.get("data")
    held = {**config, **{f"data.{name}": value for name, value in (data if isinstance(data, Mapping) else {}).items()}}
    for name, hint in _CONFIG.items():
        if (name in held or name == "coefficients") and not fits(held.get(name), hint):
            seen = f"{name} of config.json is {held.get(name)!r:.60}; it must be {_in_words(hint)}"
            raise ArtefactError(f"{source}: {seen}: the artefact is damaged or was edited, make it again")


def check_seed(seed: int) -> None:
    """Raise SettingsError unless a seed is from 0 to ``MAX_SEED``."""
    if not 0 <= seed <= MAX_SEED:
        raise SettingsError(f"`seed` is {seed}; it must be from 0 to {MAX_SEED}")


@functools.cache
def _hints(kind: type[DataclassInstance]) -> dict[str, Any]:
    return get_type_hints(kind)


def _in_words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return " or ".join(_in_words(part) for part in arguments)
    if origin is tuple:
        return f"a tuple of {_MANY.get(arguments[0], 'values')}"
    if origin is Mapping:
        return "an object"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(str(member.value) for member in hint)}"
    return _WORDS.get(hint) or f"a {hint.__name__}"

"""Fields of settings that have a better name than in an earlier release keep the earlier one for those who wrote it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def renamed(**names: str) -> Callable[[type[Settings]], type[Settings]]:
    """Let a dataclass be made with, and read by, earlier names of its fields: ``@renamed(share="filters_per_pattern")``.

    Making one by an earlier name warns (DeprecationWarning); giving a field by both of its names raises TypeError.
    """

    def decorate(settings: type[Settings]) -> type[Settings]:
        made = settings.__init__

        @functools.wraps(made)
        def init(self: Settings, *args: Any, **values: Any) -> None:
            for earlier, name in names.items():
                if earlier in values:
                    if name in values:
                        both = f"`{name}` and `{earlier}`, its earlier name"
                        raise TypeError(f"{settings.__name__} got {both}; give `{name}` alone")
                    message = f"`{earlier}` of {settings.__name__} is called `{name}` now"
                    warnings.warn(message, DeprecationWarning, stacklevel=2)
                    values[name] = values.pop(earlier)
            made(self, *args, **values)

        replaced = {earlier: property(attrgetter(name)) for earlier, name in names.items()}
        for attribute, value in {"__init__": init, **replaced}.items():
            setattr(settings, attribute, value)
        return settings

    return decorate

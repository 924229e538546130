"""Check modules that came from a file, whose attributes are whatever the file says, and give their parts names of ours.

Names of parts reach source code that torch generates, and attributes of an object stand in for the methods of its class. So
before anything else looks at such a module: names that are more than words are replaced, and what no saved net has is refused.
"""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from lcnn_compress.errors import ModelError

_PARTS = {"_parameters": Tensor, "_buffers": Tensor, "_modules": nn.Module}
# Nets are some ten modules deep. Where parts are used again, what walks along them (as state_dict does) sees each use.
_MAX_DEPTH, _MAX_USES = 100, 100_000
_CHANGED = "the file was changed, save the net again"


def make_safe(held: object, path: Path) -> tuple[str, ...]:
    """Check all modules in what a file held, rename parts of theirs in place, and return notes that say so.

    Raises:
        ModelError: a module lacks what every module has, has hooks, replaces a method, contains itself, or holds what is not a
            module, parameter or buffer as such.
    """
    renamed: list[str] = []
    modules = list(_modules_in(held))
    for module in modules:
        _check(module, path)
        renamed += _rename_parts(module)
    _check_depth(modules, path)
    if not renamed:
        return ()
    more = f" and {len(renamed) - 5} more" if len(renamed) > 5 else ""
    what = "names of parts of the net that are no plain words, or taken, are replaced"
    return (f"{path.name}: {what}: {', '.join(renamed[:5])}{more}",)


def _modules_in(held: object) -> Iterator[nn.Module]:
    """Yield each module that can be reached from an object, through its attributes too."""
    waiting, seen = [held], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        if isinstance(value, nn.Module):
            yield value
            inner = [vars(value)]
        elif isinstance(value, Mapping):
            inner = [*value.values(), vars(value)] if hasattr(value, "__dict__") else [*value.values()]
        elif isinstance(value, (list, tuple, set)):
            inner = [*value]
        else:
            continue
        seen.add(id(value))
        waiting += reversed(inner)


def _check(module: nn.Module, path: Path) -> None:
    kind = type(module)
    where = f"{path}: a module of class {kind.__name__} in it"
    for name, value in vars(module).items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ModelError(f"{where} has an attribute {name!r:.60}, which is no name; {_CHANGED}")
        if re.fullmatch(r"_\w*hooks\w*|_compiled_call_impl", name) and value:
            raise ModelError(f"{where} has hooks ({name}), which are not taken from a file; remove them before saving the net")
        of_class = inspect.getattr_static(kind, name, None)
        if inspect.isroutine(of_class) or inspect.isdatadescriptor(of_class):
            raise ModelError(f"{where} replaces {name} of its class, which is not taken from a file; {_CHANGED}")
    for place, expected in _PARTS.items():
        parts = vars(module).get(place)
        if not isinstance(parts, dict):
            raise ModelError(f"{where} has no {place}; the file is damaged or was changed, save the net again")
        for name, part in parts.items():
            if part is not None and not isinstance(part, expected):
                raise ModelError(f"{where} holds a {type(part).__name__} ({name!r:.60}) in {place}; {_CHANGED}")


def _rename_parts(module: nn.Module) -> Iterator[str]:
    """Give parts whose names are not words, or hide behind other attributes, new names, and yield 'old' is new now."""
    places = [vars(module)[place] for place in _PARTS]
    words = {name for parts in places for name in parts if _is_word(name)}
    taken: set[str] = set()
    for parts in places:
        old = dict(parts)
        parts.clear()
        for name, part in old.items():
            new = name
            if not _is_word(name) or name in taken or name in vars(module) or hasattr(type(module), name):
                stem = re.sub(r"\W+", "_", str(name), flags=re.ASCII)[:40].strip("_") or "part"
                number = 1
                while (new := stem if number == 1 else f"{stem}_{number}") in taken | words or _is_attribute(module, new):
                    number += 1
                yield f"{name!r:.60} is {new} now"
            taken.add(new)
            parts[new] = part
            if name in vars(module).get("_non_persistent_buffers_set", ()) and part is not None:
                module._non_persistent_buffers_set.add(new)


def _is_word(name: object) -> bool:
    """Tell whether a name is letters, digits, - and _ that Python does not read as others."""
    return isinstance(name, str) and bool(re.fullmatch(r"[\w-]+", name)) and unicodedata.normalize("NFKC", name) == name


def _is_attribute(module: nn.Module, name: str) -> bool:
    return name in vars(module) or hasattr(type(module), name)


def _check_depth(modules: list[nn.Module], path: Path) -> None:
    walked: set[int] = set()
    uses = 0
    for module in modules:
        waiting = [] if id(module) in walked else [(0, module)]
        while waiting:
            depth, inner = waiting.pop()
            walked.add(id(inner))
            uses += 1
            if depth > _MAX_DEPTH or uses > _MAX_USES:
                raise ModelError(
                    f"{path}: its modules contain themselves, or lie more than {_MAX_DEPTH} deep in each other, or are used "
                    f"more than {_MAX_USES} times, which is not so in any net; {_CHANGED}"
                )
            waiting += [(depth + 1, part) for part in inner._modules.values() if part is not None]

"""Import and call what ``pkg.mod:fn`` or ``file.py:fn`` names.

Files in the user's folder find each other, but none stands in for a module of Python itself (``profile.py``, ``random.py``),
and outside the user's own imports none stands in for an installed package. While what the user named is imported and made, the
user's folder comes before installed packages, as it does for a script there: ``utils`` is the one beside the net, not one that
some package installed.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lcnn_compress.errors import LcnnError, ModelError
from lcnn_compress.net.ordinary import seeded


def is_callable_spec(spec: str) -> bool:
    """Tell whether ``spec`` is written like ``pkg.mod:fn`` or ``file.py:fn``."""
    return bool(re.fullmatch(r"(.+\.py|[^\W\d]\w*(\.[^\W\d]\w*)*):[^\W\d]\w*(\.[^\W\d]\w*)*", spec))


def import_callable(spec: str, error: type[LcnnError]) -> Callable[..., Any]:
    """Import what ``pkg.mod:fn`` or ``file.py:fn`` names, with the current folder (and that of the file) importable.

    Raises:
        error: no such module, file or attribute, the module raises while it is imported, or it is not callable.
    """
    module_name, _, attribute = spec.rpartition(":")
    try:
        with importable(_folder(module_name)):
            is_file = module_name.endswith(".py")
            found: Any = _import_file(Path(module_name)) if is_file else importlib.import_module(module_name)
    except FileNotFoundError as cause:
        raise error(f"{spec}: no file {module_name}; check the path before the colon") from cause
    except (Exception, SystemExit) as cause:  # the user's code may raise anything, and a script parses arguments
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{module_name}.".startswith(f"{cause.name}."):
            raise error(f"{spec}: no module named {cause.name!r}; install it or run in the folder that holds it") from cause
        raise error(f"{spec}: importing it raised {in_short(cause)}") from cause
    home = module_name
    for name in attribute.split("."):
        if not hasattr(found, name):
            if home.partition(".")[0] in sys.stdlib_module_names:
                raise error(f"{spec}: {home} is a module of Python and has no {name!r}; write {home}.py:{name} for a file")
            near = ", ".join(sorted(n for n in vars(found) if not n.startswith("_"))[:8]) or "nothing"
            raise error(f"{spec}: {home} has no {name!r}; it holds {near}")
        found, home = getattr(found, name), f"{home}.{name}"
    if not callable(found):
        raise error(f"{spec}: is of type {type(found).__name__}, not a function; name a function without arguments")
    return found  # type: ignore[no-any-return]  # callable() does not narrow Any


def build_module(spec: str, **arguments: int) -> nn.Module:
    """Call the factory ``pkg.mod:fn`` or ``file.py:fn``, with ``arguments`` if there are some.

    Raises:
        ModelError: it cannot be imported, raises, or does not return a module.
    """
    factory = import_callable(spec, ModelError)
    if isinstance(factory, nn.Module):
        return factory
    try:
        # A factory of random weights makes the same net every time.
        with seeded(0), importable(_folder(spec.rpartition(":")[0])):
            module = factory(**arguments)
    except (Exception, SystemExit) as cause:  # the user's code may raise anything
        given = ", ".join(f"{name}={value}" for name, value in arguments.items()) or "without arguments"
        raise ModelError(f"{spec}: calling it {given} raised {in_short(cause)}") from cause
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec}: returned an object of type {type(module).__name__}; it must return a torch.nn.Module")
    return module


def _folder(module_name: str) -> Path:
    return Path(module_name).resolve().parent if module_name.endswith(".py") else Path.cwd()


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Find modules of the user's folder and the current one: first in this block, after all others from then on."""
    folders = list(dict.fromkeys((str(folder), str(Path.cwd()))))
    sys.path += [path for path in folders if path not in sys.path]
    importlib.invalidate_caches()  # a file may have been written a moment ago
    finder = _UsersFirst(folders)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _UsersFirst(MetaPathFinder):
    """Finds modules in some folders, but none that has the name of one of Python's own or of this package."""

    def __init__(self, folders: list[str]) -> None:
        self.folders = folders

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Find a module that is not in a package; a folder without __init__.py waits for all other places to be asked."""
        if path is not None or name in sys.stdlib_module_names or name == __name__.partition(".")[0]:
            return None
        spec = PathFinder.find_spec(name, self.folders)
        return spec if spec is not None and spec.loader is not None else None


def _import_file(path: Path) -> ModuleType:
    """Import a Python file under a name that no installed module has."""
    if not path.is_file():
        raise FileNotFoundError(path)
    name = f"_lcnn_user_{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path.resolve())
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        exec(compile(path.read_bytes(), module.__file__, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def in_short(error: BaseException) -> str:
    """Return the class and the first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}".rstrip(": ")

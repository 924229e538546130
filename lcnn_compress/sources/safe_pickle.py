"""Unpickle what torch.save wrote without running code of the file.

torch's restricted unpickler builds tensors, and beside them only what is named here: classes of nets that an installed package
defines, made without calling them, and a few pure functions. Everything else a pickle asks for (the arguments of a trainer, a
scalar of NumPy) becomes an object that holds and does nothing, so that weights beside it can be had.
"""

from __future__ import annotations

import importlib.util
import pickle
import pickletools
import re
import site
import sysconfig
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

_MODULE_FAMILIES = (
    "torch.nn.modules.", "torch.nn.parallel.data_parallel.", "torch.optim.swa_utils.", "lcnn_compress.zoo.",
    "torchvision.models.", "torchvision.ops.", "timm.models.", "timm.layers.",
)  # fmt: skip
_ACTIVATIONS = "elu|gelu|hardsigmoid|hardswish|hardtanh|leaky_relu|mish|relu|relu6|selu|sigmoid|silu|softplus|tanh"
_PURE_FUNCTION = re.compile(rf"(torch\.nn\.functional|torch\._C\._nn)\.({_ACTIVATIONS})")
# This one calls what its arguments name, so that beside classes it would call them.
_CALLS_ITS_ARGUMENT = "torch._tensor._rebuild_from_type_v2"


class _StandIn:
    """What a pickle makes of a class or function that is not known to be safe."""

    def __new__(cls, *_: object) -> Any:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forget what the file says about it."""


class _MappingStandIn(_StandIn):
    """The same where the pickle puts items into it, which torch allows for its own types only."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


def read_pickle(path: Path) -> tuple[object, list[str]]:
    """Return what a file of torch.save holds, and what it asks for that is not known to be safe and was not given.

    Where it would call classes of nets, which no saved net does, nothing is made of it.

    Raises:
        Exception: whatever unpickling a damaged or a hostile file raises.
    """
    # Files from before torch 1.6 (not zip) cannot be asked; of those the unpickler refuses everything but tensors.
    if not zipfile.is_zipfile(path):
        return torch.load(path, map_location="cpu", weights_only=True), []
    asked = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    known = {name: found for name in asked if (found := _safe_global(name)) is not None}
    with path.open("rb") as file:
        called, filled = _uses(torch._C.PyTorchFileReader(file).get_record("data.pkl"))
    classes = {name for name, found in known.items() if isinstance(found, type)}
    if calls := sorted(called & (classes | ({_CALLS_ITS_ARGUMENT} if classes else set()))):
        return None, [f"a call of {name}" for name in calls]
    foreign = [name for name in asked if name not in known]
    usable: list[Any] = [(found, name) for name, found in known.items()]
    usable += [(_MappingStandIn if name in filled else _StandIn, name) for name in foreign]
    try:
        with torch.serialization.safe_globals(usable):
            return torch.load(path, map_location="cpu", weights_only=True), foreign
    except (pickle.UnpicklingError, TypeError, ValueError):
        if foreign:  # it is used in ways that no stand-in can be
            return None, foreign
        raise


def _uses(data: bytes) -> tuple[set[str], set[str]]:
    """Return what a pickle calls, and into what of it it puts items, found by following its stack without making anything."""
    stack: list[object] = []
    memo: dict[object, object] = {}
    called: set[str] = set()
    filled: set[str] = set()
    for opcode, argument, _ in pickletools.genops(data):
        before = opcode.stack_before
        taken: list[object] = []
        if pickletools.markobject in before:
            while (item := stack.pop()) is not pickletools.markobject:
                taken.append(item)
            before = before[: before.index(pickletools.markobject)]
        subjects = [stack.pop() for _ in before][::-1]
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif opcode.name == "GLOBAL":
            stack.append(str(argument).replace(" ", "."))
        elif opcode.name in ("REDUCE", "NEWOBJ"):
            if opcode.name == "REDUCE":
                called.add(str(subjects[0]))
            stack.append(subjects[0])  # what is made goes by the name of what makes it
        elif opcode.name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS", "BUILD"):
            if opcode.name.startswith("SETITEM"):
                filled.add(str(subjects[0]))
            stack.append(subjects[0])
        else:
            stack += [pickletools.markobject if opcode.name == "MARK" else None for _ in opcode.stack_after]
    return called, filled


def _safe_global(name: str) -> Any | None:
    """Return the class or function a pickle names if using it cannot do more than build a net, otherwise None.

    Only classes that a known package defines under this very name pass: a re-exported ``torch.nn.modules.conv.os`` does not.
    A class that makes its instances itself, as those of torch.fx and torch.jit do, could do anything with what a file gives it.
    """
    home, _, attribute = name.rpartition(".")
    if not _PURE_FUNCTION.fullmatch(name) and not name.startswith(_MODULE_FAMILIES):
        return None
    root = home.partition(".")[0]
    if root in ("torchvision", "timm") and not _is_installed(root):
        return None
    try:
        found = getattr(importlib.import_module(home), attribute, None)
    except (ImportError, RuntimeError):  # RuntimeError: torchvision of another torch
        return None
    if _PURE_FUNCTION.fullmatch(name):
        return found
    if not isinstance(found, type) or not issubclass(found, nn.Module) or found.__new__ is not object.__new__:
        return None
    return found if (found.__module__, found.__name__) == (home, attribute) else None


def _is_installed(package: str) -> bool:
    """Tell whether a package is where pip installs, not in a folder that came along with a model file."""
    spec = importlib.util.find_spec(package)
    folders = [
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
        site.getusersitepackages(),
    ]
    return spec is not None and spec.origin is not None and any(Path(spec.origin).is_relative_to(f) for f in folders)

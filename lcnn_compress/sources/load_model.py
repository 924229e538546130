"""Load the net the user names: a file of PyTorch in any of its forms, or a Python factory.

A file is told apart by its content, never by its suffix, and no code in it runs unless the user asks for that
(``trust_pickle``). A pickled module is rebuilt by torch's restricted unpickler, which may use only the classes of torch.nn, of
installed torchvision and timm and of ``lcnn_compress.zoo``, and a few pure functions: objects get their attributes from the
file, but all code is code installed here. A torch.export program is checked first, because torch.export.load unpickles,
imports and evaluates what the file says: only tensors, ATen operators and size expressions pass.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lcnn_compress.errors import FileError, ModelError, SettingsError
from lcnn_compress.files import sha256_of
from lcnn_compress.sources.factory import build_module, is_callable_spec
from lcnn_compress.sources.model import LoadedModel, unwrapped
from lcnn_compress.sources.torch_file import UNREADABLE, from_held, identify, read_held, read_program, unreadable

_log = logging.getLogger(__name__)

_ZOO = "lcnn_compress.zoo:"


def load_model(spec: str, *, arch: str | None = None, trust_pickle: bool = False) -> LoadedModel:
    """Load a net on the CPU, in evaluation mode.

    Args:
        spec: a .pt, .pth, .safetensors or .pt2 file, or a factory ``pkg.mod:fn`` or ``file.py:fn``.
        arch: the factory of the net whose state_dict ``spec`` is.
        trust_pickle: run the code in the file.

    Raises:
        FileError: no such file, or it cannot be read.
        ModelError: ``spec`` is not a net, is damaged, would run code, or does not fit ``arch``.
        SettingsError: ``arch`` is given and the file does not hold a state_dict.
    """
    path = Path(spec)
    if not path.exists():
        if not is_callable_spec(spec):
            raise FileError(f"{spec}: no such file; check the path, or name a factory as pkg.mod:fn or file.py:fn")
        notes = (f"{spec} makes random weights: for speed and shapes, not for accuracy",) if spec.startswith(_ZOO) else ()
        loaded = LoadedModel(build_module(spec), "factory", spec, notes=notes)
    else:
        form = identify(path)
        _log.info("%s: reading it as %s", path, form)
        if form == "torch.export":
            loaded = read_program(path, trust_pickle)
        else:
            loaded = from_held(path, read_held(path, form, trust_pickle), arch)
        loaded = replace(loaded, path=path, sha256=sha256_of(path))
    if arch is not None and loaded.kind != "state_dict":
        raise SettingsError(f"{spec}: is a whole net ({loaded.kind}), but `arch` is {arch}; leave `arch` out")
    try:
        if isinstance(loaded.model, nn.Module):
            loaded = replace(loaded, model=unwrapped(loaded.model).eval())
        _check_finite(loaded.model, spec)
    except UNREADABLE as error:  # a damaged pickle can lack attributes that every module has
        raise unreadable(path, error, trust_pickle) from error
    return loaded


def _check_finite(model: nn.Module | torch.export.ExportedProgram, spec: str) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise ModelError(f"{spec}: {name} has no values yet; run the net once or load its weights before saving it")
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise ModelError(f"{spec}: {name} holds {bad} values of {tensor.numel()} that are NaN or infinite; retrain it")

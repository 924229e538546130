"""Load the net the user names: a file of PyTorch in any of its forms, or a Python factory.

A file is told apart by its content, never by its suffix, and no code in it runs unless the user asks for that
(``trust_pickle``). A pickled module is rebuilt by torch's restricted unpickler, which may use only the classes of torch.nn, of
installed torchvision and timm and of ``lcnn_compress.zoo``, and a few pure functions: objects get their attributes from the
file, but all code is code installed here, and names that would reach generated code are replaced. A torch.export program is
checked first, because torch.export.load unpickles, imports and evaluates what the file says: only tensors, ATen operators and
size expressions pass.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from torch import nn

from lcnn_compress.errors import FileError, SettingsError
from lcnn_compress.files import sha256_of
from lcnn_compress.sources.factory import build_module, is_callable_spec
from lcnn_compress.sources.model import LoadedModel, check_supported_module, unwrapped
from lcnn_compress.sources.tensor_check import check_finite, check_tensors
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
        form = identify(path, arch)
        _log.info("%s: reading it as %s", path, form)
        if form == "torch.export":
            loaded = read_program(path, trust_pickle, arch)
        else:
            held = read_held(path, form, trust_pickle, arch)
            try:
                loaded = from_held(path, held, trust_pickle, arch)
            except UNREADABLE as error:
                raise unreadable(path, error, trust_pickle, arch) from error
        loaded = replace(loaded, path=path, sha256=sha256_of(path))
    if arch is not None and loaded.kind != "state_dict":
        raise SettingsError(f"{spec}: is a whole net ({loaded.kind}), but `arch` is {arch}; leave `arch` out")
    try:
        if isinstance(loaded.model, nn.Module):
            model = unwrapped(loaded.model)
            check_supported_module(model, spec)
            loaded = replace(loaded, model=model.eval())
        parameters = dict(loaded.model.named_parameters())
        file_bytes = path.stat().st_size if loaded.path else None
        check_tensors({**parameters, **dict(loaded.model.named_buffers())}, spec, file_bytes)
        check_finite(parameters, spec)  # a buffer may hold anything as long as no output needs it
    except UNREADABLE as error:  # a damaged pickle can lack attributes that every module has
        raise unreadable(path, error, trust_pickle, arch) from error
    return loaded

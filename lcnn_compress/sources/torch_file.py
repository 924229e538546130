"""Read a file of PyTorch: told apart by its content, and no code in it runs unless the user asks for that."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn
from torch.nn.parameter import is_lazy

from lcnn_compress.errors import FileError, ModelError
from lcnn_compress.sources.exported_program_check import program_risks
from lcnn_compress.sources.factory import build_module, importable, in_short
from lcnn_compress.sources.model import LoadedModel, example_shape
from lcnn_compress.sources.pickled_module import make_safe
from lcnn_compress.sources.safe_pickle import read_pickle
from lcnn_compress.sources.weight_sets import Held, fill, held_in, listed, weights_for

# What unpickling and deserialising a damaged file can raise; torch wraps only a part of it.
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip
_GIVE = "give a .pt, .pth, .safetensors or .pt2 file"


def _save_again(arch: str | None) -> str:
    return "save its state_dict" + ("" if arch else " and name the factory with `arch` pkg.mod:factory")


def _trust(arch: str | None) -> str:
    return f"if you trust the file, `trust_pickle` runs the code in it; otherwise {_save_again(arch)}"


def identify(path: Path, arch: str | None = None) -> str:
    """Tell "torch.save", "torch.export" and "safetensors" apart by the first bytes and, for archives, the names in it.

    Args:
        arch: the factory that was given with the file; without one, messages ask for it.
    """
    if path.is_dir():
        raise ModelError(f"{path}: is a folder, not a net; {_GIVE}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from error
    if not head:
        raise ModelError(f"{path}: is empty; save or copy it again")
    if head.startswith(b"PK"):
        return _identify_zip(path, arch)
    if re.match(rb"\x80.\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", head, re.DOTALL):
        return "torch.save"
    if head[8:9] == b"{":
        if int.from_bytes(head[:8], "little") <= size - 8:
            return "safetensors"
        raise ModelError(f"{path}: is a safetensors file that ends too early ({size} bytes); copy it again")
    if head.startswith(b"\x89HDF"):
        what = f"is an HDF5 file (Keras); load the net in PyTorch, then {_save_again(arch)}"
    elif head[4:8] == b"TFL3":
        what = f"is a TensorFlow Lite model; load the net it was made from in PyTorch, then {_save_again(arch)}"
    elif head.startswith(b"\x93NUMPY"):
        what = f"is a NumPy array, not a net; load it into the net in PyTorch, then {_save_again(arch)}"
    elif re.match(rb"\x08.[\x12\x1a\x22\x3a\x42]", head, re.DOTALL):  # protobuf: ir_version, then a text, graph or opsets
        what = f"is an ONNX model; give the PyTorch net that it was exported from, or {_save_again(arch)}"
    elif re.match(rb"\x80[\x02-\x05]", head):
        what = "is a pickle that torch.save did not write; load it in Python and write the net with torch.save"
    elif path.suffix == ".py":
        what = f"is Python source; name the factory in it, as in {path}:make_net"
    else:
        what = f"is not a file of PyTorch (it starts with {head[:8].hex(' ')}); {_GIVE}"
    raise ModelError(f"{path}: {what}")


def _identify_zip(path: Path, arch: str | None) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path}: starts like a torch.save archive but is damaged or ends too early; copy it again") from error
    if any(re.search(r"(^|/)(models/.+\.json|serialized_exported_program\.json)$", name) for name in names):
        return "torch.export"
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        what = f"is a TorchScript archive, which holds no layers; write the net with torch.export.save, or {_save_again(arch)}"
    elif any(name.endswith("/data.pkl") for name in names):
        return "torch.save"
    elif any(name.endswith(".npy") for name in names):
        what = f"is a NumPy archive (.npz), not a net; load it into the net in PyTorch, then {_save_again(arch)}"
    else:
        what = f"is a zip archive of something else (it holds {listed(names, 3)}); {_GIVE}"
    raise ModelError(f"{path}: {what}")


def read_held(path: Path, form: str, trust_pickle: bool, arch: str | None) -> tuple[object, list[str]]:
    """Return what torch.save or safetensors wrote, and the names of what is not known to be safe and was left out of it."""
    try:
        if form == "safetensors":
            return load(path.read_bytes()), []  # it takes no path that is not UTF-8
        if trust_pickle:
            with importable(Path.cwd()):
                return torch.load(path, map_location="cpu", weights_only=False), []
        return read_pickle(path)
    except UNREADABLE as error:
        raise unreadable(path, error, trust_pickle, arch) from error


def unreadable(path: Path, error: BaseException, trust_pickle: bool, arch: str | None) -> ModelError:
    reason = in_short(error.__cause__ or error)
    if isinstance(error, pickle.UnpicklingError) and not trust_pickle:
        return ModelError(f"{path}: holds more than tensors, in a form that cannot be read safely; {_trust(arch)}")
    if trust_pickle and isinstance(error, (AttributeError, ImportError)):
        found = f"its code cannot be imported ({reason})"
        return ModelError(f"{path}: {found}; run in the folder that holds it, or {_save_again(arch)}")
    if "in pytree is not registered" in reason or "deserialize TreeSpec" in reason:
        return ModelError(f"{path}: takes or returns a type that is not known here ({reason}); export a net of plain tensors")
    if "failed to resolve" in reason:
        return ModelError(f"{path}: uses an operator that is not known here ({reason}); install what defines it")
    if isinstance(error, MemoryError) or re.search("alloc|not enough memory|size calculation overflowed", reason):
        return ModelError(f"{path}: holds something that takes more memory than there is ({reason}); save the weights alone")
    return ModelError(f"{path}: is damaged or ends too early ({reason}); save or copy it again")


def from_held(path: Path, read: tuple[object, list[str]], trust_pickle: bool, arch: str | None) -> LoadedModel:
    """Find the net or its weights in what ``read_held`` returned, which may be a checkpoint with other things beside them."""
    held, foreign = read
    needs = ModelError(f"{path}: is a pickle that needs {listed(foreign)}, which is not known to be safe; {_trust(arch)}")
    renamed = () if trust_pickle else make_safe(held, path)
    if isinstance(held, nn.Module):
        if foreign:
            raise needs
        return LoadedModel(held, "module", str(path), notes=renamed)
    found = held_in(held, path)
    if arch is None and found.nets:
        if foreign:
            raise needs
        model, notes = _best_net(found, path)
        return LoadedModel(model, "module", str(path), notes=(*renamed, *notes))
    if found.tensors and arch is not None:
        model = build_module(arch)
        try:
            chosen, notes = weights_for(model, found, path, f"`arch` {arch}")
        except ModelError as error:
            unread = f"; {listed(foreign)} in it was not read, which `trust_pickle` changes" if foreign else ""
            raise ModelError(f"{error}{unread}") from error
        fill(model, chosen)
        return LoadedModel(model, "state_dict", str(path), notes=notes)
    if found.tensors:
        where = f", under {listed([repr(place) for place in found.places])}" if found.places != [""] else ""
        what = f"is a state_dict of {len(found.tensors)} tensors{where}, not a net; add `arch` pkg.mod:factory"
    elif foreign:
        raise needs
    elif isinstance(held, Mapping) and held:
        keys = listed([repr(key) for key in held])
        what = f"holds a dict of {keys}, but no net and no state_dict; {_save_again(arch)}"
    else:
        what = f"holds a {type(held).__name__}, not a net and not a state_dict; {_save_again(arch)}"
    raise ModelError(f"{path}: {what}")


def _best_net(found: Held, path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the net of a checkpoint that holds whole modules, with the better weights where it holds others for it."""
    nets = found.nets
    forms = {
        tuple((name, None if is_lazy(value) else value.shape) for name, value in net.named_parameters())
        for net in nets.values()
    }
    if len(forms) > 1:
        names = listed([repr(".".join(keys)) for keys in nets])
        raise ModelError(f"{path}: holds several nets: {names}; write the one you mean to a file of its own with torch.save")
    keys, net = next(iter(nets.items()))
    if not net.state_dict():
        return net, ()
    chosen, notes = weights_for(net, found, path, f"the net under {'.'.join(keys)!r}")
    itself = nets.get(tuple(chosen.prefix.rstrip(".").split(".")))
    if itself is None:
        fill(net, chosen)
    return itself or net, notes


def read_program(path: Path, trust_pickle: bool, arch: str | None) -> LoadedModel:
    """Load a torch.export program, unless it says more than operators on tensors."""
    from torch.export.pt2_archive._package import load_pt2  # takes seconds

    program: torch.export.ExportedProgram | None
    try:
        with path.open("rb") as file:  # torch takes paths of UTF-8 only, and looks at their suffix
            if trust_pickle:
                risks, program = [], torch.export.load(file)
            else:  # torch.export.load writes the reason of a failure into a log and forgets it
                risks = list(program_risks(file))
                program = None if risks else load_pt2(file).exported_programs["model"]
    except Exception as error:  # torch has classes of its own for programs that contradict themselves
        raise unreadable(path, error, True, arch) from error
    if program is None:
        raise ModelError(f"{path}: is a torch.export program that could run code ({listed(risks)}); {_trust(arch)}")
    return LoadedModel(program, "pt2", str(path), input_shape=example_shape(program))

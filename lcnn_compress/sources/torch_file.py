"""Read a file of PyTorch: told apart by its content, and no code in it runs unless the user asks for that."""

from __future__ import annotations

import importlib.util
import pickle
import re
import site
import struct
import sysconfig
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lcnn_compress.errors import FileError, ModelError
from lcnn_compress.sources.exported_program_check import program_risks
from lcnn_compress.sources.factory import build_module, in_short, make_importable
from lcnn_compress.sources.model import LoadedModel

STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict")
_MODULE_FAMILIES = (
    "torch.nn.modules.", "torch.nn.parallel.data_parallel.", "lcnn_compress.zoo.",
    "torchvision.models.", "torchvision.ops.", "timm.models.", "timm.layers.",
)  # fmt: skip
_ACTIVATIONS = "elu|gelu|hardsigmoid|hardswish|hardtanh|leaky_relu|mish|relu|relu6|selu|sigmoid|silu|softplus|tanh"
_PURE_FUNCTION = re.compile(rf"(torch\.nn\.functional|torch\._C\._nn)\.({_ACTIVATIONS})")
# What unpickling and deserialising a damaged file can raise; torch wraps only a part of it.
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip
_SAVE_AGAIN = "save its state_dict and name the factory with `arch` pkg.mod:factory"
_GIVE = "give a .pt, .pth, .safetensors or .pt2 file"
_TRUST = f"if you trust the file, `trust_pickle` runs the code in it; otherwise {_SAVE_AGAIN}"


def identify(path: Path) -> str:
    """Tell "torch.save", "torch.export" and "safetensors" apart by the first bytes and, for archives, the names in it."""
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
        return _identify_zip(path)
    if re.match(rb"\x80.\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", head, re.DOTALL):
        return "torch.save"
    if head[8:9] == b"{":
        if int.from_bytes(head[:8], "little") <= size - 8:
            return "safetensors"
        raise ModelError(f"{path}: is a safetensors file that ends too early ({size} bytes); copy it again")
    if head.startswith(b"\x89HDF"):
        what = f"is an HDF5 file (Keras); load the net in PyTorch, then {_SAVE_AGAIN}"
    elif head[4:8] == b"TFL3":
        what = f"is a TensorFlow Lite model; load the net it was made from in PyTorch, then {_SAVE_AGAIN}"
    elif head.startswith(b"\x93NUMPY"):
        what = f"is a NumPy array, not a net; load it into the net in PyTorch, then {_SAVE_AGAIN}"
    elif re.match(rb"\x08.[\x12\x1a\x22\x3a\x42]", head, re.DOTALL):  # protobuf: ir_version, then a text, graph or opsets
        what = f"is an ONNX model; give the PyTorch net that it was exported from, or {_SAVE_AGAIN}"
    elif re.match(rb"\x80[\x02-\x05]", head):
        what = "is a pickle that torch.save did not write; load it in Python and write the net with torch.save"
    elif path.suffix == ".py":
        what = f"is Python source; name the factory in it, as in {path}:make_net"
    else:
        what = f"is not a file of PyTorch (it starts with {head[:8].hex(' ')}); {_GIVE}"
    raise ModelError(f"{path}: {what}")


def _identify_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path}: starts like a torch.save archive but is damaged or ends too early; copy it again") from error
    if any(re.search(r"(^|/)(models/.+\.json|serialized_exported_program\.json)$", name) for name in names):
        return "torch.export"
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        what = f"is a TorchScript archive, which holds no layers; write the net with torch.export.save, or {_SAVE_AGAIN}"
    elif any(name.endswith("/data.pkl") for name in names):
        return "torch.save"
    elif any(name.endswith(".npy") for name in names):
        what = f"is a NumPy archive (.npz), not a net; load it into the net in PyTorch, then {_SAVE_AGAIN}"
    else:
        what = f"is a zip archive of something else (it holds {_listed(names, 3)}); {_GIVE}"
    raise ModelError(f"{path}: {what}")


def read_held(path: Path, form: str, trust_pickle: bool) -> object:
    """Return the object that torch.save or safetensors wrote, built from known classes only unless the file is trusted."""
    try:
        if form == "safetensors":
            return load_file(path)
        if trust_pickle:
            make_importable(Path.cwd())
            return torch.load(path, map_location="cpu", weights_only=False)
        # Files from before torch 1.6 (not zip) cannot be asked; of those the unpickler refuses everything but tensors.
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        wanted = {name: _safe_global(name) for name in sorted(asked)}
        foreign = [name for name, found in wanted.items() if found is None]
        if foreign:
            raise ModelError(f"{path}: is a pickle that needs {_listed(foreign)}, which is not known to be safe; {_TRUST}")
        with torch.serialization.safe_globals([found for found in wanted.values() if found is not None]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise unreadable(path, error, trust_pickle) from error


def unreadable(path: Path, error: BaseException, trust_pickle: bool) -> ModelError:
    reason = in_short(error.__cause__ or error)
    if isinstance(error, pickle.UnpicklingError) and not trust_pickle:
        return ModelError(f"{path}: holds more than tensors, in a form that cannot be read safely; {_TRUST}")
    if trust_pickle and isinstance(error, (AttributeError, ImportError)):
        return ModelError(f"{path}: its code cannot be imported ({reason}); run in the folder that holds it, or {_SAVE_AGAIN}")
    return ModelError(f"{path}: is damaged or ends too early ({reason}); save or copy it again")


def _safe_global(name: str) -> Any | None:
    """Return the class or function a pickle names if using it cannot do more than build a net, otherwise None.

    Only classes that a known package defines under this very name pass: a re-exported ``torch.nn.modules.conv.os`` does not.
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
    defined = (
        isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == home and found.__name__ == attribute
    )
    return found if defined or _PURE_FUNCTION.fullmatch(name) else None


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


def from_held(path: Path, held: object, arch: str | None) -> LoadedModel:
    """Find the module or the state_dict in what a file held, which may be a checkpoint with other things beside it."""
    notes: tuple[str, ...] = ()
    if isinstance(held, Mapping) and not _is_state_dict(held):
        key = next((k for k in STATE_DICT_KEYS if isinstance(held.get(k), (Mapping, nn.Module))), None)
        if key is None:
            keys = _listed([repr(k) for k in held])
            raise ModelError(f"{path}: holds a dict of {keys}, but no net and no state_dict; {_SAVE_AGAIN}")
        notes = (f"{path.name}: the net is under {key!r} of a checkpoint",)
        held = held[key]
    if isinstance(held, nn.Module):
        return LoadedModel(held, "module", str(path), notes=notes)
    if not isinstance(held, Mapping) or not _is_state_dict(held):
        raise ModelError(f"{path}: holds a {type(held).__name__}, not a net and not a state_dict; {_SAVE_AGAIN}")
    if arch is None:
        raise ModelError(f"{path}: is a state_dict of {len(held)} tensors, not a net; add `arch` pkg.mod:factory")
    model = build_module(arch)
    _fill(model, _without_wrappers(held, set(model.state_dict())), path, arch)
    return LoadedModel(model, "state_dict", str(path), notes=notes)


def _is_state_dict(held: Mapping[Any, Any]) -> bool:
    return bool(held) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in held.items())


def _without_wrappers(state: Mapping[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """Drop the names that DataParallel, torch.compile or a trainer's class put before those of the net itself."""
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    while not own & state.keys():
        first = {key.partition(".")[0] for key in state}
        if len(first) > 1 or not all("." in key for key in state):
            break
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path, arch: str) -> None:
    """Load a state_dict whose every key, shape and kind of number must fit (torch would cast integers to floats)."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    changed = [
        f"{key} {state[key].dtype} {tuple(state[key].shape)} in the file, {value.dtype} {tuple(value.shape)} in the net"
        for key, value in own.items()
        if key in state and (state[key].shape, state[key].is_floating_point()) != (value.shape, value.is_floating_point())
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("different", changed))
    differences = "; ".join(f"{len(keys)} {what}: {_listed(keys, 3)}" for what, keys in groups if keys)
    if differences:
        raise ModelError(f"{path}: does not fit `arch` {arch} ({differences}); name the factory of the saved net")
    model.load_state_dict(state, strict=False)  # only num_batches_tracked may be missing


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def read_program(path: Path, trust_pickle: bool) -> LoadedModel:
    try:
        risks = [] if trust_pickle else list(program_risks(path))
        program = None if risks else torch.export.load(path)
    except Exception as error:  # torch has classes of its own for programs that contradict themselves
        raise unreadable(path, error, trust_pickle=True) from error
    if program is None:
        raise ModelError(f"{path}: is a torch.export program that could run code ({_listed(risks)}); {_TRUST}")
    positional, keywords = program.example_inputs or ((), {})
    given = [*positional, *keywords.values()]
    shape = tuple(given[0].shape) if len(given) == 1 and isinstance(given[0], Tensor) else None
    return LoadedModel(program, "pt2", str(path), input_shape=shape)

"""Load the net the user names: a file of PyTorch in any of its forms, or a Python factory.

A file is told apart by its content, never by its suffix, and no code in it runs unless the user asks for that
(``trust_pickle``). A pickled module is rebuilt by torch's restricted unpickler, which may use only the classes of torch.nn, of
installed torchvision and timm and of ``lcnn_compress.zoo``, and a few pure functions: objects get their attributes from the
file, but all code is code installed here. A torch.export program is checked first, because torch.export.load unpickles,
imports and evaluates what the file says: only tensors, ATen operators and size expressions pass.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pickle
import re
import site
import struct
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lcnn_compress.errors import FileError, LcnnError, ModelError, SettingsError
from lcnn_compress.files import sha256_of
from lcnn_compress.program_risks import program_risks

_log = logging.getLogger(__name__)

SIZES = (224, 28, 32, 64, 96, 128, 227, 256, 299, 384)
STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict")

_ZOO = "lcnn_compress.zoo:"
_MODULE_FAMILIES = (
    "torch.nn.modules.", "torch.nn.parallel.data_parallel.", "lcnn_compress.zoo.",
    "torchvision.models.", "torchvision.ops.", "timm.models.", "timm.layers.",
)  # fmt: skip
_ACTIVATIONS = "elu|gelu|hardsigmoid|hardswish|hardtanh|leaky_relu|mish|relu|relu6|selu|sigmoid|silu|softplus|tanh"
_PURE_FUNCTION = re.compile(rf"(torch\.nn\.functional|torch\._C\._nn)\.({_ACTIVATIONS})")
# What unpickling and deserialising a damaged file can raise; torch wraps only a part of it.
_UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip
_SAVE_AGAIN = "save its state_dict and name the factory with --arch pkg.mod:factory"
_GIVE = "give a .pt, .pth, .safetensors or .pt2 file"
_TRUST = f"if you trust the file, --trust-pickle runs the code in it; otherwise {_SAVE_AGAIN}"


@dataclass(frozen=True)
class LoadedModel:
    """A net in evaluation mode and where it came from.

    Attributes:
        kind: "module" (pickled), "state_dict", "pt2" (torch.export) or "factory".
        path, sha256: of the file that held the net; None for a factory.
        input_shape: (N, C, H, W) of the example that a torch.export program carries; None where it is not known.
        notes: what the user should know about how the file was read.
    """

    model: nn.Module | torch.export.ExportedProgram
    kind: str
    source: str
    path: Path | None = None
    sha256: str | None = None
    input_shape: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


def load_model(spec: str, *, arch: str | None = None, trust_pickle: bool = False) -> LoadedModel:
    """Load a net on the CPU, in evaluation mode.

    Args:
        spec: a .pt, .pth, .safetensors or .pt2 file, or a factory ``pkg.mod:fn`` or ``file.py:fn``.
        arch: the factory of the net whose state_dict ``spec`` is.
        trust_pickle: run the code in the file.

    Raises:
        FileError: no such file, or it cannot be read.
        ModelError: it is not a net, is damaged, would run code, or does not fit ``arch``.
        SettingsError: ``arch`` is given and the file does not hold a state_dict.
    """
    path = Path(spec)
    if not path.exists():
        if not is_callable_spec(spec):
            raise FileError(f"{spec}: no such file; check the path, or name a factory as pkg.mod:fn or file.py:fn")
        notes = (f"{spec} makes random weights: for speed and shapes, not for accuracy",) if spec.startswith(_ZOO) else ()
        loaded = LoadedModel(build_module(spec), "factory", spec, notes=notes)
    else:
        form = _identify(path)
        _log.info("%s: reading it as %s", path, form)
        if form == "torch.export":
            loaded = _read_program(path, trust_pickle)
        else:
            loaded = _from_held(path, _read_held(path, form, trust_pickle), arch)
        loaded = replace(loaded, path=path, sha256=sha256_of(path))
    if arch is not None and loaded.kind != "state_dict":
        raise SettingsError(f"{spec}: is a whole net ({loaded.kind}), but --arch is {arch}; leave --arch out")
    try:
        if isinstance(loaded.model, nn.Module):
            loaded = replace(loaded, model=unwrapped(loaded.model).eval())
        _check_finite(loaded.model, spec)
    except _UNREADABLE as error:  # a damaged pickle can lack attributes that every module has
        raise _unreadable(path, error, trust_pickle) from error
    return loaded


def infer_input_shape(model: nn.Module) -> tuple[tuple[int, ...], str | None]:
    """Find the shape (1, C, H, W), or (1, features), that a net takes, without computing anything with it.

    Args:
        model: it is not changed; a copy without values is run on sizes that are usual in image classification.

    Returns:
        The shape, and a note when it had to be assumed.

    Raises:
        SettingsError: no usual size works.
    """
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
        if size is not None:
            return (1, *(int(n) for n in size)), None
    widths = [m.in_channels for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    features = [m.in_features for m in model.modules() if isinstance(m, nn.Linear)]
    if not widths and not features:
        raise SettingsError(
            "the net has no Conv2d and no Linear to tell its input from; give --input-shape, such as 1,3,224,224"
        )
    if not widths:
        return (1, features[0]), None
    channels = widths[0]
    usual = {3: 224, 1: 28}.get(channels)
    sizes = sorted(SIZES, key=lambda size: (size != usual, size < 32, size))
    accepted = _accepted(model, [(1, channels, size, size) for size in sizes])
    first = next(accepted, None)
    if first is None:
        raise SettingsError(
            f"the net takes {channels} channels but none of the usual square sizes {sorted(SIZES)}; "
            f"give its input, as in --input-shape 1,{channels},480,640"
        )
    if next(accepted, None) is None:
        return first, None
    text = ",".join(str(n) for n in first)
    return first, f"the net takes images of several sizes; {text} is assumed, --input-shape changes it"


def is_callable_spec(spec: str) -> bool:
    """Tell whether ``spec`` is written like ``pkg.mod:fn`` or ``file.py:fn``."""
    return bool(re.fullmatch(r"(.+\.py|[^\W\d]\w*(\.[^\W\d]\w*)*):[^\W\d]\w*(\.[^\W\d]\w*)*", spec))


def import_callable(spec: str, error: type[LcnnError]) -> Callable[..., Any]:
    """Import what ``pkg.mod:fn`` or ``file.py:fn`` names, with the current folder (and that of the file) importable.

    Raises:
        error: no such module, file or attribute, the module raises while it is imported, or it is not callable.
    """
    module_name, _, attribute = spec.rpartition(":")
    _make_importable(Path.cwd())
    try:
        found: Any = _import_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except FileNotFoundError as cause:
        raise error(f"{spec}: no file {module_name}; check the path before the colon") from cause
    except Exception as cause:  # the user's code may raise anything
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{module_name}.".startswith(f"{cause.name}."):
            raise error(f"{spec}: no module named {cause.name!r}; install it or run in the folder that holds it") from cause
        raise error(f"{spec}: importing it raised {_in_short(cause)}") from cause
    home = module_name
    for name in attribute.split("."):
        if not hasattr(found, name):
            near = ", ".join(sorted(n for n in vars(found) if not n.startswith("_"))[:8]) or "nothing"
            raise error(f"{spec}: {home} has no {name!r}; it holds {near}")
        found, home = getattr(found, name), f"{home}.{name}"
    if not callable(found):
        raise error(f"{spec}: is of type {type(found).__name__}, not a function; name a function without arguments")
    return found  # type: ignore[no-any-return]  # callable() does not narrow Any


def build_module(spec: str) -> nn.Module:
    """Call the factory ``pkg.mod:fn`` or ``file.py:fn``.

    Raises:
        ModelError: it cannot be imported, raises, or does not return a module.
    """
    factory = import_callable(spec, ModelError)
    if isinstance(factory, nn.Module):
        return factory
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a factory of random weights makes the same net every time
            module = factory()
    except Exception as cause:  # the user's code may raise anything
        raise ModelError(f"{spec}: calling it without arguments raised {_in_short(cause)}") from cause
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec}: returned an object of type {type(module).__name__}; it must return a torch.nn.Module")
    return module


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the net inside DataParallel or torch.compile."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    compiled = model._modules.get("_orig_mod")  # as torch.compile names it
    return model if compiled is None else unwrapped(compiled)


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_file(path: Path) -> ModuleType:
    """Import a Python file under a name that no installed module has."""
    if not path.is_file():
        raise FileNotFoundError(path)
    _make_importable(path.resolve().parent)
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


def _in_short(error: BaseException) -> str:
    """Return the class and the first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:300]}".rstrip(": ")


def _identify(path: Path) -> str:
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


def _read_held(path: Path, form: str, trust_pickle: bool) -> object:
    """Return the object that torch.save or safetensors wrote, built from known classes only unless the file is trusted."""
    try:
        if form == "safetensors":
            return load_file(path)
        if trust_pickle:
            _make_importable(Path.cwd())
            return torch.load(path, map_location="cpu", weights_only=False)
        # Files from before torch 1.6 (not zip) cannot be asked; of those the unpickler refuses everything but tensors.
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        wanted = {name: _safe_global(name) for name in sorted(asked)}
        foreign = [name for name, found in wanted.items() if found is None]
        if foreign:
            raise ModelError(f"{path}: is a pickle that needs {_listed(foreign)}, which is not known to be safe; {_TRUST}")
        with torch.serialization.safe_globals([found for found in wanted.values() if found is not None]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise _unreadable(path, error, trust_pickle) from error


def _unreadable(path: Path, error: BaseException, trust_pickle: bool) -> ModelError:
    reason = _in_short(error.__cause__ or error)
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


def _from_held(path: Path, held: object, arch: str | None) -> LoadedModel:
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
        raise ModelError(f"{path}: is a state_dict of {len(held)} tensors, not a net; add --arch pkg.mod:factory")
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
        raise ModelError(f"{path}: does not fit --arch {arch} ({differences}); name the factory of the saved net")
    model.load_state_dict(state, strict=False)  # only num_batches_tracked may be missing


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def _read_program(path: Path, trust_pickle: bool) -> LoadedModel:
    try:
        risks = [] if trust_pickle else list(program_risks(path))
        program = None if risks else torch.export.load(path)
    except Exception as error:  # torch has classes of its own for programs that contradict themselves
        raise _unreadable(path, error, trust_pickle=True) from error
    if program is None:
        raise ModelError(f"{path}: is a torch.export program that could run code ({_listed(risks)}); {_TRUST}")
    positional, keywords = program.example_inputs or ((), {})
    given = [*positional, *keywords.values()]
    shape = tuple(given[0].shape) if len(given) == 1 and isinstance(given[0], Tensor) else None
    return LoadedModel(program, "pt2", str(path), input_shape=shape)


def _check_finite(model: nn.Module | torch.export.ExportedProgram, spec: str) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise ModelError(f"{spec}: {name} has no values yet; run the net once or load its weights before saving it")
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise ModelError(f"{spec}: {name} holds {bad} values of {tensor.numel()} that are NaN or infinite; retrain it")


def _accepted(model: nn.Module, shapes: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Yield the shapes a net takes, run on a copy of it whose tensors have a shape and a type but no memory."""
    tensors = [*model.parameters(), *model.buffers()]
    try:
        copy = deepcopy(model, {id(tensor): tensor.detach().to("meta") for tensor in tensors}).eval()
    except Exception as error:  # a net may hold anything, such as a lock
        _log.debug("cannot copy the net: %s", _in_short(error))
        return
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    for shape in shapes:
        try:
            with torch.device("meta"), torch.no_grad():
                copy(torch.empty(shape, dtype=dtype))
        except Exception as error:  # whatever the user's forward raises means: not this size
            _log.debug("%s is not taken: %s", shape, _in_short(error))
        else:
            yield shape

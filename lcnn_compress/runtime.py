"""Open ONNX files in ONNX Runtime, with the native LookupConv library where it is there. No torch.

Without the library a file still runs: ONNX Runtime inlines the function body the file carries and folds it to dense
convolutions (``lookup_conv.function_body``), which is correct and as fast as the dense net.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from lcnn_compress.errors import ArtefactError, FileError, MissingError, SettingsError
from lcnn_compress.operators.common import DOMAIN

log = logging.getLogger(__name__)

LIBRARY_VARIABLE = "LCNN_RUNTIME_LIBRARY"
PACKAGED_LIBRARY = Path(__file__).parent / "_lib" / "liblcnn_ort.so"
HOW_TO_GET = f"run 'pip install .' in a checkout of lcnn, which builds it, or build cpp_runtime and set {LIBRARY_VARIABLE}"
# ONNX Runtime logs from this severity on: only what is fatal, because every error also arrives as an exception.
FATAL_ONLY = 4
_UNKNOWN_OPERATOR = "is not a registered function/op"
_LENDING = threading.Lock()

# A file with a node of our operator and no inputs to it, as bytes, because a machine that only runs nets may lack ``onnx``.
FAULTY_MODEL = (
    b'\x08\t:-\n\x18\x12\x01Y"\nLookupConv:\x07ai.lcnn\x12\x06faultyb\t\n\x01Y\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x14B\x0b\n'
    b"\x07ai.lcnn\x10\x01"
)
# ONNX Runtime has no common base class of its own errors. One whose message quotes bytes of a damaged file that are no text
# arrives as an error of decoding it.
ORT_ERRORS: tuple[type[Exception], ...] = (
    UnicodeDecodeError,
    *(
        getattr(ort_state, name)
        for name in (
            "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile",
            "NotImplemented", "RuntimeException",
        )
    ),
)  # fmt: skip


def library_path() -> Path | None:
    """Return the native library: ``LCNN_RUNTIME_LIBRARY`` if set, else the one in the package, else None.

    Raises:
        MissingError: the variable names a file that is not there.
    """
    chosen = os.environ.get(LIBRARY_VARIABLE)
    if chosen:
        if not Path(chosen).is_file():
            raise MissingError(f"{LIBRARY_VARIABLE} is '{chosen}': there is no such file; correct or unset it")
        return Path(chosen).resolve()
    return PACKAGED_LIBRARY if PACKAGED_LIBRARY.is_file() else None


def require_library() -> Path:
    """Return the native library.

    Raises:
        MissingError: there is none.
    """
    path = library_path()
    if path is None:
        raise MissingError(f"the native library is not there ({PACKAGED_LIBRARY}); {HOW_TO_GET}")
    return path


def session(
    model: str | Path | bytes,
    *,
    threads: int | None = None,
    native: bool = True,
    profile_prefix: Path | None = None,
    options: ort.SessionOptions | None = None,
) -> ort.InferenceSession:
    """Open a model on the CPU, with the native library if it is there.

    Args:
        model: an ONNX file or its bytes.
        threads: how many compute one operator; None leaves the choice to ONNX Runtime, which takes every core.
        native: False ignores the native library, unless ``options`` know it already.
        profile_prefix: record the time of every node; ``end_profiling()`` returns the file, which starts with this prefix.
        options: further options. They come back as they were, but that they know the native library from then on; they
            may be used again, and know it before, from whatever file it was registered.

    Raises:
        FileError: the file cannot be read, or not by ONNX Runtime, because its name is not UTF-8.
        ArtefactError: ONNX Runtime refuses the model.
        MissingError: the native library cannot be loaded, or is absent and the model carries no function body.
        SettingsError: the library was registered in ``options`` twice, which no ONNX Runtime takes.
    """
    name = "the model" if isinstance(model, bytes) else Path(model).name
    holds_lookups = uses_lookups(model)
    with nullcontext(ort.SessionOptions()) if options is None else _lent(options) as used:
        known = options is not None and holds_lookups and _knows_library(used)
        library = library_path() if native and holds_lookups and not known else None
        if library is not None:
            _register(used, library)
        elif native and holds_lookups and not known:
            log.warning("%s: running the dense fallback: correct, not faster; %s", name, HOW_TO_GET)
        if used.log_severity_level == -1:  # nobody chose one
            used.log_severity_level = FATAL_ONLY
        if threads is not None:
            used.intra_op_num_threads = threads
        if profile_prefix is not None:
            used.enable_profiling = True
            used.profile_file_prefix = _name_of(profile_prefix)
        return _opened(model, name, used, has_library=known or library is not None)


def _opened(model: str | Path | bytes, name: str, options: ort.SessionOptions, *, has_library: bool) -> ort.InferenceSession:
    source = model if isinstance(model, bytes) else _name_of(model)
    try:
        # A fallback would be the same provider again, announced on the standard output.
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except ORT_ERRORS as error:
        if not has_library and f"{DOMAIN}:" in str(error) and _UNKNOWN_OPERATOR in str(error):
            raise MissingError(f"{name}: has no function body, so it needs the native library; {HOW_TO_GET}") from error
        raise ArtefactError(
            f"{name}: ONNX Runtime {ort.__version__} refuses it: {ort_message(error)}; the file is damaged, was edited or "
            "needs a newer ONNX Runtime"
        ) from error


def _name_of(path: str | Path) -> str:
    """Return a path as ONNX Runtime takes it."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise FileError(
            f"{path}: its name, or that of a folder of it, is not UTF-8, and ONNX Runtime opens no other; rename it"
        ) from error
    return str(path)


@contextmanager
def _lent(options: ort.SessionOptions) -> Iterator[ort.SessionOptions]:
    """Have options of a caller to change; they come back as they were. Threads that share some wait for each other."""
    changed = ("log_severity_level", "intra_op_num_threads", "enable_profiling", "profile_file_prefix")
    with _LENDING:
        kept = {name: getattr(options, name) for name in changed}
        try:
            yield options
        finally:
            for name, value in kept.items():
                setattr(options, name, value)


def _knows_library(options: ort.SessionOptions) -> bool:
    """Tell whether the native library is registered in options that are lent; there is no way to ask them.

    A model that ONNX Runtime must refuse is opened with them, so that nothing is run, profiled or written. Which fault it
    names tells: that it does not know the operator, or that the operator has no inputs.
    """
    severity, profiling = options.log_severity_level, options.enable_profiling
    options.log_severity_level, options.enable_profiling = FATAL_ONLY, False
    try:
        ort.InferenceSession(FAULTY_MODEL, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        if "already set in registry" in str(error):
            raise SettingsError(
                "the options hold a library of operators twice, which ONNX Runtime refuses; make new ones and register it once"
            ) from error
        return _UNKNOWN_OPERATOR not in str(error)
    finally:
        options.log_severity_level, options.enable_profiling = severity, profiling
    raise AssertionError("a node without its inputs was accepted")


def ort_message(error: Exception) -> str:
    """Return the last, telling part of an ONNX Runtime error on one line."""
    text = " ".join(str(error).split())
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text


def onnxruntime_version() -> str:
    """Return the version of ONNX Runtime."""
    return str(ort.__version__)


def isa() -> str | None:
    """Return the instruction set the native kernels use ("avx512", "neon", ...; ``LCNN_ISA`` lowers it), None without them."""
    return _text_of("lcnn_isa")


def runtime_version() -> str | None:
    """Return the version of the native library, None without it."""
    return _text_of("lcnn_runtime_version")


def _text_of(function: str) -> str | None:
    path = library_path()
    if path is None:
        return None
    call = getattr(_load(path), function, None)
    if call is None:
        raise MissingError(f"{path}: has no function '{function}'; it is not the LookupConv library, {HOW_TO_GET}")
    call.restype = ctypes.c_char_p
    text: bytes = call()
    return text.decode()


@lru_cache
def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise MissingError(f"{path}: cannot be loaded: {error}; {HOW_TO_GET}") from error


def _register(options: Any, library: Path) -> None:
    try:
        options.register_custom_ops_library(_name_of(library))
    except ORT_ERRORS as error:
        raise MissingError(f"{library}: ONNX Runtime cannot load it: {ort_message(error)}; {HOW_TO_GET}") from error


def uses_lookups(model: str | Path | bytes) -> bool:
    """Tell whether the file names the operator's domain anywhere; no parser reads it, so only ONNX Runtime holds the model.

    Raises:
        FileError: the file cannot be read.
    """
    wanted = DOMAIN.encode()
    if isinstance(model, bytes):
        return wanted in model
    try:
        with Path(model).open("rb") as file:
            tail = b""
            while block := file.read(1 << 20):
                if wanted in tail + block:
                    return True
                tail = block[-len(wanted) :]
    except OSError as error:
        raise FileError(f"{model}: cannot be read: {error.strerror or error}; check the path and its permissions") from error
    return False

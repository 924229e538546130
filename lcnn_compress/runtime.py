"""Open ONNX files in ONNX Runtime, with the native LookupConv library where it is there. No torch.

Without the library a file still runs: ONNX Runtime inlines the function body the file carries and folds it to dense
convolutions (``lookup_conv.function_body``), which is correct and as fast as the dense net.
"""

from __future__ import annotations

import ctypes
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from lcnn_compress.errors import ArtefactError, FileError, MissingError
from lcnn_compress.operators.common import DOMAIN

log = logging.getLogger(__name__)

LIBRARY_VARIABLE = "LCNN_RUNTIME_LIBRARY"
PACKAGED_LIBRARY = Path(__file__).parent / "_lib" / "liblcnn_ort.so"
HOW_TO_GET = f"run 'pip install .' in a checkout of lcnn, which builds it, or build cpp_runtime and set {LIBRARY_VARIABLE}"
# ONNX Runtime logs from this severity on: only what is fatal, because every error also arrives as an exception.
FATAL_ONLY = 4

# ONNX Runtime has no common base class of its own errors.
ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    getattr(ort_state, name)
    for name in (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile",
        "NotImplemented", "RuntimeException",
    )
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
        native: False ignores the native library.
        profile_prefix: record the time of every node; ``end_profiling()`` returns the file, which starts with this prefix.
        options: further options, used and changed by this call only.

    Raises:
        FileError: the file cannot be read.
        ArtefactError: ONNX Runtime refuses the model.
        MissingError: the native library cannot be loaded, or is absent and the model carries no function body.
    """
    name = "the model" if isinstance(model, bytes) else Path(model).name
    holds_lookups = uses_lookups(model)
    options = options or ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    library = library_path() if native and holds_lookups else None
    if library is not None:
        _register(options, library)
    elif native and holds_lookups:
        log.warning("%s: running the dense fallback: correct, not faster; %s", name, HOW_TO_GET)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        if library is None and "is not a registered function/op" in str(error):
            raise MissingError(f"{name}: has no function body, so it needs the native library; {HOW_TO_GET}") from error
        raise ArtefactError(
            f"{name}: ONNX Runtime {ort.__version__} refuses it: {ort_message(error)}; the file is damaged, was edited or "
            "needs a newer ONNX Runtime"
        ) from error


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
        options.register_custom_ops_library(str(library))
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

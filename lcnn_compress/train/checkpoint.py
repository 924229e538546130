"""Keep a training on disk and continue it."""

from __future__ import annotations

import hashlib
import io
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lcnn_compress.errors import ArtefactError, FileError, SettingsError

CHECKPOINT_MAGIC = b"lcnn training 2\n"  # then the SHA-256 of the rest, which torch.save wrote


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Let a first ctrl-C only set the flag that is yielded: a step is never left half done. A second one raises at once.

    The same holds for SIGTERM where the program has a handler for it. A signal that is ignored, as ctrl-C is in a background
    job, stays ignored.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # other threads get no signals
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if asked.is_set():
            signal.default_int_handler(signum, frame)
        asked.set()

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handled:
        signal.signal(number, note)
    try:
        yield asked.is_set
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Saved:
    path: Path
    state: dict[str, Any]


def read_checkpoint(path: Path | None) -> Saved:
    if path is None or not path.is_file():
        raise SettingsError(
            f"{path}: no checkpoint to resume; run without resume" if path else "resume needs a checkpoint file"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}; check the path and its permissions") from error
    start = len(CHECKPOINT_MAGIC)
    digest, payload = content[start : start + 32], content[start + 32 :]
    if not content.startswith(CHECKPOINT_MAGIC) or hashlib.sha256(payload).digest() != digest:
        raise ArtefactError(
            f"{path}: not a checkpoint of this version, or damaged ({len(content)} bytes); delete it and start without resume"
        )
    return Saved(path, torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True))


def check_same(path: Path, subject: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    different = [key for key in (*saved, *(k for k in present if k not in saved)) if saved.get(key) != present.get(key)]
    if different:
        seen = ", ".join(f"{key} is {saved.get(key)!r} there and {present.get(key)!r} here" for key in different)
        raise ArtefactError(f"{path}: checkpoint of other {subject}: {seen}; use the same or start without resume")

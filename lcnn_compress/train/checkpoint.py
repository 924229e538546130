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
from lcnn_compress.files import write_atomically
from lcnn_compress.sources.torch_file import UNREADABLE

# A checkpoint starts with this line; then come the SHA-256 of the rest and the rest, which torch.save wrote.
CHECKPOINT_MAGIC = b"lcnn training 2\n"

# A checkpoint holds tensors and plain values by name.
State = dict[str, Any]


@dataclass(frozen=True)
class CheckpointFile:
    """Where a training is kept, if anywhere.

    Attributes:
        path: file to write every minute, after every epoch and when interrupted; None keeps nothing.
        resume: continue from it.

    Raises:
        SettingsError: it shall be resumed, and no file is given.
    """

    path: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.path is None:
            raise SettingsError("resume needs a checkpoint file")

    def write(self, state: State) -> None:
        """Keep the state of a training if there is a file for it. Raises FileError."""
        if self.path is not None:
            write_checkpoint(self.path, state)


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Let a first ctrl-C only set the flag that is yielded: a step is never left half done. A second one raises at once.

    A SIGINT that is ignored stays ignored: shells start jobs in the background so, because a ctrl-C in their terminal is meant
    for another program. SIGTERM and SIGHUP are deferred likewise where they would raise KeyboardInterrupt, as in the command
    line.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # other threads get no signals
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if asked.is_set():
            signal.default_int_handler(signum, frame)
        asked.set()

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    # A handler of None was set by another language and could not be put back.
    if handlers[signal.SIGINT] in (signal.SIG_IGN, None):
        del handlers[signal.SIGINT]
    for number in (signal.SIGTERM, signal.SIGHUP):
        if handlers[number] is not signal.default_int_handler:
            del handlers[number]
    for number in handlers:
        signal.signal(number, note)
    try:
        yield asked.is_set
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def write_checkpoint(path: Path, state: State) -> None:
    """Write tensors and plain values; an earlier file stays whole until that is done.

    Raises:
        FileError: it cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomically(path, CHECKPOINT_MAGIC + hashlib.sha256(content).digest() + content)


def read_checkpoint(path: Path) -> State:
    """Return what ``write_checkpoint`` wrote, tensors on the CPU.

    Raises:
        SettingsError: there is no such file.
        FileError: it cannot be read.
        ArtefactError: it is damaged, or of another version.
    """
    if not path.is_file():
        raise SettingsError(f"{path}: no checkpoint to resume; run without resume")
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
    with complete(path):
        state: State = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        return dict(state)


@contextmanager
def complete(path: Path) -> Iterator[None]:
    """Blame ``path`` for what is missing or does not fit when the block reads it or restores a net and its optimiser.

    Raises:
        ArtefactError: something is missing or does not fit.
    """
    try:
        yield
    except UNREADABLE as error:
        raise ArtefactError(f"{path}: incomplete checkpoint ({error}); delete it and start without resume") from error


def check_same(path: Path, subject: str, saved: Mapping[str, object], present: Mapping[str, object]) -> None:
    """Refuse to continue with something else than the training began with.

    Args:
        path: path of the checkpoint, for the message.
        subject: what the values are about, for the message.
        saved: values by name, from the checkpoint.
        present: those of this run.

    Raises:
        ArtefactError: a value differs, or only one side has it.
    """
    different = [key for key in (*saved, *(k for k in present if k not in saved)) if saved.get(key) != present.get(key)]
    if different:
        seen = ", ".join(f"{key} is {saved.get(key)!r} there and {present.get(key)!r} here" for key in different)
        raise ArtefactError(f"{path}: checkpoint of other {subject}: {seen}; use the same or start without resume")

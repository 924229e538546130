"""Do a job in a fresh interpreter, so that nothing but the job counts. The parent reads one line of JSON from its child."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lcnn_compress import errors
from lcnn_compress.errors import ChildError, LcnnError, SettingsError


def run_child(job: Callable[..., object], given: Mapping[str, object], subject: str, timeout_s: float) -> dict[str, Any]:
    """Do a job in a fresh interpreter and return its result; its known errors are raised here.

    Args:
        job: a function of a module, which the child imports by name; it returns a dataclass or a dict.
        given: its arguments, values that JSON holds; paths arrive as text.
        subject: what is measured, for errors: "the memory measurement of net.onnx".
        timeout_s: when to give up.

    Returns:
        The fields of the result as JSON gives them: tuples are lists.

    Raises:
        SettingsError: it took too long or was killed, probably for want of memory.
        ChildError: the process crashed.
        LcnnError: what the job itself raised.
    """
    # The child shall import this very package and nothing from the working folder, which Python puts first as "": a source tree
    # has no native library in it, and a statistics.py of the user is not Python's.
    start = f"import sys; sys.path = [sys.argv[1], *filter(None, sys.path)]; from {__name__} import answer_parent; "
    start += f"from {job.__module__} import {job.__name__} as job; answer_parent(job)"
    command = [sys.executable, "-c", start, str(Path(__file__).parents[2])]
    sent = json.dumps(given, default=str)
    try:
        done = subprocess.run(command, input=sent, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise SettingsError(f"{subject}: took more than {timeout_s:g} s; measure fewer iterations") from error
    if done.returncode != 0:
        tail = " | ".join(done.stderr.strip().splitlines()[-5:]) or "it wrote nothing"
        ended = f"{subject}: the process ended with status {done.returncode}"
        if done.returncode == -signal.SIGKILL:
            raise SettingsError(f"{ended}, probably for want of memory; choose a smaller batch or free some ({tail})")
        raise ChildError(f"{ended}: {tail}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer


def answer_parent(job: Callable[..., object]) -> None:
    """Read arguments from standard input, do the job, write its result or error as the last line of standard output."""
    _end_with_parent()
    given = json.load(sys.stdin)
    try:
        answer = job(**given)
    except LcnnError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(answer, default=asdict) + "\n")


def _end_with_parent() -> None:
    """Have Linux kill this process when its parent ends, however that ends: nobody would read the result."""
    libc = ctypes.CDLL(None)
    pr_set_pdeathsig = 1
    if hasattr(libc, "prctl"):
        libc.prctl(pr_set_pdeathsig, signal.SIGKILL)

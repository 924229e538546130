"""The error boundary: every failure of a command becomes one message on stderr and an exit code.

0 fine, 1 done but negative, 2 wrong use or unusable input, 3 missing hardware or package, 5 reading or writing failed,
70 internal error, 130 interrupted.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from lcnn_compress.cli import terminal
from lcnn_compress.errors import LcnnError

MISSING, FILES, INTERNAL, INTERRUPTED = 3, 5, 70, 130
Command = TypeVar("Command", bound=Callable[..., Any])

# The options of these fields of settings are not called like the fields.
_FLAGS = {
    "dictionary": "--dict", "speedup": "--target-speedup", "latency_ms": "--target-latency-ms", "size_mb": "--target-size-mb",
    "batches": "--batch", "timetable": "--schedule", "n_classes": "--classes", "precision": "--training-precision",
}  # fmt: skip


def flag(name: str) -> str:
    """Return the option that sets a field of the settings."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def with_flags(text: str) -> str:
    """Name options in place of the fields that messages quote: ``--init`` for `init`, ``--no-measure`` for `measure=False`."""

    def option(found: re.Match[str]) -> str:
        return flag(found["name"]).replace("--", "--no-", 1) if found["off"] else flag(found["name"])

    return re.sub(r"`(?P<name>[a-z]\w*)(?P<off>=False)?`", option, text)


def guarded(command: Command) -> Command:
    """Turn what a command raises into a message and an exit code. ``LCNN_DEBUG=1`` shows the traceback too."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise  # these are control flow of the command line
        except BrokenPipeError:  # who reads our output has left: nothing more can be said, not even by Python at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FILES) from None
        except (Exception, KeyboardInterrupt) as raised:
            error = raised
            if isinstance(raised, OSError) and isinstance(raised.__context__, KeyboardInterrupt):
                error = raised.__context__  # the terminal was closed, so that nothing can be shown any more
            message, code = describe(error)
            if os.environ.get("LCNN_DEBUG"):
                traceback.print_exc()
            terminal.complain(message)
            raise typer.Exit(code) from None

    return run  # type: ignore[return-value]


def describe(error: BaseException) -> tuple[str, int]:
    """Return the message and exit code for an exception."""
    if isinstance(error, LcnnError):
        return f"error: {with_flags(str(error))}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; {with_flags(str(error)) or 'nothing is left half-written'}", INTERRUPTED
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"error: the package '{package}' is missing; pip install it, or run 'pip install .' in a checkout", MISSING
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return f"error: {error.filename or 'a file'}: {reason}; check the path, its permissions and the disk", FILES
    return f"internal error: {type(error).__name__}: {error}; LCNN_DEBUG=1 shows where, please report it", INTERNAL

"""Entry point and error boundary: every failure becomes one message on stderr and an exit code.

0 fine, 1 done but negative, 2 wrong use or unusable input, 3 missing hardware or package, 5 reading or writing failed,
70 internal error, 130 interrupted.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from lcnn_compress.errors import LcnnError

INTERNAL, INTERRUPTED, FILES = 70, 130, 5
Command = TypeVar("Command", bound=Callable[..., Any])


def guarded(command: Command) -> Command:
    """Turn what a command raises into a message and an exit code. ``LCNN_DEBUG=1`` shows the traceback too."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (LcnnError, OSError, KeyboardInterrupt, Exception) as error:
            if isinstance(error, RuntimeError) and type(error).__module__.startswith("typer"):
                raise  # typer.Exit and its kin are control flow
            message, code = describe(error)
            if os.environ.get("LCNN_DEBUG"):
                traceback.print_exc()
            typer.echo(message, err=True)
            raise typer.Exit(code) from None

    return run  # type: ignore[return-value]


def describe(error: BaseException) -> tuple[str, int]:
    """Return the message and exit code for an exception."""
    if isinstance(error, LcnnError):
        return f"error: {error}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing is left half-written", INTERRUPTED
    if isinstance(error, OSError):
        return f"error: {error.filename or 'file'}: {error.strerror or error}", FILES
    return f"internal error: {type(error).__name__}: {error}; LCNN_DEBUG=1 shows where, please report it", INTERNAL


def main() -> None:
    """Run the command line."""
    from lcnn_compress.cli.app import app

    if not os.environ.get("LCNN_DEBUG"):
        warnings.simplefilter("ignore")  # deprecations inside torch and its exporter are not the user's business
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

"""How text reaches the terminal: one line at a time, nothing in it acting, and notices only where they are wanted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import typer

from lcnn_compress.artefact.printable import printable

# A longer line, from a name or an error of another program, hides what comes before it.
LONGEST = 4000
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def as_line(text: str) -> str:
    """Return text as one line that is safe to show, its middle left out where it is longer than anybody reads."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
    return printable(text)


def say(line: str) -> None:
    """Print a line of the answer on stdout."""
    typer.echo(as_line(line))


def say_whole(text: str, *, styled: bool = False) -> None:
    """Print several lines on stdout that were made safe one by one, ``styled`` with colours if the terminal has them."""
    typer.echo(text, color=styled or None)


def notify(line: str) -> None:
    """Show a line on stderr unless the user wants quiet."""
    if not _quiet.get():
        complain(line)


def complain(line: str) -> None:
    """Show on stderr why a command failed, or came to a negative answer: quiet or not."""
    with suppress(OSError):  # nobody is left to read it: the terminal was closed
        typer.echo(as_line(line), err=True)


def is_quiet() -> bool:
    """Tell whether notices are not wanted."""
    return _quiet.get()


@contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Keep stderr free of all but errors inside the block, if that is wanted: also of what other packages warn of."""
    if not wanted:
        yield
        return
    token, disabled = _quiet.set(True), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        _quiet.reset(token)


def take_any_text(*streams: Any) -> None:
    """Have streams write what their encoding lacks as escapes, where they can: a terminal may know ASCII only."""
    for stream in streams or (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # none is there where it was closed
            stream.reconfigure(errors="backslashreplace")

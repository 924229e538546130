"""Entry point: notices of the library on stderr, a request to stop as an interrupt, then the commands."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from contextlib import suppress
from typing import NoReturn

from lcnn_compress.cli import terminal
from lcnn_compress.cli.app import app
from lcnn_compress.cli.error_boundary import INTERRUPTED, with_flags


class Notices(logging.Handler):
    """Shows what the library warns of on stderr, each thing once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record unless the same was shown before."""
        line = record.getMessage()
        if line not in self.shown:
            self.shown.add(line)
            terminal.notify(f"warning: {with_flags(line)}")


def main() -> None:
    """Run the command line."""
    terminal.take_any_text()
    logging.getLogger("lcnn_compress").addHandler(Notices())
    if not os.environ.get("LCNN_DEBUG"):
        warnings.simplefilter("ignore")  # deprecations inside torch and its exporter are not the user's business
    take_requests_to_stop()
    try:
        app()
    except KeyboardInterrupt:
        _leave_at_once()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _leave_at_once()
        raise


def take_requests_to_stop() -> None:
    """Let a request to stop raise KeyboardInterrupt, as ctrl-C does, in a background job too, where ctrl-C is ignored."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    sys.unraisablehook = _ask_again


def _ask_again(lost: sys.UnraisableHookArgs) -> None:
    """Repeat a request that came while Python was deleting something: it cannot raise there, and would be lost."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(lost)


def _leave_at_once() -> NoReturn:
    """End an interrupted process without its threads that still compute; to take torch apart alone takes seconds."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # it is closed, or its reader has left
            stream.flush()
    os._exit(INTERRUPTED)

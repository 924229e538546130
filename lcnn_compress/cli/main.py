"""Entry point: notices of the library on stderr, a request to stop as an interrupt, then the commands."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings

import typer

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
            typer.echo(f"warning: {with_flags(line)}", err=True)


def main() -> None:
    """Run the command line."""
    logging.getLogger("lcnn_compress").addHandler(Notices())
    if not os.environ.get("LCNN_DEBUG"):
        warnings.simplefilter("ignore")  # deprecations inside torch and its exporter are not the user's business
    # A request to stop leaves a checkpoint, as ctrl-C does, also where ctrl-C is ignored: in a job in the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

"""Lines that reach the terminal: safe, short enough to read, and none where the user wants quiet."""

from __future__ import annotations

import io
import logging

import pytest
from hostile import TEXTS, is_safe

from lcnn_compress.cli import terminal


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_line_is_one_line_and_safe(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say(text)
    terminal.notify(text)
    terminal.complain(text)
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1
    assert shown.err == 2 * shown.out
    assert is_safe(shown.out)
    assert len(shown.out) < 5000


def test_both_ends_of_a_line_that_nobody_reads_are_shown() -> None:
    line = terminal.as_line("first" + "x" * 100_000 + "last")
    assert line.startswith("firstx")
    assert line.endswith("xlast")
    assert " ... " in line


def test_quiet_hides_notices_and_warnings_of_other_packages_but_no_complaint(capfd: pytest.CaptureFixture[str]) -> None:
    theirs = logging.getLogger("of another package")
    theirs.addHandler(logging.StreamHandler())
    theirs.propagate = False
    for wanted in (True, False):
        with terminal.quiet(wanted):
            assert terminal.is_quiet() == wanted
            terminal.notify("a note")
            theirs.warning("careful")
            terminal.complain("wrong")
        assert capfd.readouterr().err == ("wrong\n" if wanted else "a note\ncareful\nwrong\n")
    assert not terminal.is_quiet()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_streams_of_any_encoding_take_any_text(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    terminal.take_any_text(stream, None)
    stream.write("ä \u2192 \udce4")
    stream.flush()
    shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert shown == {"ascii": "\\xe4 \\u2192 \\udce4", "latin-1": "ä \\u2192 \\udce4", "utf-8": "ä \u2192 \\udce4"}[encoding]

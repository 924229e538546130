"""Text of files and users as it is shown, on a terminal or on a page: nothing in it acts, and every encoding holds it."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return text with an escape, as in Python's own literals, for every character that has no shape of its own.

    These are control characters, line breaks, marks of direction, blanks other than the common one, and the halves of
    characters that stand for bytes of file names: ``"\x1b[2J"`` becomes ``"\\x1b[2J"``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

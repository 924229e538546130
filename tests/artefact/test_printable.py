"""Text is shown as it is where it only has shapes, and as escapes where it would act."""

from __future__ import annotations

import pytest
from hostile import TEXTS, is_safe

from lcnn_compress.artefact.printable import printable


@pytest.mark.parametrize("text", ["layer1.0.conv", "Größe \u2192 3\u00d73", "\u5c42.1", "[red] <b> \\n", ""])
def test_text_that_only_has_shapes_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("two\nlines\t", "two\\nlines\\t"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("net_\udce4.pt", "net_\\udce4.pt"),
        ("\x9b\x7f\x00", "\\x9b\\x7f\\x00"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_acts_becomes_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_nothing_acts_in_what_is_shown_and_it_can_be_encoded(text: str) -> None:
    assert is_safe(printable(text))
    assert "\n" not in printable(text)
    printable(text).encode()

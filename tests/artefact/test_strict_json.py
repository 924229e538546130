"""JSON that everybody can compute with is read; other values are refused, none ends the process."""

from __future__ import annotations

import json

import pytest

from lcnn_compress.artefact.strict_json import parse_json


@pytest.mark.parametrize(
    "value", [None, True, "\ud800", 0, -1.5e-300, 1e308, 2**63 - 1, -(2**64), {"a": [1, {"b": []}]}, [[[[]]]], {}], ids=repr
)
def test_values_are_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "it holds NaN, which is no finite number"),
        ('{"a": [-Infinity]}', "it holds -Infinity, which is no finite number"),
        ("[1e999]", "it holds 1e999, which is no finite number"),
        ("18446744073709551617", "it holds 18446744073709551617, which needs more than 64 bits"),
        ("-" + "1" * 9000, "it holds -1{39}, which needs more than 64 bits"),
        ("[" * 101 + "]" * 101, "nested deeper than 100 levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper than 100 levels"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
    ],
    ids=ascii,
)
def test_what_nobody_can_compute_with_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="decode"):
        parse_json(b'"\xff"')

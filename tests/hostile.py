"""Text that a file may hold in the place of a name, and values in the place of those that a JSON file should hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

TEXTS = (
    "[/]", "[/x]", "[red]", "[link=http://x]y[/link]", ":smile:", "\x1b[2J\x1b[31m", "\x9b31m", "\u202egnp.exe", "\u2066\u200f",
    "\udce4", "two\nlines\r\ttab", "\x00\x07\x7f", "\u2028\u2029", "<script>&\"'`", "{x} %s \\", "self", "", " ", "A" * 100_000,
)  # fmt: skip
# Each of these is the text of a JSON value.
VALUES = (
    "null", "true", "-1", "0", "1e308", "1e999", "NaN", "-Infinity", "1" * 30, "1" * 5000, "[]", "{}", "[1]", '{"a": 1}',
    "[" * 300 + "]" * 300, "[" * 100_000 + "]" * 100_000, *map(json.dumps, TEXTS),
)  # fmt: skip


def is_safe(shown: str) -> bool:
    """Tell whether no character of what was shown acts on a terminal, and every encoding can be told what it is."""
    return all(c.isprintable() or c == "\n" for c in shown)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every part of a JSON value; of lists to the first part only."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def changed(value: Any, path: tuple[Any, ...], put: str) -> str:
    """Return a JSON value as text, with the text ``put`` in the place that ``path`` leads to."""
    if not path:
        return put
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    texts = {key: changed(part, path[1:], put) if key == path[0] else json.dumps(part) for key, part in parts}
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {text}" for key, text in texts.items()) + "}"
    return "[" + ", ".join(texts.values()) + "]"

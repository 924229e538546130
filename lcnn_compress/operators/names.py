"""Names of layers and tensors. Users and files choose them, and torch writes them unquoted into the source it generates.

So a name takes part only if every part between its dots is harmless there, on a terminal and in an ONNX file.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Container

from torch import fx

# What separates or ends names elsewhere: a quote ends a text, a slash a layer's name in a file, the rest acts on terminals.
_FOREIGN = re.compile(r"[\"'\\/\[\]{}`]|\s")
_RESERVED = frozenset({*dir(fx.GraphModule), *vars(fx.GraphModule({}, fx.Graph())), *keyword.kwlist, "self"})
MAX_PART = 200


def is_harmless(name: str) -> bool:
    """Tell whether ``name`` is what ``harmless`` leaves as it is, part by part."""
    return all(part == _harmless_part(part) for part in name.split("."))


def harmless(name: str, taken: Container[str] = ()) -> str:
    """Return a harmless name as much like ``name`` as can be, none of those taken."""
    wanted = ".".join(_harmless_part(part) for part in name.split("."))
    found, suffix = wanted, 2
    while found in taken:
        found, suffix = f"{wanted}_{suffix}", suffix + 1
    return found


def _harmless_part(part: str) -> str:
    part = unicodedata.normalize("NFKC", part)[:MAX_PART]  # Python compares the names in its source in this form
    part = _FOREIGN.sub("_", "".join(c if c.isprintable() else "_" for c in part)).replace(".", "_") or "_"
    if part.startswith("__"):  # such names mean something to Python
        part = f"_{part.strip('_')}"
    return f"{part}_" if part in _RESERVED else part

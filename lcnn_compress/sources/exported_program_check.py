"""Look for code in a torch.export program before torch.export.load unpickles, imports and evaluates what the file says."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

# What each text of a torch.export program may say, by the key it stands under; what is not listed is never run.
_NAME = re.compile(r"[\w./ -]*")
# A tree may not hold \u: an escape could hide what is forbidden.
_TREE = re.compile(r'((?!__|defaultdict)([\w\s.,:"\[\]{}]|\\(?=[\\"])))*')
_TEXTS = {
    "target": re.compile(
        r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision|lcnn)\.(?!save\.|from_file\.)((?!__)[\w.])+|torch\.sym_\w+"
        r"|math\.[a-z]+|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|and_|or_|not_|eq|ne|lt|le|gt|ge)"
    ),
    "expr_str": re.compile(
        r"([a-z]{1,4}\d+\b|\d+\b|(Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|Mod|Equality"
        r"|Unequality|[A-Z]\w*(Div|Mod|Int|Float|Than)|positive|nonnegative|integer|real|True|False|true|false|evaluate)\b"
        r"|[\s+\-*/%(),<>=&|~'.])*"
    ),
    "path_name": re.compile(r"(weight|tensor)_\w+"),
    "in_spec": _TREE,
    "out_spec": _TREE,
}


def program_risks(path: Path) -> Iterator[str]:
    """Name what torch.export.load would unpickle, import or evaluate, beyond tensors, ATen operators and sizes."""
    if "version" in zipfile.ZipFile(path).namelist():
        yield "written by torch 2.7 or older"
        return
    reader = torch._C.PyTorchFileReader(str(path))  # torch.export.load reads with it too
    for record in reader.get_all_records():
        if record.lower().startswith("data/aotinductor/"):
            yield f"compiled library {record}"
        elif record.lower().endswith(".pt"):
            try:
                torch.load(io.BytesIO(reader.get_record(record)), weights_only=True)
            except pickle.UnpicklingError:
                yield f"pickle {record}"
        elif record.lower().endswith(".json") or record.lower().startswith("models/"):
            yield from (f"{record}: {risk}" for risk in _json_risks(json.loads(reader.get_record(record)), ""))


def _json_risks(value: object, key: str) -> Iterator[str]:
    """Check the texts that torch.export.load imports, evaluates or writes into generated code."""
    if key == "use_pickle" and value is not False:
        yield "a pickled constant"
    elif isinstance(value, dict):
        for inner, held in value.items():
            yield from _json_risks(held, str(inner))
    elif isinstance(value, list):
        for held in value:
            yield from _json_risks(held, key)
    elif isinstance(value, str):
        is_name = key == "name" or key.endswith(("_name", "_names", "fqn"))
        rule = _TEXTS.get("target" if key == "as_operator" else key, _NAME if is_name else None)
        if rule and not rule.fullmatch(value):
            yield f"{key} {value[:60]!r}"

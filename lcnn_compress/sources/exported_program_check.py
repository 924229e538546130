"""Look for code in a torch.export program before torch.export.load unpickles, imports and evaluates what the file says.

Every text of the file has a rule: what stands under a key that is not listed must be a plain word or path, as names of modules
and tensors are. What torch makes of the texts is written here because the rules follow from it: names become variables and
attributes in generated source, the targets are looked up and called, expressions are evaluated, trees and comments are parsed.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import torch

# What each text of a torch.export program may say, by the key it stands under.
# Names of modules and their parts: what a ModuleDict may hold, but nothing that ends a text, and no attributes of Python.
_PATH = re.compile(r"(?!__)((?!\.__)[\w./ @+-])*")
_VARIABLE = re.compile(r"\w*")
_FUNCTION = re.compile(r"[\w.<>,;-]*")
_FUNCTIONS = (
    r"[A-Z]\w*(Div|Mod|Int|Float|Than|Natural|Pow|Decimal|Shift)|Mod|Max|Min|Where|Identity|Add|Mul|Pow|And|Or|Not"
    r"|Eq|Ne|Lt|Le|Gt|Ge"
)
_NUMBERS = r"\d{1,19}(e-?\d{1,3})?\b|\.(?=\d)|[\s+\-*/%(),<>=!&|~]"
_TEXTS = {
    "target": re.compile(
        r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision|lcnn)\.(?!(save|from_file)\b)\w+\.\w+"
        r"|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)|torch\.sym_\w+|math\.[a-z]+\d?"
        r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|and_|or_|not_|eq|ne|lt|le|gt|ge)"
    ),
    "name": _VARIABLE,
    "as_name": _VARIABLE,
    "forward_arg_names": _VARIABLE,
    "expr_str": re.compile(
        rf"([a-z]{{1,4}}\d+\b|({_FUNCTIONS}|Symbol|Integer|Rational|Float|Equality|Unequality|positive|nonnegative|integer|real"
        rf"|precision|True|False|true|false|evaluate)\b|{_NUMBERS}|')*"
    ),
    "guards_code": re.compile(
        rf"(L\[|\[|\]|'[\w./ -]*'|\.(size|stride|storage_offset|dim|numel)\(\)|({_FUNCTIONS}|max|min|abs|int|float|round|and|or"
        rf"|not|True|False|None|inf|math\.(isnan|inf|nan|ceil|floor|trunc|sqrt))\b|{_NUMBERS})*"
    ),
    "as_string": re.compile(r"[\w ,.>-]*"),
    "as_strings": re.compile(r"[\w ,.>-]*"),
    "path_name": re.compile(r"(weight|tensor)_\w+"),
    "nn_module_stack": re.compile(r"[\w./ @+<>\[\],;-]*"),
    "source_fn_stack": _FUNCTION,
    "torch_fn": _FUNCTION,
}
# Nothing reads these but people, in comments and messages: any lines that can be printed.
_COMMENTS = ("stack_trace", "custom", "from_node")
_TREES = re.compile(r"builtins\.(tuple|list|dict)|collections\.(OrderedDict|namedtuple|deque)|torch\.(Size|fx\.[\w.]+)")


def program_risks(file: IO[bytes]) -> Iterator[str]:
    """Name what torch.export.load would unpickle, import or evaluate, beyond tensors, ATen operators and sizes."""
    if "version" in zipfile.ZipFile(file).namelist():
        yield "written by torch 2.7 or older"
        return
    file.seek(0)
    reader = torch._C.PyTorchFileReader(file)  # torch.export.load reads with it too
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
    file.seek(0)


def _json_risks(value: Any, key: str) -> Iterator[str]:
    """Check the texts below a value that stands under a key: those that are keys themselves too."""
    if key == "use_pickle" and value is not False:
        yield "a pickled constant"
    elif isinstance(value, dict):
        for inner, held in value.items():
            if not (_PATH.fullmatch(inner) or _VARIABLE.fullmatch(inner)):
                yield f"key {inner[:60]!r} in {key}"
            yield from _json_risks(held, inner)
    elif isinstance(value, list):
        for held in value:
            yield from _json_risks(held, key)
    elif isinstance(value, str) and not _is_harmless(value, "target" if key == "as_operator" else key):
        yield f"{key} {value[:60]!r}"


def _is_harmless(text: str, key: str) -> bool:
    if key in ("in_spec", "out_spec"):
        return _is_tree(json.loads(text)[1], names=_VARIABLE if key == "in_spec" else None)
    if key in _COMMENTS:
        return all(line.isprintable() for line in text.replace("\t", " ").split("\n"))
    if not _TEXTS.get(key, _PATH).fullmatch(text):
        return False
    if key == "target" and text.startswith("torch.ops."):
        # Namespaces of operators have attributes of Python too.
        found: Any = torch
        for name in text.split(".")[1:]:
            found = getattr(found, name, None)
        return found is None or isinstance(found, (torch._ops.OpOverload, torch._ops.HigherOrderOperator))
    return True


def _is_tree(tree: Any, names: re.Pattern[str] | None) -> bool:
    """Tell whether a tree of inputs or outputs is one of plain containers, whose keys are names where they become arguments."""
    kind, context = tree["type"], tree["context"]
    if kind is None:
        return True
    if kind != "collections.namedtuple":  # its context is the name of the type, which torch looks up in a table
        try:
            context = json.loads(context)
        except ValueError:
            return False
    keys = context if isinstance(context, list) else [] if context is None else [context]
    return (
        bool(_TREES.fullmatch(kind))
        and all(isinstance(key, int) or (isinstance(key, str) and key.isprintable()) for key in keys)
        and (names is None or all(names.fullmatch(str(key)) for key in keys))
        and all(_is_tree(child, names) for child in tree["children_spec"])
    )

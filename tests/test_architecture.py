"""The shape of the package: what imports what, who prints, and how long files and functions may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lcnn_compress"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
MOST_LINES, MOST_FUNCTION_LINES = 600, 80


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(tree: ast.AST, *, everywhere: bool) -> set[str]:
    """Names of modules of the package that a file imports; not ``everywhere``: only those it imports when it is loaded."""
    found: set[str] = set()
    for node in walk(tree, everywhere=everywhere):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            steps = name.split(".")
            homes = (".".join(steps[:end]) for end in range(len(steps), 0, -1))
            found |= set([home for home in homes if home in MODULES][:1])
    return found


def walk(node: ast.AST, *, everywhere: bool) -> list[ast.AST]:
    if not everywhere and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return []
    if not everywhere and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return []
    return [node, *(inner for child in ast.iter_child_nodes(node) for inner in walk(child, everywhere=everywhere))]


def loaded_after(source: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{source}\nprint(*sys.modules)"],
        cwd=PACKAGE.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("source", "forbidden"),
    [
        ("import lcnn_compress", {"torch", "onnx", "onnxruntime", "sklearn", "numpy", "typer"}),
        ("import lcnn_compress.cli.app", {"torch", "onnx", "onnxruntime", "sklearn", "numpy"}),
        ("import lcnn_compress.runtime, lcnn_compress.benchmark", {"torch", "sklearn", "typer"}),
        ("import lcnn_compress; lcnn_compress.runtime.isa", {"torch", "sklearn", "typer"}),
    ],
)
def test_heavy_packages_are_loaded_only_where_they_are_needed(source: str, forbidden: set[str]) -> None:
    loaded = loaded_after(source)
    assert "lcnn_compress.errors" in loaded
    assert loaded & forbidden == set()


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    edges = {name: imports(TREES[path], everywhere=False) - {name} for name, path in MODULES.items()}
    assert "lcnn_compress.op" in edges["lcnn_compress.runtime"]
    order: list[str] = []
    while len(order) < len(edges):
        free = [name for name in edges if name not in order and edges[name] <= {*order, "lcnn_compress"}]
        assert free, {name: sorted(edges[name] - {*order}) for name in edges if name not in order}
        order += free
    assert edges["lcnn_compress"] == {"lcnn_compress.errors"}  # what makes the exception for the package itself sound


def test_only_the_command_line_knows_the_command_line() -> None:
    importers = {
        name for name, path in MODULES.items() if any(".cli" in other for other in imports(TREES[path], everywhere=True))
    }
    assert "lcnn_compress.__main__" in importers
    assert all(name.startswith("lcnn_compress.cli") for name in importers - {"lcnn_compress.__main__"})


def test_only_the_command_line_prints() -> None:
    """``child`` answers its parent process on standard output: children are their own programs."""
    printers = {
        module_name(path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "typer.echo", "sys.stdout.write", "sys.stderr.write")
    }
    assert printers == {"lcnn_compress.cli.main", "lcnn_compress.cli.render", "lcnn_compress.child"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_fit_on_two_screens(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(TREES[path])
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
    }
    assert {name: n for name, n in lengths.items() if n > MOST_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_open_with_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(TREES[path])


def test_no_error_is_swallowed_in_silence() -> None:
    silent = [
        f"{path.name}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and (node.type is None or all(isinstance(s, ast.Pass) for s in node.body))
    ]
    assert silent == []

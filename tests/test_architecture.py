"""The shape of the package: what imports what, who prints, and how long files and functions may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lcnn_compress"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
TESTS = Path(__file__).parent
TEST_TREES = {path: ast.parse(path.read_text()) for path in sorted(TESTS.rglob("*.py"))}
MAX_LINES, MAX_FUNCTION_LINES, MAX_MODULES = 400, 80, 13
MAX_ARGUMENTS = 7  # besides self and cls
MAX_PATCHES = 10  # of our own modules, in all tests
MAX_PLAIN_DICTS = 30  # where JSON crosses

# A module imports from its own room and from rooms of lower levels. Whatever is new goes into the lowest room it fits.
LEVELS = {
    "errors": 0, "progress": 0, "renamed": 0, "version": 0, "zoo": 0, "files": 1, "parallel": 1,
    "operators": 1, "forms": 2,
    "net": 3, "artefact": 3, "runtime": 3,
    "machine": 4, "sources": 4, "export": 4, "quantisation": 4,
    "benchmark": 5, "data": 5, "self_test": 5,
    "train": 6,
    "compression": 7,
    "search": 8, "scratch": 8,
    "api": 9,
    "quickstart": 10, "views": 10,
    "cli": 11,
    "__main__": 12, "lcnn_compress": 12,
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(tree: ast.AST) -> set[str]:
    """Names of modules of the package that a file imports anywhere: in function bodies and under TYPE_CHECKING too."""
    found: set[str] = set()
    for node in ast.walk(tree):
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
        ("import lcnn_compress.runtime, lcnn_compress.benchmark.compare", {"torch", "sklearn", "typer"}),
        ("import lcnn_compress; lcnn_compress.runtime.isa", {"torch", "sklearn", "typer"}),
    ],
)
def test_heavy_packages_are_loaded_only_where_they_are_needed(source: str, forbidden: set[str]) -> None:
    loaded = loaded_after(source)
    assert "lcnn_compress.errors" in loaded
    assert loaded & forbidden == set()


def room(name: str) -> str:
    """Return the room a module is in: a folder of the package, or the module itself on the ground floor."""
    return name.split(".")[1] if "." in name else name


EDGES = {name: imports(TREES[path]) - {name} for name, path in MODULES.items()}


def test_every_room_has_a_level_and_imports_lower_ones_only() -> None:
    assert {room(name) for name in MODULES} == set(LEVELS)
    assert "lcnn_compress.operators.common" in EDGES["lcnn_compress.runtime"]
    up = [
        f"{name} ({LEVELS[room(name)]}) imports {other} ({LEVELS[room(other)]})"
        for name, others in EDGES.items()
        for other in others
        if room(other) != room(name) and LEVELS[room(other)] >= LEVELS[room(name)]
    ]
    assert up == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    order: list[str] = []
    while len(order) < len(EDGES):
        free = [name for name in EDGES if name not in order and EDGES[name] <= set(order)]
        assert free, {name: sorted(EDGES[name] - {*order}) for name in EDGES if name not in order}
        order += free


def test_no_public_name_is_that_of_a_module() -> None:
    """The first import from a module ``bench`` would put the module in the place of the function ``bench``."""
    assignments = [node for node in ast.walk(TREES[PACKAGE / "__init__.py"]) if isinstance(node, ast.Assign)]
    (listed,) = [node.value for node in assignments if ast.unparse(node.targets[0]) == "__all__"]
    public = set(ast.literal_eval(listed)) - {"runtime"}  # a module that is public itself
    assert {"compress", "bench"} <= public
    assert public & {room(name) for name in MODULES} == set()


def test_names_of_modules_are_said_once() -> None:
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_rooms_are_small_and_their_folders_hold_nothing_but_modules() -> None:
    sizes = Counter(room(name) for name in MODULES if name.count(".") == 2)
    ground = sum(name.count(".") == 1 and not (PACKAGE / room(name)).is_dir() for name in MODULES)
    assert max([*sizes.values(), ground]) <= MAX_MODULES
    assert [name for name in MODULES if name.count(".") > 2] == []
    empty = [path for path in PACKAGE.glob("*/__init__.py") if path.read_text()]
    assert empty == []


def test_only_the_command_line_knows_the_command_line() -> None:
    importers = {name for name, path in MODULES.items() if any(".cli" in other for other in imports(TREES[path]))}
    assert "lcnn_compress.__main__" in importers
    assert all(name.startswith("lcnn_compress.cli") for name in importers - {"lcnn_compress.__main__"})


def test_one_module_prints() -> None:
    """``terminal`` makes text safe to show; ``child`` answers its parent process on standard output: it is its own program."""
    printers = {
        module_name(path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "typer.echo", "sys.stdout.write", "sys.stderr.write")
    }
    assert printers == {"lcnn_compress.cli.terminal", "lcnn_compress.benchmark.child"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_fit_on_two_screens(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(TREES[path])
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
    }
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_open_with_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(TREES[path]) or not path.read_text()


def test_no_error_is_swallowed_in_silence() -> None:
    silent = [
        f"{path.name}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and (node.type is None or all(isinstance(s, ast.Pass) for s in node.body))
    ]
    assert silent == []


def test_every_module_of_a_room_has_its_test_file_and_every_test_file_its_module() -> None:
    """``tests/`` has the folders of the package, and one for ``examples/``; tests of the ground floor lie flat."""
    modules = {"/".join(name.split(".")[1:]) for name in MODULES if name.count(".") == 2}
    rooms = {module.partition("/")[0] for module in modules} | {"examples"}
    files = {f"{path.parent.name}/{path.stem.removeprefix('test_')}" for path in TESTS.glob("*/test_*.py")}
    assert {file.partition("/")[0] for file in files} <= rooms
    assert modules - files == set()
    assert {file for file in files if not file.startswith("examples/")} - modules == set()


def own_names(tree: ast.AST) -> set[str]:
    """Return the names under which a file knows modules, classes and functions of the package."""
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.asname or alias.name.partition(".")[0] for alias in node.names]
            own |= {name for alias, name in zip(node.names, names, strict=True) if alias.name.startswith("lcnn_compress")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lcnn_compress"):
            own |= {alias.asname or alias.name for alias in node.names}
    return own


def patches(tree: ast.AST) -> list[int]:
    """Return the lines where a test changes a module or a class of the package, as ``monkeypatch.setattr`` does."""
    own = own_names(tree)
    lines = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        if node.func.attr in ("setattr", "setitem", "delattr", "delitem"):
            first = node.args[0]
            by_name = isinstance(first, ast.Constant) and str(first.value).startswith("lcnn_compress")
            if by_name or ast.unparse(first).partition(".")[0] in own:
                lines.append(node.lineno)
    return lines


def test_patches_of_our_own_modules_are_seen() -> None:
    source = """
import sys, torch, lcnn_compress.files
from lcnn_compress.benchmark import suite as module
from lcnn_compress.train.loop import Run
monkeypatch.setattr("lcnn_compress.net.capture.MAX_SECONDS", 1)
monkeypatch.setattr(lcnn_compress.files, "_swap", None)
monkeypatch.setitem(module.SUITES, "paper", ())
monkeypatch.delattr(Run, "prune")
monkeypatch.setattr(torch.onnx, "export", None)
monkeypatch.setattr(sys, "path", [])
monkeypatch.setenv("LCNN_ISA", "avx2")
"""
    assert patches(ast.parse(source)) == [5, 6, 7, 8]


def test_tests_hardly_patch_our_own_modules() -> None:
    """A patch freezes the inside of what it changes; a timer, a runner or a limit that a test needs is an argument."""
    found = [f"{path.relative_to(TESTS)}:{line}" for path, tree in TEST_TREES.items() for line in patches(tree)]
    assert len(found) <= MAX_PATCHES, found


def test_functions_take_few_arguments() -> None:
    many = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                a = node.args
                given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
                if sum(argument.arg not in ("self", "cls") for argument in given) > MAX_ARGUMENTS:
                    many.add(f"{module_name(path).removeprefix('lcnn_compress.')}.{getattr(node, 'name', 'lambda')}")
    assert many == set()


def test_few_values_are_dicts_of_anything() -> None:
    """A frozen dataclass names its fields and their types; ``dict[str, Any]`` is for what is read from JSON or becomes it."""
    counts = Counter({module_name(path): path.read_text().count("dict[str, Any]") for path in FILES})
    assert counts.total() <= MAX_PLAIN_DICTS, counts.most_common(5)

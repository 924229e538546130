"""What a capture took for granted about the sizes of its input, and sizes for which that is not so.

torch.export writes down what it assumed where the model's own code, or an operator, asked about sizes: a branch on the number
of pixels, an even height, more rows than columns. Inside these bounds the captured net is the model; beyond them nobody knows,
so the model must be asked there. The texts may come from a file: they are parsed, never evaluated by Python.
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Sizes = tuple[int, ...]

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Div: operator.truediv,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_FUNCTIONS = {"max": max, "Max": max, "min": min, "Min": min, "abs": abs, "float": float, "int": int}
# Inputs with more than so many times the values of the captured one are not tried.
_MOST = 8


@dataclass(frozen=True)
class Guard:
    """One assumption: a comparison of sizes, the axes that it is about, and its text."""

    tree: ast.expr
    axes: frozenset[int]
    text: str

    def holds(self, sizes: Sizes) -> bool:
        """Tell whether the assumption holds for an input of these sizes."""
        try:
            return bool(_value(self.tree, sizes))
        except ZeroDivisionError:
            return False

    @property
    def is_about_ones(self) -> bool:
        """Whether it only says that a size is not 0 or 1, which torch assumes of every size, as these may be broadcast."""
        tree = self.tree
        return (
            isinstance(tree, ast.Compare) and isinstance(tree.ops[0], ast.NotEq)
            and any(isinstance(side, ast.Constant) and side.value in (0, 1) for side in (tree.left, *tree.comparators))
        )  # fmt: skip


def guards_of(program: torch.export.ExportedProgram) -> list[Guard]:
    """Return the assumptions of a program on the sizes of its input, as far as this version of torch tells them."""
    found = []
    for text in dict.fromkeys(getattr(program, "_guards_code", None) or ()):
        try:
            tree = ast.parse(str(text), mode="eval").body
            axes = frozenset(_axes(tree))
            _value(tree, (7,) * 8)
        except (SyntaxError, ValueError, TypeError, RecursionError, ZeroDivisionError, IndexError):
            continue  # it is about something else than sizes
        if axes:
            found.append(Guard(tree, axes, str(text)))
    return found


def violations(guards: Sequence[Guard], shape: Sizes, axes: Sequence[int]) -> Iterator[Sizes | Guard]:
    """Yield sizes that break each assumption and differ from ``shape`` on ``axes`` only: the smallest, and those most like it.

    Yields the assumption itself where only inputs break it that are too large to try.
    """
    for guard in guards:
        varied = sorted(guard.axes.intersection(axes))
        if not varied:
            continue
        choices = sorted(itertools.product(*(_choices(axis, shape[axis]) for axis in varied)), key=_area)
        tried = (tuple(dict(zip(varied, choice, strict=True)).get(a, n) for a, n in enumerate(shape)) for choice in choices)
        broken = [sizes for sizes in tried if not guard.holds(sizes)]
        cheap = [sizes for sizes in broken if _area(sizes) <= _MOST * _area(shape)]
        yield from dict.fromkeys(cheap[:1] + sorted(cheap, key=lambda sizes: _distance(sizes, shape))[:2])
        if broken and not cheap:
            yield guard


def _choices(axis: int, size: int) -> list[int]:
    if axis == 0:
        return [1, 2, 3, 4, 5, 8, 64]
    near = range(size - 8, size + 9)
    return sorted({n for n in (*range(1, 9), *near, size // 4, size // 2, *(size * k for k in (2, 3, 4, 16, 64))) if n > 0})


def _distance(sizes: Sizes, shape: Sizes) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(sizes, shape, strict=True))


def _area(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _axes(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and (axis := _axis(node)) is not None:
            yield axis


def _axis(node: ast.expr) -> int | None:
    """Return the axis that ``L['x'].size()[axis]`` is about, or None."""
    match node:
        case ast.Subscript(value=ast.Call(func=ast.Attribute(attr="size")), slice=ast.Constant(value=int(axis))):
            return axis
    return None


def _value(node: ast.expr, sizes: Sizes) -> Any:
    """Compute an expression of sizes. Raises ValueError for anything else."""
    if (axis := _axis(node)) is not None:
        return sizes[axis]
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, sizes)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, sizes)
        case ast.BoolOp(op=op, values=values):
            parts = [_value(value, sizes) for value in values]
            return all(parts) if isinstance(op, ast.And) else any(parts)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_value(arg, sizes) for arg in args))  # type: ignore[operator]
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(side, sizes) for side in (left, *others)]
            return all(_COMPARISONS[type(op)](a, b) for op, a, b in zip(ops, values[:-1], values[1:], strict=True))
    raise ValueError("not an expression of sizes")

"""Hold a captured net against the model it came from, at the sizes it may be used at, and find the axes that may stay open.

What a model computes with its sizes in Python is fixed by the capture: a loop over strips of rows, a pooling kernel as large as
the plane, a branch. At other sizes the captured net then fails, or gives something else without a word. So an axis is open only
where both agreed at several sizes, odd ones included, and for one image and for three.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from lcnn_compress.net.guards import Guard, Sizes, violations

# Largest difference between two ways to compute the same net in float32, as a share of the spread of the outputs.
TOLERANCE = 1e-3
# The same where one of them rounds to half precision or bfloat16 on its way.
ROUNDED_TOLERANCE = 5e-2
# Outputs that spread less than this part of their size are measured by it: float32 rounds them by 64 eps more or less.
_LEAST_SPREAD = 64 * float(np.finfo(np.float32).eps) / TOLERANCE
_AXES = {0: "batch", 2: "height", 3: "width"}
Outputs = Sequence[NDArray[np.generic]]


class DisagreementError(Exception):
    """The net does not compute what the model does at the size it was captured at."""


def difference(got: Outputs, want: Outputs) -> float:
    """Return the largest difference between outputs as a share of their spread.

    The spread of an output is its largest value less its smallest, or 0.8 % of its largest magnitude if that is more. Outputs
    of other shapes or kinds differ infinitely, and by NaN where one of them holds NaN; of whole numbers and masks the share of
    other values counts.
    """
    worst = 0.0 if len(got) == len(want) else float("inf")
    for g, w in zip(got, want, strict=False):
        if g.shape != w.shape or (g.dtype.kind == "f") != (w.dtype.kind == "f"):
            return float("inf")
        if not w.size:
            continue
        off = _of_floats(g, w) if w.dtype.kind == "f" else float((g != w).mean())
        worst = worse(worst, off)
    return worst


def worse(a: float, b: float) -> float:
    """Return the larger of two differences; NaN is larger than all."""
    return a if a != a or b <= a else b


def _of_floats(got: NDArray[np.generic], want: NDArray[np.generic]) -> float:
    g, w = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(w)
    if np.isnan(g).any() or np.isnan(w).any():
        return float("nan")
    if not np.array_equal(g[~finite], w[~finite]):
        return float("inf")
    if not finite.any():
        return 0.0
    g, w = g[finite], w[finite]
    worst = float(np.abs(g - w).max())
    scale = max(float(w.max() - w.min()), _LEAST_SPREAD * float(np.abs(w).max()))
    return worst / scale if scale > 0.0 else (0.0 if worst == 0.0 else float("inf"))


@dataclass
class Agreement:
    """What two nets give at several sizes.

    Attributes:
        net: the captured net.
        model: gives the model's outputs for an input, none where nobody knows them, or raises for one it does not take.
        shape: of the input that the net was captured at.
        limits: the axes that the captured program keeps open, with the smallest and largest size that it knows of.
        guards: what the capture assumed about sizes beyond that.
        tolerance: see ``difference``.
    """

    net: fx.GraphModule
    model: Callable[[Tensor], Outputs]
    shape: Sizes
    limits: Mapping[int, tuple[int, int | None]]
    guards: Sequence[Guard] = ()
    tolerance: float = TOLERANCE
    seen: dict[Sizes, str | None] = field(default_factory=dict)

    def open_axes(self) -> tuple[tuple[int, ...], str]:
        """Return the axes on which both agree, and why others are fixed that the model itself leaves open ("" if none is).

        Raises:
            DisagreementError: they do not even agree at the size that the net was captured at.
        """
        for problem in (self._at(self.shape), self._compared(self.shape)):  # twice, for models that count their calls
            if problem is not None:
                raise DisagreementError(problem or "it gives other results while it is captured")
        wanted = tuple(axis for axis in (0, 2, 3) if axis < (4 if len(self.shape) == 4 else 1))
        why = {axis: "the capture fixed it" for axis in wanted if axis not in self.limits}
        for axis, (_, upper) in self.limits.items():
            if upper is not None and upper > _reach(self.shape[axis]):
                why[axis] = f"the captured net takes at most {upper}"  # too large to try, and a file has no bounds
        best: tuple[int, ...] = ()
        for axes in _choices(tuple(axis for axis in wanted if axis not in why)):
            found = self._objection(axes)
            if found is None:
                best = axes
                break
            for axis in axes:
                why.setdefault(axis, found)
        fixed: dict[str, list[str]] = {}
        for axis in wanted:
            if axis not in best and why[axis]:
                fixed.setdefault(why[axis], []).append(f"{_AXES[axis]} ({self.shape[axis]})")
        return best, "; ".join(f"{' and '.join(names)}: {reason}" for reason, names in fixed.items())

    def _objection(self, axes: tuple[int, ...]) -> str | None:
        """Return what is wrong at sizes that differ on these axes only, "" where the model takes no other, or None."""
        varied: set[int] = set()
        for sizes in (*probes(self.shape, axes, self.limits), *violations(self.guards, self.shape, axes)):
            if isinstance(sizes, Guard):
                return f"the captured net is the model only while {sizes.text}"  # a file cannot say so
            problem = self._at(sizes)
            if problem:
                return problem
            if problem is None:
                varied |= {axis for axis in axes if sizes[axis] != self.shape[axis]}
        return "" if set(axes) - varied else None

    def _at(self, sizes: Sizes) -> str | None:
        """Return None where both agree, "" where the model does not take the size, else what differs."""
        if sizes not in self.seen:
            self.seen[sizes] = self._compared(sizes)
        return self.seen[sizes]

    def _compared(self, sizes: Sizes) -> str | None:
        x = torch.rand(sizes, generator=torch.Generator().manual_seed(sum(sizes)))
        named = "x".join(str(size) for size in sizes)
        try:
            want = self.model(x.clone())
        except Exception:  # the model's own code raises whatever it likes for sizes that it does not take
            return ""
        try:
            with torch.no_grad():
                got = as_arrays(self.net(x.clone()))
        except Exception as error:  # an operator of torch may raise any class
            if not want:
                return ""
            reason = next(iter(str(error).strip().splitlines()), "")[:80]
            return f"at {named} the captured net fails ({reason})"
        off = difference(got, want)
        if off <= self.tolerance:
            return None
        if not want:
            return f"at {named} nothing is known of the model"
        return f"at {named} the captured net is {f'{off:.1%} off' if off < 10 else 'something else than'} the model"


def as_arrays(outputs: object, kept: Sequence[int] | None = None) -> list[NDArray[np.generic]]:
    """Return what a model or a net gives, however nested, as arrays of at most single precision.

    Args:
        outputs: tensors and numbers in containers.
        kept: which of them, in order; all by default.
    """
    leaves = torch.utils._pytree.tree_leaves(outputs)
    found = []
    for leaf in leaves if kept is None else [leaves[at] for at in kept]:
        tensor = torch.as_tensor(leaf).detach().cpu()
        found.append((tensor.float() if tensor.is_floating_point() else tensor).numpy())
    return found


def _reach(size: int) -> int:
    """Return the largest size that is tried."""
    return 4 * size + 64


def _choices(axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield all sets of axes, the largest first, sizes of the plane before the batch where it is one of them."""
    for n in range(len(axes), 0, -1):
        yield from sorted(itertools.combinations(axes, n), key=lambda chosen: 0 not in chosen)


def probes(shape: Sizes, axes: Sequence[int], limits: Mapping[int, tuple[int, int | None]] = {}) -> Iterator[Sizes]:
    """Yield sizes that differ from ``shape`` on ``axes`` only: the cheap and telling ones first."""
    batches = (1, 3) if 0 in axes else (shape[0],)
    plane = [axis for axis in axes if axis > 0]
    for batch in batches:
        yield (batch, *shape[1:])
    steps: list[Callable[[int], tuple[int, int]]] = [
        lambda n: (n + 1, n + 3), lambda n: (max(1, (3 * n) // 4 | 1), max(1, (2 * n) // 3)), lambda n: (n + 32, n + 64),
        lambda n: (n + 32, n), lambda n: (n, n + 32), lambda n: (n // 2, n // 2), lambda n: (n + 7, n - 1),
    ]  # fmt: skip
    for number, step in enumerate(steps if plane else []):
        changed = {axis: max(1, step(shape[axis])[axis - 2]) for axis in plane}
        yield tuple(changed.get(axis, size) if axis else batches[number % len(batches)] for axis, size in enumerate(shape))
    for axis in plane:
        lower, upper = limits.get(axis, (1, None))
        beyond = [lower - 1] * (lower > 2) + ([upper + 1] if upper is not None and upper <= _reach(shape[axis]) else [])
        for size in beyond:
            yield tuple(size if a == axis else n if a else batches[0] for a, n in enumerate(shape))

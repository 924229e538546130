"""JSON of files that anybody may have written: only values that every reader can compute with and write again."""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 100
LARGEST = 2**64


def parse_json(data: bytes | str) -> Any:
    """Return what JSON holds.

    Raises:
        ValueError: it is not JSON, a number is not finite or needs more than 64 bits, or it is nested deeper than 100 levels.
    """
    try:
        values = json.loads(data, parse_constant=_refused, parse_float=_finite, parse_int=_bounded)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [values]
    for _ in range(DEEPEST):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return values
    raise ValueError(_TOO_DEEP)


_TOO_DEEP = f"it is nested deeper than {DEEPEST} levels"


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.values()]
    return value if isinstance(value, list) else []


def _refused(number: str) -> float:
    raise ValueError(f"it holds {number[:40]}, which is no finite number")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refused(number)


def _bounded(number: str) -> int:
    if len(number) > len(str(LARGEST)) + 1 or abs(int(number)) > LARGEST:
        raise ValueError(f"it holds {number[:40]}, which needs more than 64 bits")
    return int(number)

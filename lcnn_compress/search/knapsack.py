"""Choose one option for each layer so that the errors add up to the least within a budget: a multiple-choice knapsack.

Dynamic programming over the layers (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11), on lists of states
that no other state beats in cost and error. Costs are not rounded, so a solution never exceeds the budget by rounding; it is
exact until a list holds ``max_states`` states, beyond that near-equal costs share a state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_STATES = 4000
Array = NDArray[np.float64]


def choose_options(
    costs: Sequence[Sequence[float]], errors: Sequence[Sequence[float]], budget: float, max_states: int = MAX_STATES
) -> list[int] | None:
    """Return the option of each layer whose errors have the least sum while their costs add up to at most ``budget``.

    Args:
        costs: cost of each option of each layer.
        errors: error of each option of each layer.
        budget: largest sum of costs.
        max_states: number of states that a list may hold.

    Returns:
        Indices, one for each layer; None where even the cheapest options exceed the budget.
    """
    options = [_worth_having(np.asarray(c, float), np.asarray(e, float)) for c, e in zip(costs, errors, strict=True)]
    cheapest = [float(np.min(costs[i])) for i in range(len(options))]
    cost, error = np.zeros(1), np.zeros(1)
    # Each state has its origin, a state of the step before, and its option.
    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for i, chosen in enumerate(options):
        room = budget - sum(cheapest[i + 1 :])
        total = (cost[:, None] + np.asarray(costs[i], float)[chosen]).ravel()
        misses = (error[:, None] + np.asarray(errors[i], float)[chosen]).ravel()
        fits = np.flatnonzero(total <= room)
        kept = fits[_worth_having(total[fits], misses[fits])]
        if len(kept) > max_states:
            kept = kept[_thinned(total[kept], max_states)]
        if len(kept) == 0:
            return None
        steps.append((kept // len(chosen), chosen[kept % len(chosen)]))
        cost, error = total[kept], misses[kept]
    answer: list[int] = []
    state = len(cost) - 1  # states are in order of falling error
    for origin, option in reversed(steps):
        answer.append(int(option[state]))
        state = int(origin[state])
    return answer[::-1]


def _worth_having(cost: Array, error: Array) -> NDArray[np.int64]:
    """Return the indices that no other index beats in both, by rising cost and falling error."""
    order = np.lexsort((error, cost))
    sorted_error = error[order]
    best_before = np.minimum.accumulate(np.concatenate([[np.inf], sorted_error[:-1]]))
    return order[sorted_error < best_before]


def _thinned(cost: Array, max_states: int) -> NDArray[np.int64]:
    """Return the last index of each of ``max_states`` equal intervals of rising costs: the one with the least error."""
    interval = ((cost - cost[0]) * (max_states / max(cost[-1] - cost[0], 1e-300))).astype(np.int64)
    return np.flatnonzero(np.diff(interval, append=interval[-1] + 1))

"""Allocation against all combinations of small random instances, and its limits."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from lcnn_compress.search.knapsack import choose_options


def instance(seed: int) -> tuple[list[list[float]], list[list[float]], float]:
    rng = np.random.default_rng(seed)
    n_options = rng.integers(1, 6, 5)
    # Whole numbers, so that equal sums are equal and a budget can be met exactly.
    costs = [rng.integers(0, 20, n).astype(float).tolist() for n in n_options]
    errors = [rng.integers(0, 50, n).astype(float).tolist() for n in n_options]
    return costs, errors, float(rng.integers(5, 60))


def total(values: list[list[float]], answer: list[int] | tuple[int, ...]) -> float:
    return sum(options[i] for options, i in zip(values, answer, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_no_combination_is_better(seed: int) -> None:
    costs, errors, budget = instance(seed)
    fitting = [c for c in product(*(range(len(o)) for o in costs)) if total(costs, c) <= budget]
    answer = choose_options(costs, errors, budget)
    if not fitting:
        assert answer is None
        return
    assert answer is not None
    assert total(costs, answer) <= budget
    assert total(errors, answer) == min(total(errors, c) for c in fitting)


def test_both_cases_occur() -> None:
    answers = [choose_options(*instance(seed)) for seed in range(60)]
    assert 0 < answers.count(None) < 30


def test_shared_states_stay_inside_the_budget_and_near_the_best() -> None:
    rng = np.random.default_rng(0)
    costs = np.sort(rng.random((8, 12)))
    errors = np.sort(rng.random((8, 12)))[:, ::-1]
    exact = choose_options(costs.tolist(), errors.tolist(), 3.0)
    rough = choose_options(costs.tolist(), errors.tolist(), 3.0, max_states=200)
    assert exact is not None
    assert rough is not None
    sums = [(total(costs.tolist(), a), total(errors.tolist(), a)) for a in (exact, rough)]
    assert max(cost for cost, _ in sums) <= 3.0
    # A state may stand for one that is cheaper by an interval, 3.0 / 200, at each of 8 layers: compare with that less to spend.
    tighter = choose_options(costs.tolist(), errors.tolist(), 3.0 - 8 * 3.0 / 200)
    assert tighter is not None
    assert sums[0][1] <= sums[1][1] <= total(errors.tolist(), tighter)

"""Statistics of repeated measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True)
class Latency:
    """Percentiles (interpolated linearly) and minimum of the ms that a batch takes, and images per second at the median."""

    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p99: float
    latency_ms_min: float
    throughput_per_s: float


def latency_statistics(latency_ms: Iterable[float], batch: int) -> Latency:
    """Return the statistics of the ms of runs of ``batch`` images each."""
    values = np.asarray(list(latency_ms), np.float64)
    p50, p90, p99 = (float(p) for p in np.percentile(values, (50, 90, 99)))
    return Latency(p50, p90, p99, float(values.min()), 1000 * batch / p50)


def ratio_interval(dense_ms: Sequence[float], lookup_ms: Sequence[float], seed: int) -> tuple[float, float]:
    """Return the 95 % interval of median(dense) / median(lookup) by a bootstrap over pairs of runs (Efron 1979)."""
    pairs = np.array([dense_ms, lookup_ms], np.float64)  # (2, n)
    chosen = np.random.default_rng(seed).integers(0, pairs.shape[1], (BOOTSTRAP_SAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, chosen], axis=2)  # (2, samples)
    low, high = np.percentile(medians[0] / medians[1], (2.5, 97.5))
    return float(low), float(high)

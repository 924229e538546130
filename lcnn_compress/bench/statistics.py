"""Statistics of repeated measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

BOOTSTRAP_SAMPLES = 1000


def latency_statistics(latency_ms: Iterable[float], batch: int) -> dict[str, float]:
    """Return percentiles (interpolated linearly), the minimum and images per second at the median."""
    values = np.asarray(list(latency_ms), np.float64)
    p50, p90, p99 = (float(p) for p in np.percentile(values, (50, 90, 99)))
    return {
        "latency_ms_p50": p50, "latency_ms_p90": p90, "latency_ms_p99": p99, "latency_ms_min": float(values.min()),
        "throughput_per_s": 1000 * batch / p50,
    }  # fmt: skip


def ratio_interval(dense_ms: Sequence[float], lookup_ms: Sequence[float], seed: int) -> list[float]:
    """Return the 95 % interval of median(dense) / median(lookup) by a bootstrap over pairs of runs (Efron 1979)."""
    pairs = np.array([dense_ms, lookup_ms], np.float64)  # (2, n)
    chosen = np.random.default_rng(seed).integers(0, pairs.shape[1], (BOOTSTRAP_SAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, chosen], axis=2)  # (2, samples)
    return [float(bound) for bound in np.percentile(medians[0] / medians[1], (2.5, 97.5))]

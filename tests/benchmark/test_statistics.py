"""Statistics of repeated runs against numbers worked out by hand."""

from __future__ import annotations

from lcnn_compress.benchmark.statistics import Latency, latency_statistics, ratio_interval


def test_latency_statistics_of_fixed_numbers() -> None:
    # 0..100: percentile p is p, also with interpolation; 4 images in 50 ms are 80 in a second.
    assert latency_statistics(range(101), batch=4) == Latency(
        latency_ms_p50=50.0, latency_ms_p90=90.0, latency_ms_p99=99.0, latency_ms_min=0.0, throughput_per_s=80.0
    )  # fmt: skip


def test_the_interval_of_a_constant_ratio_is_that_ratio() -> None:
    assert ratio_interval([6.0] * 5, [2.0] * 5, seed=0) == (3.0, 3.0)


def test_the_interval_keeps_pairs_together_and_follows_the_seed() -> None:
    dense, lookup = [4.0, 40.0, 400.0], [2.0, 20.0, 200.0]
    assert ratio_interval(dense, lookup, seed=0) == (2.0, 2.0)  # resampled apart, the medians would seldom match
    mixed = [4.0, 5.0, 6.0, 7.0, 8.0], [2.0, 2.0, 2.0, 2.0, 2.0]
    low, high = ratio_interval(*mixed, seed=1)
    assert 2.0 <= low < 3.0 < high <= 4.0
    assert ratio_interval(*mixed, seed=1) == (low, high)

"""The measurements as a value: a test gives its own, and what it leaves alone is the real thing."""

from __future__ import annotations

from lcnn_compress.benchmark.gain import measure_gain, time_ratio
from lcnn_compress.benchmark.layer_cost import time_forms
from lcnn_compress.benchmark.profile import NetTimes, net_times
from lcnn_compress.benchmark.timers import Timers


def test_every_measurement_is_the_real_one_unless_it_is_given() -> None:
    real = Timers()
    assert (real.net_times, real.time_forms, real.measure_gain, real.time_ratio) == (
        net_times, time_forms, measure_gain, time_ratio,
    )  # fmt: skip
    written = Timers(net_times=lambda model, threads: NetTimes(threads * 7.0, {model: 3.0}))
    assert written.net_times("conv", threads=2) == NetTimes(14.0, {"conv": 3.0})
    assert written.time_forms is time_forms

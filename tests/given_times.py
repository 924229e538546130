"""A machine whose times are written down, and what the layers of the small net can become on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cases import small_net

from lcnn_compress import api
from lcnn_compress.benchmark.gain import Gain
from lcnn_compress.benchmark.layer_forms import ORDINARY, Form, LookupForm, NarrowForm, Shape
from lcnn_compress.benchmark.profile import OTHER, NetTimes
from lcnn_compress.benchmark.timers import Timers
from lcnn_compress.compression.settings import CompressSettings, PlanSettings, TrainingData
from lcnn_compress.net.layers import Captured
from lcnn_compress.search.problem import Problem, prepare

SHAPE = (1, 3, 16, 16)
SETTINGS = CompressSettings(PlanSettings(), init="kmeans", measure=False, arithmetic="float32")
DENSE_MS = {"stem": 0.1, "conv1": 1.0, "conv2": 2.0, "fc": 0.1, OTHER: 0.3}  # on a quiet machine: this one is twice as slow
BUSY_MS = 2 * sum(DENSE_MS.values())


def form_ms(form: Form) -> float:
    """What a form of any shape takes alone: rows and lookups have a price, a lower one in narrow numbers."""
    if isinstance(form, NarrowForm):
        slower = 1.5 if form.arithmetic == "bfloat16" else 1.0
        return slower * (0.01 + form.rows / 1000 if form.rows else 0.02)
    if isinstance(form, LookupForm):
        return 0.05 + form.rows / 100 + form.nonzeros / 3000
    return 0.04 if form is ORDINARY else 0.002


def time_forms(wanted: Mapping[Shape, Collection[Form]], **_: Any) -> dict[Shape, dict[Form, float]]:
    return {shape: {form: form_ms(form) for form in forms} for shape, forms in wanted.items()}


def nothing_is_measured(*_: Any, **__: Any) -> Any:
    raise AssertionError("measured")


def timers(gain: Gain | None = None) -> Timers:
    """Timers by which every built net gains the same; without a gain no built net may be measured."""
    return Timers(
        net_times=lambda *_, **__: NetTimes(BUSY_MS, dict(DENSE_MS)),
        time_forms=time_forms,
        measure_gain=nothing_is_measured if gain is None else lambda *_, **__: gain,
        time_ratio=nothing_is_measured,
    )


def captured() -> Captured:
    return Captured.of(api.open_model(small_net(), SHAPE).net, SHAPE)


def small_problem(
    data: TrainingData = TrainingData(), settings: CompressSettings = SETTINGS, given: Timers | None = None
) -> Problem:
    return prepare(captured(), settings, data.calibration, timers=given or timers())

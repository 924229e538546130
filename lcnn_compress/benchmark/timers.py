"""Every measurement a compression or a search asks for, as one value that a test can replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lcnn_compress.benchmark import gain, layer_cost, profile
from lcnn_compress.benchmark.layer_forms import Form, Shape


@dataclass(frozen=True)
class Timers:
    """The measurements that decide what a net becomes; each is by default the function of that name, which times this machine.

    What decides by times takes a ``Timers`` and calls its fields with the arguments of those functions. A test hands over
    functions that return times it has written down, and leaves the others alone:

        Timers(net_times=lambda model, threads: NetTimes(7.0, {"conv": 3.0, OTHER: 0.5}))

    ``net_times`` (``benchmark.profile``): the dense net, whole and layer by layer.
    ``time_forms`` (``benchmark.layer_cost``): what one layer would take in each form.
    ``measure_gain`` (``benchmark.gain``): two forms of a net in turn, whole and layer by layer.
    ``time_ratio`` (``benchmark.gain``): how many times faster the second of two files is.
    """

    net_times: Callable[..., profile.NetTimes] = profile.net_times
    time_forms: Callable[..., dict[Shape, dict[Form, float]]] = layer_cost.time_forms
    measure_gain: Callable[..., gain.Gain] = gain.measure_gain
    time_ratio: Callable[..., float] = gain.time_ratio

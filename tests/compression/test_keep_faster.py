"""What is measured and kept: lookup layers that make the net faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from cases import small_net
from command_line import needs_library

from lcnn_compress import api
from lcnn_compress.benchmark.gain import Gain
from lcnn_compress.benchmark.timers import Timers
from lcnn_compress.compression.keep_faster import Timing
from lcnn_compress.compression.make import make_lookups
from lcnn_compress.compression.plan import PlanSettings, plan_layers
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.net.edit import with_lookups
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.operators.lookup_conv import OP_TYPE
from lcnn_compress.progress import Progress, silent


@needs_library
def test_rounding_that_many_layers_add_up_is_no_failed_export() -> None:
    torch.manual_seed(0)
    blocks = [(torch.nn.Conv2d(16, 16, 3), torch.nn.InstanceNorm2d(16), torch.nn.ReLU()) for _ in range(8)]
    source = api.open_model(torch.nn.Sequential(*(module for block in blocks for module in block)), (1, 16, 24, 24))
    settings = CompressSettings(PlanSettings("4", 2, keep_slow=True))
    artefact = api.compress(source, settings=settings)
    assert {row.kind for row in artefact.report.layers} == {"lookup"}


@needs_library
@pytest.mark.parametrize(
    ("net_ms", "kept"),
    [
        ({("conv1", "conv2"): 1.1, (): 1.0}, ()),  # without both it is faster
        ({("conv1", "conv2"): 0.9, (): 1.0, ("conv2",): 0.8}, ("conv2",)),  # without the slowest alone
        ({("conv1", "conv2"): 0.8, (): 1.0, ("conv2",): 0.9, ("conv1",): 0.85}, ("conv1", "conv2")),  # with both
    ],
)
def test_layers_not_faster_alone_stay_where_the_net_is_faster_with_them(
    net_ms: dict[tuple[str, ...], float], kept: tuple[str, ...]
) -> None:
    def lookup_layers(path: Path) -> tuple[str, ...]:
        return tuple(sorted(node.name for node in onnx.load(path).graph.node if node.op_type == OP_TYPE))

    def gain(dense: Path, lookup: Path, *, progress: Progress, **_: Any) -> Gain:
        assert lookup_layers(dense) == ()
        progress("timing layers", 1, 1)
        return Gain({"conv1": (0.1, 0.2), "conv2": (0.1, 0.11)}, 1.0, net_ms[lookup_layers(lookup)])

    def ratio(first: Path, second: Path, **_: Any) -> float:
        return net_ms[lookup_layers(first)] / net_ms[lookup_layers(second)]

    shape = (1, 3, 16, 16)
    dense, settings = api.open_model(small_net(), shape).net, CompressSettings(PlanSettings("8", 2))
    found = layers(dense, torch.zeros(shape))
    plans = plan_layers(found, settings.plan)
    timing = Timing(shape, settings, None, Timers(measure_gain=gain, time_ratio=ratio))
    timing.export(with_lookups(Captured.of(dense, shape), make_lookups(found, plans, settings, {})), silent)
    decided = timing.revert_slow_layers(plans, False, silent)
    assert tuple(plan.name for plan in decided if plan.kind == "lookup") == kept
    assert timing.times.lookup_ms == net_ms[kept]
    for plan in decided:
        if plan.name in ("conv1", "conv2"):
            text = f"measured: lookup {0.2 if plan.name == 'conv1' else 0.11:.3f} ms, dense 0.100 ms"
            said = plan.note if plan.name in kept else plan.reason
            assert said == text + (", but the net is faster with it" if plan.name in kept else "")

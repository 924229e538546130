"""The time of every layer is found, whatever ONNX Runtime made of the graph. Never a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import needs_library
from small_onnx import LAYERS, write

from lcnn_compress.benchmark.profile import (
    OTHER,
    Profile,
    Rounds,
    layer_times,
    least_medians,
    net_times,
)
from lcnn_compress.errors import FileError


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("lookup", [False, True])
def test_every_layer_has_a_time_without_the_library(lookup: bool, fused: bool, tmp_path: Path) -> None:
    times = layer_times(write(tmp_path, lookup=lookup, fused=fused), rounds=Rounds(1, 1, 2), native=False)
    assert set(times) == {*LAYERS, OTHER}
    assert all(times[name] > 0 for name in LAYERS)


@needs_library
@pytest.mark.parametrize("fused", [True, False])
def test_every_layer_has_a_time_with_the_library(fused: bool, tmp_path: Path) -> None:
    profile = Profile(write(tmp_path, lookup=True, fused=fused), 1, 0, tmp_path)
    profile.run(2)
    runs = profile.finish()
    assert [set(run) for run in runs] == [{*LAYERS, OTHER}] * 2
    assert all(run[name] > 0 for run in runs for name in LAYERS)


def test_a_net_is_timed_as_a_whole_and_layer_by_layer(tmp_path: Path) -> None:
    times = net_times(write(tmp_path, lookup=False))
    assert set(times.layers) == {*LAYERS, OTHER}
    assert times.whole_ms > 0


def test_a_slow_net_runs_less_often_but_several_times() -> None:
    rounds = [Rounds(5, 3, 40), Rounds(5, 3, 20), Rounds(5, 3, 4), Rounds(3, 2, 2), Rounds(3, 1, 1)]
    assert [Rounds.of(ms) for ms in (0.0, 20.0, 100.0, 200.0, 1e4)] == rounds  # of 400 ms where that is possible


def test_the_least_median_of_the_rounds_counts() -> None:
    warmup = [{"a": 1000.0}] * 2
    runs = [*warmup, *({"a": ms} for ms in (1.0, 5.0, 9.0)), *warmup, *({"a": ms} for ms in (4.0, 3.0, 8.0))]
    assert least_medians(runs, Rounds(2, 2, 3)) == {"a": 4.0}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"gone.onnx: cannot be read"):
        layer_times(tmp_path / "gone.onnx")

"""Two files compared: counts and bytes against numbers worked out by hand, ratios, errors. Never a time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from small_onnx import (
    DENSE_BYTES,
    DENSE_MACS,
    FC_BYTES,
    FC_MACS,
    LOOKUP_BYTES,
    LOOKUP_MACS,
    STEM_BYTES,
    STEM_MACS,
    NetWriter,
    write,
)

from lcnn_compress import runtime
from lcnn_compress.benchmark.compare import (
    BenchSettings,
    BestOther,
    Comparison,
    FileSize,
    FormFigures,
    Timed,
    compare,
    file_size,
)
from lcnn_compress.benchmark.rivals import KINDS
from lcnn_compress.benchmark.timing import latency_statistics
from lcnn_compress.errors import ArtefactError, SettingsError

SHARED = {"macs_ratio", "realised_fraction"}
NO_FIGURES: dict[str, Any] = {"peak_rss_bytes": 0, "speedup_p50": 1.0, "speedup_ci95": (1.0, 1.0)}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("nets")
    settings = BenchSettings(batches=(1, 3), iterations=3, warmup=1)
    return compare(write(folder, lookup=False), write(folder, lookup=True), settings)


def test_the_object_has_the_keys_and_types_of_the_contract(comparison: Comparison) -> None:
    compared = json.loads(json.dumps(asdict(comparison)))
    assert compared["command"] == "bench"
    facts = {"command", "isa", "onnxruntime", "runs", "layers", "other", "input_shape", "machine", "date", "rivals"}
    assert set(compared) == facts | {"rival_images"}
    assert compared["onnxruntime"] == runtime.onnxruntime_version()
    assert compared["isa"] == runtime.isa()
    for run in compared["runs"]:
        speeds = {"speedup_p50", "speedup_ci95", "macs_ratio", "realised_fraction"}
        more = {"max_abs_diff", "baseline_rss_bytes", "rivals", "best_other"}
        assert set(run) == {"batch", "threads", "dense", "lookup", *speeds, *more}
        for net in ("dense", "lookup"):
            latency = [f"latency_ms_{key}" for key in ("min", "p50", "p90", "p99")]
            assert set(run[net]) == {*latency, "throughput_per_s", "peak_rss_bytes", "file_bytes", "weight_bytes", "macs"}
            assert sorted(run[net][key] for key in latency) == [run[net][key] for key in latency]
            assert isinstance(run[net]["peak_rss_bytes"], int)
            assert run[net]["peak_rss_bytes"] > run[net]["file_bytes"]
        for row in run["rivals"]:
            assert set(row) == {"name", *latency, "throughput_per_s", "peak_rss_bytes", "file_bytes", *speeds - SHARED}
        for ratio in (run, run["best_other"], *run["rivals"]):
            low, high = ratio["speedup_ci95"]
            assert 0 < low <= high
    assert {tuple(row) for row in compared["rivals"]} == {("name", "engine", "precision", "output_error", "problem")}
    for layer in compared["layers"]:
        assert list(layer) == ["name", "kind", "reason", "macs_dense", "macs", "dense_ms", "lookup_ms"]
        assert isinstance(layer["dense_ms"], float)
        assert isinstance(layer["lookup_ms"], float)
    assert set(compared["other"]) == {"dense_ms", "lookup_ms"}
    assert compared["input_shape"] == [1, 3, 8, 8]


def test_macs_and_bytes_are_those_worked_out_by_hand(comparison: Comparison) -> None:
    dense, lookup = STEM_MACS + 2 * DENSE_MACS + FC_MACS, STEM_MACS + 2 * LOOKUP_MACS + FC_MACS
    assert (dense, lookup) == (322_720, 40_096)
    weights = STEM_BYTES + 2 * DENSE_BYTES + FC_BYTES, STEM_BYTES + 2 * LOOKUP_BYTES + FC_BYTES + 4  # one zero: no residual
    assert weights == (21_032, 3_308)
    assert [(run.batch, run.threads) for run in comparison.runs] == [(1, 1), (3, 1)]
    for run in comparison.runs:
        assert (run.dense.macs, run.lookup.macs) == (run.batch * dense, run.batch * lookup)
        assert (run.dense.weight_bytes, run.lookup.weight_bytes) == weights
    assert [layer.macs for layer in comparison.layers] == [STEM_MACS, LOOKUP_MACS, LOOKUP_MACS, FC_MACS]


def test_ratios_are_dense_over_lookup(comparison: Comparison) -> None:
    for run in comparison.runs:
        assert run.speedup_p50 == run.dense.latency_ms_p50 / run.lookup.latency_ms_p50
        assert run.macs_ratio == 322_720 / 40_096
        assert run.realised_fraction == run.speedup_p50 / run.macs_ratio
        assert run.dense.throughput_per_s == 1000 * run.batch / run.dense.latency_ms_p50


def test_every_rival_that_is_here_is_timed_at_every_setting(comparison: Comparison) -> None:
    assert [row.engine for row in comparison.rivals] == [kind.engine for kind in KINDS]
    right = [row.name for row in comparison.rivals if row.problem is None]
    assert right[0] == "ONNX Runtime int8"
    assert comparison.rival_images == "4 random images"
    for run in comparison.runs:
        assert [row.name for row in run.rivals] == right
        for row in run.rivals:
            assert row.speedup_p50 == run.dense.latency_ms_p50 / row.latency_ms_p50
            assert row.throughput_per_s == 1000 * run.batch / row.latency_ms_p50
            assert row.peak_rss_bytes > 1_000_000


def test_the_best_other_form_is_the_fastest_but_lookup(comparison: Comparison) -> None:
    for run in comparison.runs:
        times = {"dense": run.dense.latency_ms_p50} | {row.name: row.latency_ms_p50 for row in run.rivals}
        assert run.best_other.name == min(times, key=lambda name: times[name])
        assert run.best_other.speedup_p50 == min(times.values()) / run.lookup.latency_ms_p50


def test_ratios_and_the_best_other_of_given_times() -> None:
    ms = {"dense": [4.0, 4.0], "lookup": [2.0, 2.0], "int8": [1.0, 1.0], "slow": [8.0, 8.0]}
    figures = {name: FormFigures(**vars(latency_statistics(times, 1)), **NO_FIGURES) for name, times in ms.items()}
    timed = Timed(figures, ms, dict.fromkeys(ms, 0.0), seed=0)
    assert timed.faster("lookup", "dense") == (2.0, (2.0, 2.0))
    assert timed.best_other("lookup", ("dense", "int8", "slow")) == BestOther("int8", 0.5, (0.5, 0.5))
    assert timed.best_other("lookup", ("dense", "slow")) == BestOther("dense", 2.0, (2.0, 2.0))


def test_without_rivals_dense_is_the_best_other_and_no_images_are_asked_for(tmp_path: Path) -> None:
    def images(shape: tuple[int, ...]) -> NoReturn:
        raise AssertionError(shape)

    settings = BenchSettings(iterations=2, warmup=0, per_layer=False, rivals=False)
    found = compare(write(tmp_path, lookup=False), write(tmp_path, lookup=True), settings, images)
    (run,) = found.runs
    assert (found.rivals, run.rivals) == ((), ())
    assert run.best_other == BestOther("dense", run.speedup_p50, run.speedup_ci95)


def test_images_given_are_those_rivals_are_held_against(tmp_path: Path) -> None:
    asked = []

    def images(shape: tuple[int, ...]) -> np.ndarray:
        asked.append(shape)
        return np.ones((3, *shape[1:]), np.float32)

    settings = BenchSettings(iterations=2, warmup=0, per_layer=False)
    found = compare(write(tmp_path, lookup=False), write(tmp_path, lookup=True), settings, images)
    assert (asked, found.rival_images) == ([(1, 3, 8, 8)], "3 images given")


def test_external_weights_count_as_file_bytes(tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    model = NetWriter(lookup=False, fused=True).model("n")
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert file_size(path) == FileSize(path.stat().st_size + (tmp_path / "weights.bin").stat().st_size, 21_032)


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    dense, lookup = write(tmp_path, lookup=False, batch=1), write(tmp_path, lookup=True)
    settings = BenchSettings(batches=(4,), iterations=1, per_layer=False)
    with pytest.raises(SettingsError, match=r"^dense1.onnx: batch is 4, but the file fixes it to 1; choose that batch"):
        compare(dense, lookup, settings)


def test_a_file_without_our_metadata_is_refused(tmp_path: Path) -> None:
    dense = write(tmp_path, lookup=False)
    model = onnx.load(dense)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ArtefactError, match=r"^bare.onnx: has no metadata 'lcnn.layers' and 'lcnn.input_shape'; write it"):
        compare(dense, tmp_path / "bare.onnx")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    dense = write(tmp_path, lookup=False)
    (tmp_path / "half.onnx").write_bytes(dense.read_bytes()[:500])
    with pytest.raises(ArtefactError, match=r"^half.onnx: ONNX Runtime"):
        compare(dense, tmp_path / "half.onnx")

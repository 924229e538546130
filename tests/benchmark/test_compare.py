"""Two files compared: counts and bytes against numbers worked out by hand, ratios, errors. Never a time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

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
from lcnn_compress.benchmark.compare import BenchSettings, Comparison, FileSize, compare, file_size
from lcnn_compress.errors import ArtefactError, SettingsError


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("nets")
    settings = BenchSettings(batches=(1, 3), iterations=3, warmup=1)
    return compare(write(folder, lookup=False), write(folder, lookup=True), settings)


def test_the_object_has_the_keys_and_types_of_the_contract(comparison: Comparison) -> None:
    compared = json.loads(json.dumps(asdict(comparison)))
    assert compared["command"] == "bench"
    facts = {"command", "isa", "onnxruntime", "runs", "layers", "other", "input_shape", "machine", "date"}
    assert set(compared) == facts
    assert compared["onnxruntime"] == runtime.onnxruntime_version()
    assert compared["isa"] == runtime.isa()
    for run in compared["runs"]:
        speeds = {"speedup_p50", "speedup_ci95", "macs_ratio", "realised_fraction"}
        assert set(run) == {"batch", "threads", "dense", "lookup", *speeds, "max_abs_diff", "baseline_rss_bytes"}
        for net in ("dense", "lookup"):
            latency = [f"latency_ms_{key}" for key in ("min", "p50", "p90", "p99")]
            assert set(run[net]) == {*latency, "throughput_per_s", "peak_rss_bytes", "file_bytes", "weight_bytes", "macs"}
            assert sorted(run[net][key] for key in latency) == [run[net][key] for key in latency]
            assert isinstance(run[net]["peak_rss_bytes"], int)
            assert run[net]["peak_rss_bytes"] > run[net]["file_bytes"]
        low, high = run["speedup_ci95"]
        assert 0 < low <= high
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

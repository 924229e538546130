"""The suite of synthetic patterns: MACs against numbers worked out by hand, patterns, rows, the other engines. Never a time."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cases import small_net
from command_line import lcnn, lcnn_json

from lcnn_compress import runtime
from lcnn_compress.bench import engines, suite
from lcnn_compress.bench.compare import BenchSettings
from lcnn_compress.bench.suite import PAPER, Coding, Net, Setting, code_layers, run_suite, synthetic_lookup
from lcnn_compress.cli import render
from lcnn_compress.errors import SettingsError
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.machine import int8_extensions
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import fold_batch_norms
from lcnn_compress.net.layers import Layer, layers

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Net("small", small_net, (1, 3, 16, 16), wide_macs=10**6)
ONE = Setting(SMALL, "one", "conv*=4", published_ratio=7.5, note="a note")
QUARTER = Setting(SMALL, "4x", "conv*=0.25", macs_ratio=4)
# stem 3>16, conv1 16>32 with stride 2, conv2 32>32, all 3x3, on 16x16 pixels, and fc 32>10.
STEM, CONV1, CONV2, FC = 3 * 16 * 9 * 256, 16 * 32 * 9 * 64, 32 * 32 * 9 * 64, 320
DENSE_MACS = 995_648
STAGE1, STAGE2 = 4 * 16 * 256 + 4 * 32 * 64, 2 * 32 * 9 * 64  # four rows; one lookup for each of 32 * 9 positions


@lru_cache
def found(net: Net) -> list[Layer]:
    captured = capture(net.factory(), torch.zeros(net.input_shape))
    fold_batch_norms(captured)
    return layers(captured, torch.zeros(net.input_shape))


def coded(net: str, name: str) -> list[Coding]:
    setting = next(setting for setting in PAPER if (setting.net.name, setting.name) == (net, name))
    return code_layers(found(setting.net), setting)


def macs(codings: list[Coding]) -> int:
    return sum(coding.macs for coding in codings)


def dense(codings: list[Coding]) -> list[str]:
    return [coding.layer.name for coding in codings if not coding.size]


def test_alexnet_fast_has_the_macs_worked_out_by_hand() -> None:
    codings = coded("alexnet", "LCNN-fast")
    rows = [(c.macs_stage1, c.nonzeros, c.macs_stage2) for c in codings]
    assert rows == [
        (3 * 3 * 224 * 224, 1928, 1928 * 55 * 55),  # 0.083 * 3 * 64 * 11 * 11 = 1928.3
        (30 * 64 * 27 * 27, 4896, 4896 * 27 * 27),  # 0.034 * 30 * 192 * 5 * 5
        (30 * 192 * 13 * 13, 829, 829 * 13 * 13),
        (30 * 384 * 13 * 13, 899, 899 * 13 * 13),
        (30 * 256 * 13 * 13, 1866, 1866 * 13 * 13),
        (512 * 256 * 6 * 6, 75_497, 75_497),  # a 6x6 convolution on 256 channels
        (512 * 4096, 4194, 4194),
        (512 * 4096, 1024, 1024),
    ]
    # Without the classifier: 12.9 and 10.1 million, the published net with its dense classifier.
    assert sum(c.macs_stage1 for c in codings[:-1]) == 12_885_248
    assert sum(c.macs_stage2 for c in codings[:-1]) == 10_088_461
    assert (macs(codings), sum(c.layer.dense_macs for c in codings)) == (25_071_885, 714_188_480)


def test_alexnet_accurate_keeps_a_classifier_dense_that_would_not_pay() -> None:
    codings = coded("alexnet", "LCNN-accurate")
    assert [c.size for c in codings] == [3, 500, 500, 500, 500, 1024, 1024, 0]
    assert codings[-1].reason == "lookup would take no fewer MACs"  # 1024 * 4096 for the dictionary alone, 1000 * 4096 dense
    assert codings[-1].macs == 1000 * 4096


def test_resnet18_fast_has_one_lookup_for_each_position() -> None:
    codings = coded("resnet18", "LCNN-fast")
    shortcuts = [f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)]
    assert dense(codings) == ["fc"]
    assert all(c.nonzeros == c.layer.out_channels * c.layer.geometry.taps for c in codings if c.size)
    assert sum(c.macs_stage1 for c in codings) == 61_465_600 + 3 * 32 * 64 * 28 * 28
    assert macs(codings) == 119_855_616
    # Dictionaries of m / 2 rows, at the pixels that the stride leaves.
    assert [c.macs_stage1 for c in codings if c.layer.name in shortcuts] == [32 * 64 * 28 * 28] * 3


def test_demosaicnet_takes_the_dictionaries_of_64_channels() -> None:
    codings = {c.layer.name: c for c in coded("demosaicnet", "LCNN-fast")}
    half = 128 * 128
    trunk = [codings[f"main_processor.conv{i}"] for i in range(1, 16)]
    assert [c.size for c in trunk] == [16] * 15
    assert [c.macs_stage1 for c in trunk] == [16 * 4 * half, *[16 * 64 * half] * 14]
    assert [c.nonzeros for c in trunk] == [64 * 9] * 14 + [128 * 9]
    rest = ["main_processor.pack_mosaic", "residual_predictor", "fullres_processor.post_conv", "fullres_processor.output"]
    assert dense([*codings.values()]) == rest


@pytest.mark.parametrize("ratio", [2, 4, 10])
def test_resnet18_meets_the_ratio_asked_for(ratio: int) -> None:
    codings = coded("resnet18", f"{ratio}x")
    assert macs(codings) == pytest.approx(1_814_073_344 / ratio, rel=1e-4)
    shares = [c.nonzeros / (c.size * c.layer.out_channels * c.layer.geometry.taps) for c in codings if c.size]
    assert max(shares) - min(shares) < 1e-3  # one density for all, but for whole non-zeros


def test_a_density_takes_what_the_other_layers_cost_into_account() -> None:
    codings = code_layers(found(SMALL), QUARTER)
    assert [c.size for c in codings] == [0, 4, 8, 0]
    # (995,648 / 4 - stem - fc - stage 1) / (stage 2 at density 1)
    density = (DENSE_MACS / 4 - STEM - FC - 4 * 16 * 256 - 8 * 32 * 64) / (4 * 288 * 64 + 8 * 288 * 64)
    assert [c.nonzeros for c in codings] == [0, round(density * 4 * 288), round(density * 8 * 288), 0]


@pytest.mark.parametrize(("ratio", "density"), [(2.0, "1.601"), (9.0, "-0.149")])
def test_a_ratio_no_density_gives_is_refused(ratio: float, density: str) -> None:
    setting = Setting(SMALL, "odd", "conv*=0.25", macs_ratio=ratio)
    with pytest.raises(SettingsError, match=rf"^small odd: {ratio:g}x fewer MACs would take a density of {density};"):
        code_layers(found(SMALL), setting)


def test_a_synthetic_lookup_has_the_stated_pattern_and_follows_the_seed() -> None:
    coding = code_layers(found(SMALL), QUARTER)[2]
    lookups = [synthetic_lookup(coding, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    kernel = lookups[0].sparse_kernel
    assert lookups[0].dictionary.shape == (8, 32)
    assert kernel.shape == (32, 8, 3, 3)
    assert lookups[0].n_nonzeros == int(kernel.count_nonzero()) == coding.nonzeros
    assert torch.equal(kernel, kernel.half().float())
    assert lookups[0].macs((8, 8)) == coding.macs
    assert torch.equal(kernel, lookups[1].sparse_kernel)
    assert not torch.equal(kernel, lookups[2].sparse_kernel)


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return run_suite(BenchSettings(batches=(1, 2), iterations=2, warmup=1), (ONE, QUARTER))


def test_every_form_has_a_row_with_its_macs(measured: dict[str, Any]) -> None:
    assert measured == json.loads(json.dumps(measured))
    assert (measured["command"], measured["suite"], measured["isa"]) == ("bench", "paper", runtime.isa())
    forms = ["dense", "int8", *(["openvino"] if engines.has_openvino() else []), "lookup", "lookup"]
    assert [row["form"] for row in measured["rows"]] == forms * 2
    assert [row["batch"] for row in measured["rows"]] == [1] * len(forms) + [2] * len(forms)
    for row in measured["rows"]:
        low, high = row["speedup_ci95"]
        assert 0 < low <= high
        assert row["peak_rss_bytes"] > row["file_bytes"] > 0
        assert row["latency_ms_p50"] > 0
    one = next(row for row in measured["rows"] if row["setting"] == "one")
    assert (one["macs_dense"], one["macs_stage1"], one["macs_stage2"]) == (DENSE_MACS, STAGE1, STAGE2)
    assert one["macs"] == STEM + FC + STAGE1 + STAGE2
    assert one["macs_ratio"] == DENSE_MACS / one["macs"]
    assert (one["macs_ratio_wide"], one["published_ratio"]) == (10**6 / one["macs"], 7.5)
    assert one["realised_fraction"] == one["speedup_p50"] / one["macs_ratio"]
    assert measured["rows"][0]["speedup_ci95"] == [1, 1]


def test_every_layer_has_a_row_with_its_times(measured: dict[str, Any]) -> None:
    rows = measured["layers"]
    assert [(row["setting"], row["name"]) for row in rows] == [
        (setting, name) for setting in ("one", "4x") for name in ("stem", "conv1", "conv2", "fc")
    ]
    assert [row["kind"] for row in rows[:4]] == ["dense", "lookup", "lookup", "dense"]
    assert [row["macs_dense"] for row in rows[:4]] == [STEM, CONV1, CONV2, FC]
    assert all(row["dense_ms"] > 0 and row["lookup_ms"] > 0 for row in rows)


def test_notes_say_what_was_chosen_and_what_is_missing(measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured["label"] == "synthetic patterns: speed and memory only, no accuracy"
    assert "small one: a note" in measured["notes"]
    assert "small 4x: dictionaries conv*=0.25 at the density solved for, 0.4757" in measured["notes"]
    assert "small one, 4x: stem, fc: dense, no dictionary is stated for it" in measured["notes"]
    products = ", ".join(int8_extensions()) or "none"
    assert f"int8: static QDQ per channel, uint8 activations; this processor's int8 products: {products}" in measured["notes"]
    monkeypatch.setattr(suite, "has_openvino", lambda: False)
    bare = run_suite(BenchSettings(iterations=1, warmup=0, per_layer=False), (ONE,))
    assert "OpenVINO is not installed: no figures of it (pip install openvino)" in bare["notes"]
    assert [row["form"] for row in bare["rows"]] == ["dense", "int8", "lookup"]
    assert all(row["dense_ms"] is None for row in bare["layers"])


@pytest.fixture
def dense_file(tmp_path: Path) -> Path:
    net = capture(small_net(), torch.zeros(SMALL.input_shape))
    fold_batch_norms(net)
    onnx.save(to_onnx(net, SMALL.input_shape, ExportSettings(), {}), tmp_path / "dense.onnx")
    return tmp_path / "dense.onnx"


def test_int8_weights_have_a_scale_for_each_channel(dense_file: Path, tmp_path: Path) -> None:
    engines.write_int8(dense_file, tmp_path / "int8.onnx", SMALL.input_shape, BenchSettings())
    model = onnx.load(tmp_path / "int8.onnx")
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = {
        tensors[node.input[0]].shape[0]: (tensors[node.input[0]].dtype, tensors[node.input[1]].shape)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors and tensors[node.input[0]].ndim == 4
    }
    assert weights == {16: (np.int8, (16,)), 32: (np.int8, (32,))}
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
    want, got = (runtime.session(path).run(None, {"input": x})[0] for path in (dense_file, tmp_path / "int8.onnx"))
    # A tensor of 255 steps is off by half of one at most; a dozen quantised tensors follow each other here.
    assert np.abs(got - want).max() < 12 / 255 * np.abs(want).max()


def test_openvino_computes_what_onnx_runtime_computes(dense_file: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    runs = [engines._open(str(dense_file), engine, [2, 3, 16, 16], 1, 5) for engine in (engines.ONNXRUNTIME, engines.OPENVINO)]
    one, other = (run()[0] for run in runs)
    assert one.shape == other.shape == (2, 10)
    assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()  # both sum fewer than 300 float32 terms a layer


def test_the_table_has_a_line_for_each_form_and_the_notes(measured: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    render.suite_table(measured)
    printed = capsys.readouterr().out
    assert "no accuracy; ONNX Runtime" in printed
    assert "batch 1, 1 thread\n" in printed
    assert "batch 2, 1 thread\n" in printed
    lines = [line.split() for line in printed.splitlines() if line.startswith("small  one ")]
    assert [line[2:9] for line in lines] == [["0.2", "0.0", "+", "0.0", "5.78x", "5.8x", "7.5x"]] * 2
    assert printed.endswith("\n".join(measured["notes"]) + "\n")


def test_the_command_prints_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suite.SUITES, "paper", (ONE,))
    answer = lcnn_json("bench", "--suite", "paper", "--iterations", 2, "--threads", "1,2", "--no-per-layer")
    assert [(row["net"], row["threads"]) for row in answer["rows"] if row["setting"]] == [("small", 1), ("small", 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("a.lcnn", "--suite", "paper"),
            "--suite paper measures nets of its own; leave out a.lcnn, or leave out --suite",
        ),
        (("--suite", "paper", "--trust-pickle"), "--suite paper measures nets of its own; leave out --trust-pickle, or"),
        (("--suite", "other"), "--suite is 'other'; it must be paper"),
    ],
)
def test_what_does_not_go_with_a_suite_is_refused(arguments: tuple[str, ...], message: str) -> None:
    assert f"error: {message}" in lcnn("bench", *arguments, code=2).stderr


@pytest.mark.slow
def test_the_whole_suite_runs() -> None:
    answer = lcnn_json("bench", "--suite", "paper", "--iterations", 2)
    settings = [(row["net"], row["setting"]) for row in answer["rows"] if row["form"] == "lookup"]
    assert settings == [(setting.net.name, setting.name) for setting in PAPER]
    lookups = [row for row in answer["layers"] if row["kind"] == "lookup"]
    assert all(row["dense_ms"] > 0 and row["lookup_ms"] > 0 for row in lookups)

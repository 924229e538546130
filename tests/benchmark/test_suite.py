"""The suite of synthetic patterns: a row for every form, layer and remark. Never a time."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from cases import small_net
from command_line import lcnn, lcnn_json

from lcnn_compress import runtime
from lcnn_compress.benchmark.compare import BenchSettings
from lcnn_compress.benchmark.rivals import KINDS, ONNX_INT8, RivalKind
from lcnn_compress.benchmark.suite import _NetFiles, run_suite
from lcnn_compress.benchmark.suite_cases import PAPER, SUITES, Net, Setting, code_layers
from lcnn_compress.cli import render_bench
from lcnn_compress.forms.arithmetic import BFLOAT16, INT8
from lcnn_compress.machine import int8_extensions
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured
from lcnn_compress.net.ordinary import seeded
from lcnn_compress.progress import silent

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Net("small", small_net, (1, 3, 16, 16), wide_macs=10**6)
ONE = Setting(SMALL, "one", "conv*=4", published_ratio=7.5, note="a note")
QUARTER = Setting(SMALL, "4x", "conv*=0.25", macs_ratio=4)
# stem 3>16, conv1 16>32 with stride 2, conv2 32>32, all 3x3, on 16x16 pixels, and fc 32>10.
STEM, CONV1, CONV2, FC = 3 * 16 * 9 * 256, 16 * 32 * 9 * 64, 32 * 32 * 9 * 64, 320
SMALL_MACS = 995_648
STAGE1, STAGE2 = 4 * 16 * 256 + 4 * 32 * 64, 2 * 32 * 9 * 64  # four rows; one lookup for each of 32 * 9 positions


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """The object of ``lcnn bench --suite --json``."""
    result = run_suite(BenchSettings(batches=(1, 2), iterations=2, warmup=1), (ONE, QUARTER))
    answer: dict[str, Any] = json.loads(json.dumps(asdict(result)))
    return answer


def test_every_form_has_a_row_with_its_macs(measured: dict[str, Any]) -> None:
    assert (measured["command"], measured["suite"], measured["isa"]) == ("bench", "paper", runtime.isa())
    forms = ["dense", *[kind.engine for kind in KINDS if kind.is_installed], "lookup", "lookup"]
    named = [row["form"].removesuffix(" int8") for row in measured["rows"]]
    assert [name.split(" ")[0] for name in named] == [name.split(" ")[0] for name in forms] * 2
    assert [row["engine"] for row in measured["rows"] if row["setting"] is None] == ["ONNX Runtime", *forms[1:-2]] * 2
    assert [row["batch"] for row in measured["rows"]] == [1] * len(forms) + [2] * len(forms)
    for row in measured["rows"]:
        low, high = row["speedup_ci95"]
        assert 0 < low <= high
        assert row["peak_rss_bytes"] > row["file_bytes"] > 0
        assert row["latency_ms_p50"] > 0
    one = next(row for row in measured["rows"] if row["setting"] == "one")
    assert (one["macs_dense"], one["macs_stage1"], one["macs_stage2"]) == (SMALL_MACS, STAGE1, STAGE2)
    assert one["macs"] == STEM + FC + STAGE1 + STAGE2
    assert one["macs_ratio"] == SMALL_MACS / one["macs"]
    assert (one["macs_ratio_wide"], one["published_ratio"]) == (10**6 / one["macs"], 7.5)
    assert one["realised_fraction"] == one["speedup_p50"] / one["macs_ratio"]
    assert measured["rows"][0]["speedup_ci95"] == [1, 1]
    others = {row["form"]: row["latency_ms_p50"] for row in measured["rows"][: len(forms) - 2]}
    best = one["best_other"]
    assert best["name"] == min(others, key=lambda name: others[name])
    assert best["speedup_p50"] == pytest.approx(others[best["name"]] / one["latency_ms_p50"])


def test_rows_have_the_keys_of_the_contract(measured: dict[str, Any]) -> None:
    facts = {"command", "suite", "label", "isa", "int8_extensions", "onnxruntime", "rows", "layers", "notes", "machine", "date"}
    assert set(measured) == facts
    named = {"net", "form", "setting", "engine", "batch", "threads", "macs_dense", "macs", "macs_ratio", "file_bytes"}
    latency = {*(f"latency_ms_{key}" for key in ("min", "p50", "p90", "p99")), "throughput_per_s"}
    common = named | latency | {"peak_rss_bytes", "speedup_p50", "speedup_ci95"}
    more = {"macs_stage1", "macs_stage2", "density", "macs_ratio_wide", "published_ratio", "realised_fraction", "best_other"}
    for row in measured["rows"]:
        assert set(row) == (common | more if row["form"] == "lookup" else common)
    layer = {"net", "setting", "name", "reason", "kind", "dictionary_size", "n_nonzeros", "macs_dense", "macs"}
    assert {frozenset(row) for row in measured["layers"]} == {
        frozenset(layer | {"macs_stage1", "macs_stage2", "dense_ms", "lookup_ms"})
    }


def test_every_layer_has_a_row_with_its_times(measured: dict[str, Any]) -> None:
    rows = measured["layers"]
    assert [(row["setting"], row["name"]) for row in rows] == [
        (setting, name) for setting in ("one", "4x") for name in ("stem", "conv1", "conv2", "fc")
    ]
    assert [row["kind"] for row in rows[:4]] == ["dense", "lookup", "lookup", "dense"]
    assert [row["macs_dense"] for row in rows[:4]] == [STEM, CONV1, CONV2, FC]
    assert all(row["dense_ms"] > 0 and row["lookup_ms"] > 0 for row in rows)


def test_notes_say_what_was_chosen_and_what_is_missing(measured: dict[str, Any]) -> None:
    assert measured["label"] == "synthetic patterns: speed and memory only, no accuracy"
    assert "small one: a note" in measured["notes"]
    assert "small 4x: dictionaries conv*=0.25 at the density solved for, 0.4757" in measured["notes"]
    assert "small one, 4x: stem, fc: dense, no dictionary is stated for it" in measured["notes"]
    products = ", ".join(int8_extensions()) or "none"
    assert f"this processor's int8 products: {products}" in measured["notes"]
    (int8,) = [note for note in measured["notes"] if note.startswith("small ONNX Runtime int8: ")]
    assert int8.endswith(" of their spread")


def test_a_rival_that_is_not_installed_has_a_note_and_no_rows() -> None:
    settings = BenchSettings(threads=(1, 2), iterations=1, warmup=0, per_layer=False)
    steps: list[tuple[str, int, int]] = []
    absent = RivalKind("OpenVINO", "default", ("no_package_of_this_name",))
    bare = run_suite(settings, (ONE,), lambda *step: steps.append(step), (ONNX_INT8, absent))
    assert "small OpenVINO default: not installed (pip install no_package_of_this_name)" in bare.notes
    forms = ("dense", "ONNX Runtime int8", "lookup")
    assert [(row.form, row.threads) for row in bare.rows] == [(form, n) for n in (1, 2) for form in forms]
    assert all(row.dense_ms is None for row in bare.layers)
    assert steps == [("small", done, 5) for done in range(6)]  # dense, rivals and one setting made; two numbers of threads


def test_the_table_has_a_line_for_each_form_and_the_notes(measured: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    render_bench.suite_table(measured)
    printed = capsys.readouterr().out
    assert "no accuracy; ONNX Runtime" in printed
    assert "batch 1, 1 thread\n" in printed
    assert "batch 2, 1 thread\n" in printed
    lines = [line.split() for line in printed.splitlines() if line.startswith("small  one ")]
    over_best = [row["best_other"]["speedup_p50"] for row in measured["rows"] if row["setting"] == "one"]
    assert [line[14] for line in lines] == [f"{ratio:.2f}x" for ratio in over_best]
    assert [line[2:9] for line in lines] == [["0.2", "0.0", "+", "0.0", "5.78x", "5.8x", "7.5x"]] * 2
    assert printed.endswith("\n".join(measured["notes"]) + "\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("a.lcnn", "--suite", "paper"),
            "--suite paper measures nets of its own; leave out a.lcnn, or leave out --suite",
        ),
        (("--suite", "paper", "--trust-pickle"), "--suite paper measures nets of its own; leave out --trust-pickle, or"),
        (
            ("--suite", "paper", "--calib", "x.npy", "--dense", "d.onnx"),
            "--suite paper measures nets of its own; leave out --dense, --calib, or leave out --suite",
        ),
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


def test_settings_in_narrow_numbers_are_files_of_such_layers(tmp_path: Path) -> None:
    cases = [replace(ONE, name=name, dictionary=sizes, arithmetic=name) for name, sizes in ((INT8, ""), (BFLOAT16, "conv*=4"))]
    net = _NetFiles(cases, tmp_path, BenchSettings(iterations=2, warmup=1, per_layer=False), silent, [])
    found = {name: {node.op_type for node in onnx.load(net.forms[name].path).graph.node} for name in (INT8, BFLOAT16)}
    assert {"QuantizeNhwc", "QLinearConv"} < found[INT8]
    assert "QLinearLookupConv" not in found[INT8]
    assert {"ToBfloat16Nhwc", "Bfloat16LookupConv"} < found[BFLOAT16]
    dense, narrow = net.rows()[0], net.rows()[1:]
    assert narrow[0].macs == dense.macs_dense > narrow[1].macs


def test_every_suite_has_its_name_and_settings_that_fit_their_nets() -> None:
    for name, cases in SUITES.items():
        assert cases
        assert len({(case.net, case.name) for case in cases}) == len(cases), name
        for net in {case.net for case in cases}:
            with seeded(0):
                captured = Captured.of(capture(net.factory(), torch.zeros(net.input_shape)), net.input_shape)
            for case in cases:
                if case.net == net:
                    assert len(code_layers(captured.layers, case)) == len(captured.layers)

"""The command line as a user meets it: the owner's three commands, every other command, exit codes, repeating and resuming."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import small_net
from command_line import STABLE, child, lcnn, lcnn_json, needs_library, plain_net, same_bytes
from torch import nn

from lcnn_compress import api, runtime

SHAPE = ("--input-shape", "1,3,32,32")
COMMANDS = ("compress", "sensitivity", "export", "bench", "eval", "inspect", "profile", "predict", "doctor", "quickstart")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt, data, and two artefacts made without measuring: old.lcnn, then model.lcnn."""
    path = tmp_path_factory.mktemp("cli")
    torch.save(plain_net(), path / "model.pt")
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 3, 32, 32), np.float32), rng.integers(0, 10, 40)
    np.savez(path / "data.npz", x=x, y=y)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        lcnn("compress", "model.pt", *SHAPE, "--no-measure", "--dict", 8, "-o", "old.lcnn")
        lcnn("compress", "model.pt", *SHAPE, "--no-measure", "--dict", 8, "--lookups", 2)
    return path


# The owner's three commands


@needs_library
def test_the_three_commands(tmp_path: Path) -> None:
    torch.save(plain_net(), tmp_path / "model.pt")
    made = child("compress", "model.pt", "--dict", 30, cwd=tmp_path, NO_COLOR="1")
    assert "written model.lcnn" in made.stdout
    notes = made.stderr.splitlines()
    assert notes[0] == "note: the net takes images of several sizes; 1,3,224,224 is assumed, --input-shape changes it"
    assert [n.partition(" of ")[0] for n in notes[1:]] == ["note: the filters"]  # random filters are coded coarsely
    exported = child("export", "--onnx", cwd=tmp_path)
    assert exported.stdout.startswith("written model.lcnn/model.onnx (")
    assert exported.stderr == ""
    table = child("bench", cwd=tmp_path)
    assert "lookup: model.lcnn/model.onnx\ndense: original net model.pt\n" in table.stdout
    assert table.stderr == ""
    for text in (made.stdout, exported.stdout, table.stdout):
        assert "\x1b" not in text
        assert not any(line.endswith(" ") for line in text.splitlines())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.lcnn", "model.pt"]


RUN_NUMBERS = ("speedup_p50", "macs_ratio", "realised_fraction", "max_abs_diff")
NET_NUMBERS = ("latency_ms_p50", "latency_ms_p90", "latency_ms_p99", "latency_ms_min", "throughput_per_s")
NET_COUNTS = ("peak_rss_bytes", "file_bytes", "weight_bytes", "macs")


def check_bench(answer: dict[str, Any]) -> None:
    assert answer["command"] == "bench"
    assert answer["isa"] == runtime.isa()
    assert answer["onnxruntime"] == runtime.onnxruntime_version()
    for run in answer["runs"]:
        for net in (run["dense"], run["lookup"]):
            assert all(isinstance(net[key], float) for key in NET_NUMBERS)
            assert all(isinstance(net[key], int) for key in NET_COUNTS)
        assert all(isinstance(run[key], float) for key in RUN_NUMBERS)
        for ratio in (run, run["best_other"], *run["rivals"]):
            low, high = ratio["speedup_ci95"]
            assert 0 < low <= high
    for row in answer["layers"]:
        assert row["kind"] in ("lookup", "dense")
        assert {"name", "reason", "macs_dense", "macs", "dense_ms", "lookup_ms"} <= row.keys()


def test_bench_json_is_one_object_with_the_keys_of_the_contract(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answer = lcnn_json("bench", "model.lcnn", "--iterations", 3, "--batch", "1,2")
    check_bench(answer)
    assert capfd.readouterr() == ("", "")  # no library writes around Python
    assert [(run["batch"], run["threads"]) for run in answer["runs"]] == [(1, 1), (2, 1)]
    assert answer["dense_source"] == "original net model.pt"
    assert [row["name"] for row in answer["layers"]] == ["0", "2", "7"]
    assert all(row["dense_ms"] > 0 and row["lookup_ms"] > 0 for row in answer["layers"])


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_without_the_original_net_dense_is_the_same_file(here: Path, what: str) -> None:
    if what == "gone":
        (here / "model.pt").unlink()
    else:
        torch.save(plain_net()[:-1], here / "model.pt")
    result = lcnn("bench", "model.lcnn", "--json", "--iterations", 2, "--no-per-layer")
    answer = json.loads(result.stdout)
    check_bench(answer)
    assert answer["dense_source"] == "dense form of the same file"
    (note,) = answer["notes"]
    assert note.startswith("the original net cannot be used (model.pt: ")
    assert {"gone": "no such file", "changed": "has changed since"}[what] in note
    assert answer["runs"][0]["max_abs_diff"] < 1e-5  # two forms of the same weights


def test_the_newest_of_several_is_taken_and_named(here: Path) -> None:
    newest = here / "old.lcnn" / "manifest.json"
    newest.write_bytes(newest.read_bytes())
    result = lcnn("export", "--onnx")
    assert "note: 2 artefacts here, using the newest: old.lcnn" in result.stderr
    assert result.stdout.startswith("written old.lcnn/model.onnx")
    assert not (here / "model.lcnn" / "model.onnx").exists()


def test_export_forms(here: Path) -> None:
    answer = lcnn_json("export", "model.lcnn", "--onnx", "--dense", "-o", "plain.onnx")
    assert answer["file"] == "plain.onnx"
    assert answer["bytes"] == (here / "plain.onnx").stat().st_size
    assert not runtime.uses_lookups(here / "plain.onnx")
    assert "say 'lcnn export --onnx'" in lcnn("export", "model.lcnn", code=2).stderr
    assert "it must end in .onnx" in lcnn("export", "model.lcnn", "--onnx", "-o", "model.pt", code=2).stderr
    assert "no *.lcnn directory" in child("export", "--onnx", cwd=here / "model.lcnn", code=5).stderr


# What compress takes


def test_a_state_dict_a_program_and_a_factory(here: Path) -> None:
    from lcnn_compress.zoo import fashion_resnet

    torch.save(fashion_resnet((8, 8, 16)).state_dict(), "weights.pt")
    (here / "nets.py").write_text(
        "from lcnn_compress.zoo import fashion_resnet\ndef small():\n    return fashion_resnet((8, 8, 16))\n"
    )
    few = ("--no-measure", "--only", "layer3.*", "--dict", "0.25", "-q")
    lcnn("compress", "weights.pt", "--arch", "nets.py:small", *few)
    assert api.load("weights.lcnn").input_shape == (1, 1, 28, 28)
    lcnn("compress", "nets.py:small", *few)
    assert api.load("small.lcnn").config["model"]["kind"] == "factory"

    program = torch.export.export(small_net(), (torch.zeros(2, 3, 16, 16),))
    torch.export.save(program, "program.pt2")
    lcnn("compress", "program.pt2", "--no-measure", "-q")
    assert api.load("program.lcnn").input_shape == (1, 3, 16, 16)


def test_factories_of_random_weights_make_the_same_net_and_say_so(here: Path) -> None:
    result = lcnn("inspect", "lcnn_compress.zoo:fashion_resnet")
    assert "makes random weights: for speed and shapes, not for accuracy" in result.stderr
    hashes = {api.open_model("lcnn_compress.zoo:fashion_resnet").origin.sha256 for _ in range(2)}
    assert len(hashes) == 1


# Answers


def test_compress_json_is_the_report(here: Path) -> None:
    result = lcnn("compress", "model.pt", *SHAPE, "--no-measure", "--json", "-o", "new.lcnn")
    answer = json.loads(result.stdout)
    assert answer == json.loads((here / "new.lcnn" / "report.json").read_text()) | {"model": "model.pt"}
    assert answer["command"] == "compress"
    assert [row["kind"] for row in answer["layers"]] == ["dense", "lookup", "dense"]


def test_eval_json(here: Path) -> None:
    answer = lcnn_json("eval", "model.lcnn", "--data", "data.npz", "--limit", 20)
    assert answer.keys() == {"command", "metric", "dense", "lookup", "n"}
    assert (answer["command"], answer["metric"], answer["n"]) == ("eval", "top1_percent", 20)
    assert 0 <= answer["dense"] <= 100
    lcnn("export", "model.lcnn", "--onnx", "-o", "a.onnx")
    of_file = lcnn_json("eval", "a.onnx", "--data", "data.npz", "--limit", 20)
    assert of_file == answer | {"dense": None}
    of_net = lcnn_json("eval", "model.pt", *SHAPE, "--data", "data.npz", "--limit", 20)
    assert of_net == answer | {"lookup": None}
    (here / "model.pt").unlink()
    result = lcnn("eval", "model.lcnn", "--data", "data.npz")
    assert "note: no dense figure: model.pt: no such file" in result.stderr
    assert "top-1 accuracy" in result.stdout


def test_inspect_tells_models_artefacts_and_files_apart(here: Path) -> None:
    # 3x3 convolutions 3>64 and 64>64 on 8x8 outputs, Linear 64>10
    macs = [9 * 3 * 64 * 8 * 8, 9 * 64 * 64 * 8 * 8, 640]
    answer = lcnn_json("inspect", "model.pt", *SHAPE)
    assert [row["macs"] for row in answer["layers"]] == macs
    assert answer["facts"]["macs"] == sum(macs)
    artefact = lcnn_json("inspect", "model.lcnn")
    assert [row["macs_dense"] for row in artefact["layers"]] == macs
    lcnn("export", "model.lcnn", "--onnx", "-o", "a.onnx")
    file = lcnn_json("inspect", "a.onnx")
    assert [row["macs"] for row in file["layers"]] == [row["macs"] for row in artefact["layers"]]
    assert file["facts"]["operators"]["ai.lcnn::LookupConv"] == 1
    shown = lcnn("inspect", "model.lcnn").stdout.splitlines()
    assert shown[1] == "input               1x3x32x32"
    assert any(line.startswith("2         64>64     3x3      8     2.00") for line in shown)


@needs_library
def test_doctor_passes_with_the_library() -> None:
    answer = lcnn_json("doctor")
    assert answer["command"] == "doctor"
    assert answer["self_test"].startswith("passed")
    assert answer["isa"] == runtime.isa()


# Looks


def test_quiet_hides_notes_but_not_results(here: Path) -> None:
    result = lcnn("inspect", "model.pt", "-q")
    assert result.stderr == ""
    assert "64>64" in result.stdout


# Exit codes


def test_a_net_in_which_no_layer_gains_ends_with_1(here: Path) -> None:
    result = lcnn("compress", "model.pt", *SHAPE, "--skip", "*", "-o", "none.lcnn", code=1)
    assert "warning: no layer gains from lookup convolutions: every layer stays dense" in result.stderr
    assert {row.kind for row in api.load("none.lcnn").report.layers} == {"dense"}


# Repeating a run


@needs_library
def test_a_measured_run_is_repeated_from_its_configuration(here: Path) -> None:
    made = lcnn("compress", "model.pt", *SHAPE, "--calib", "data.npz", "--samples", 24, "--mean", "0.5", "--std", "0.25",
                "--seed", 3, "--init", "svd", "-o", "first.lcnn", code=None)  # fmt: skip
    assert made.exit_code in (0, 1)  # what is faster at this size is not asked here
    assert "no time was measured" not in made.stderr
    # The configuration alone decides, not where it lies nor what this machine would measure.
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    for name in ("model.pt", "data.npz"):
        shutil.copy(here / name, elsewhere / f"{name}")
    shutil.copy(here / "first.lcnn" / "config.json", elsewhere / "kept.json")
    child("compress", "model.pt", "-c", "kept.json", "--no-measure", "-o", "again.lcnn", cwd=elsewhere, code=made.exit_code)
    same_bytes(here / "first.lcnn", elsewhere / "again.lcnn")
    data = json.loads((here / "first.lcnn" / "config.json").read_text())["data"]
    assert data == {"calib": "data.npz", "samples": 24, "data": None, "mean": [0.5], "std": [0.25]}


def test_eval_prepares_data_as_compression_did(here: Path) -> None:
    prepared = ("--mean", "0.5", "--std", "0.25")
    lcnn("compress", "model.pt", *SHAPE, "--no-measure", "--calib", "data.npz", *prepared, "-o", "first.lcnn")
    silent = lcnn("eval", "first.lcnn", "--data", "data.npz")
    assert "note: mean [0.5] and std [0.25] as in compression" in silent.stderr
    assert silent.stdout == lcnn("eval", "first.lcnn", "--data", "data.npz", *prepared).stdout
    other = lcnn("eval", "first.lcnn", "--data", "data.npz", "--mean", "0", "--std", "1")
    assert "as in compression" not in other.stderr


def test_a_net_that_gives_nan_is_no_internal_error(here: Path) -> None:
    net = plain_net()
    net.append(nn.Threshold(1e30, float("nan")))
    torch.save(net, here / "nan.pt")
    answer = lcnn("eval", "nan.pt", *SHAPE, "--data", "data.npz", "--json", code=2)
    assert "the model's own outputs hold NaN for an input of random numbers" in answer.stderr
    assert answer.stdout == ""


def test_data_given_anew_replaces_what_is_recorded(here: Path) -> None:
    base = ("compress", "model.pt", "--no-measure", "-q")
    lcnn(*base, *SHAPE, "--calib", "data.npz", "--samples", 8, "-o", "first.lcnn")
    (here / "data.npz").rename(here / "moved.npz")
    gone = lcnn(*base, "-c", "first.lcnn/config.json", "-o", "second.lcnn", code=5)
    assert "data.npz: no such file" in gone.stderr
    lcnn(*base, "-c", "first.lcnn/config.json", "--calib", "moved.npz", "-o", "second.lcnn")
    first, second = (json.loads((here / name / "config.json").read_text()) for name in ("first.lcnn", "second.lcnn"))
    assert second == first | {"data": first["data"] | {"calib": "moved.npz"}}
    assert (here / "first.lcnn" / STABLE[2]).read_bytes() == (here / "second.lcnn" / STABLE[2]).read_bytes()


def test_options_that_contradict_a_configuration_are_refused(here: Path) -> None:
    config = ("-c", "model.lcnn/config.json", "-o", "x.lcnn")
    for option in (("--dict", "16"), ("--seed", "0"), ("--keep-slow",), ("--no-distill",), ("--epochs", "2")):
        result = lcnn("compress", "model.pt", *config, *option, code=2)
        assert f"--config already fixes {option[0].replace('no-', '')}" in result.stderr
    other = lcnn("compress", "lcnn_compress.zoo:fashion_resnet", *config, "--input-shape", "1,1,28,28", code=2)
    assert "the configuration is of another net" in other.stderr
    assert not (here / "x.lcnn").exists()


def test_a_configuration_is_repeated_on_other_weights_with_a_note(here: Path) -> None:
    net = plain_net()
    torch.nn.init.normal_(net[2].weight)
    torch.save(net, "retrained.pt")
    result = lcnn("compress", "retrained.pt", "-c", "model.lcnn/config.json", "--no-measure")
    assert "note: this is not the net of the configuration" in result.stderr
    assert api.load("retrained.lcnn").config["layers"] == api.load("model.lcnn").config["layers"]


def test_bfloat16_needs_no_data_from_compression_to_the_file(here: Path) -> None:
    made = lcnn(
        "compress", "model.pt", *SHAPE, "--no-measure", "--dict", 8, "--keep-slow", "--arithmetic", "bfloat16", "-o", "b.lcnn"
    )
    assert "computed in bfloat16" in made.stdout
    lcnn("export", "b.lcnn", "--onnx", "-o", "b.onnx")
    rows = lcnn_json("inspect", "b.onnx")["layers"]
    assert [row["arithmetic"] for row in rows] == ["bfloat16"] * 3
    lcnn("export", "b.lcnn", "--onnx", "--dense", "-o", "dense.onnx")
    assert "bfloat16" not in lcnn("inspect", "dense.onnx").stdout.replace("b.lcnn", "")
    x = {"input": np.random.default_rng(0).random((2, 3, 32, 32), np.float32)}
    halves, floats = (runtime.session(Path(name), native=False).run(None, x)[0] for name in ("b.onnx", "dense.onnx"))
    assert 0 < np.abs(halves - floats).max() < 0.02 * (floats.max() - floats.min())
    said = lcnn("compress", "model.pt", *SHAPE, "--arithmetic", "bfloat8", code=2).stderr
    assert "is 'bfloat8'; it must be one of auto, float32, int8, bfloat16" in said

"""The command line as a user meets it: the owner's three commands, every other command, exit codes, repeating and resuming."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import small_net
from command_line import PACKAGE_PARENT, STABLE, child, lcnn, lcnn_json, needs_library, plain_net, same_bytes
from torch import nn

from lcnn_compress import api, quickstart, runtime
from lcnn_compress.artefact.report import Report
from lcnn_compress.cli import errors, options
from lcnn_compress.compress.plan import PlanSettings

SHAPE = ("--input-shape", "1,3,32,32")
COMMANDS = ("compress", "sensitivity", "export", "bench", "eval", "inspect", "doctor", "quickstart")


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
        low, high = run["speedup_ci95"]
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
    assert "the original net cannot be used (model.pt: " in result.stderr
    assert {"gone": "no such file", "changed": "has changed since"}[what] in result.stderr
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
    hashes = {api.open_model("lcnn_compress.zoo:fashion_resnet").origin["sha256"] for _ in range(2)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("some/where/model.pt", "model.lcnn"), ("a.b.pth", "a.b.lcnn"), ("pkg.mod:factory", "factory.lcnn"),
        ("pkg.mod:Nets.small", "small.lcnn"), ("dir/file.py:net", "net.lcnn"),
    ],
)  # fmt: skip
def test_default_output(model: str, name: str) -> None:
    assert options.default_output(model) == Path(name)


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


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_plain_and_loads_nothing_heavy(command: str, tmp_path: Path) -> None:
    source = (
        "import sys\nfrom lcnn_compress.cli.main import main\n"
        f"sys.argv = ['lcnn', *{command.split()!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'sklearn', 'numpy', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    )
    done = child("-c", source, cwd=tmp_path)
    assert done.stderr == "[]\n"
    assert done.stdout.startswith("Usage: ")
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_version_and_wrong_use(tmp_path: Path) -> None:
    from lcnn_compress import __version__

    assert lcnn("--version").stdout == f"lcnn {__version__}\n"
    for wrong in (["bogus"], ["compress"], ["compress", "x.pt", "--bogus"], ["compress", "x.pt", "--epochs", "many"]):
        assert "Error: " in lcnn(*wrong, code=2).stderr


def test_what_the_library_warns_of_is_shown_once(here: Path) -> None:
    source = (
        "import logging, sys\nfrom lcnn_compress.cli import app, main\n"
        "def check(*args, **kwargs):\n    for _ in range(2):\n        logging.getLogger('lcnn_compress.x').warning('careful')\n"
        "app.options.find_artefact = check\nsys.argv = ['lcnn', 'export', '--onnx']\nmain.main()"
    )
    done = child("-c", source, cwd=here, code=errors.INTERNAL)
    assert done.stderr.splitlines()[0] == "warning: careful"
    assert done.stderr.count("careful") == 1


def test_quiet_hides_notes_but_not_results(here: Path) -> None:
    result = lcnn("inspect", "model.pt", "-q")
    assert result.stderr == ""
    assert "64>64" in result.stdout


# Exit codes


def test_a_net_in_which_no_layer_gains_ends_with_1(here: Path) -> None:
    result = lcnn("compress", "model.pt", *SHAPE, "--skip", "*", "-o", "none.lcnn", code=1)
    assert "warning: no layer gains from lookup convolutions: every layer stays dense" in result.stderr
    assert {row.kind for row in api.load("none.lcnn").report.layers} == {"dense"}


@pytest.mark.parametrize(("target", "code"), [({}, 1), ({"speedup": 2.0}, 1), ({"size_mb": 0.5}, 0)])
def test_a_whole_net_that_is_not_faster_ends_with_1_unless_only_a_size_was_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, target: dict[str, float], code: int
) -> None:
    report = api.load("model.lcnn").report
    totals = replace(report.totals, dense_ms=1.0, lookup_ms=1.25, speedup=0.8)
    report = replace(report, totals=totals, budget={"target": target, "predicted_speedup": 0.9})
    from lcnn_compress.cli import app

    def compress(*args: object, **kwargs: object) -> Report:
        return report

    monkeypatch.setattr(app, "_compress", compress)
    result = lcnn("compress", "model.pt", code=code)
    assert "warning: the whole net is not faster than dense (0.80x)" in result.stderr


def test_a_reader_that_leaves_early_is_no_internal_error(here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lcnn_compress", "inspect", "model.lcnn"]
    env = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=here, env=env, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (errors.FILES, "")


def test_unknown_errors_are_internal(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(api, "load", broken)
    result = lcnn("inspect", "model.lcnn", code=errors.INTERNAL)
    assert result.stderr.startswith("internal error: ZeroDivisionError: by zero; LCNN_DEBUG=1 shows where")
    assert result.stdout == ""
    monkeypatch.setenv("LCNN_DEBUG", "1")
    assert "Traceback" in lcnn("inspect", "model.lcnn", code=errors.INTERNAL).stderr


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lcnn_compress.bench.doctor", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = lcnn("doctor", code=errors.MISSING)
    assert "error: the package 'onnx' is missing; pip install it" in result.stderr


def test_operating_system_errors_end_with_5() -> None:
    message, code = errors.describe(PermissionError(13, "Permission denied", "/x/y"))
    assert (message, code) == ("error: /x/y: Permission denied; check the path, its permissions and the disk", errors.FILES)


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
    assert "the net's output for images 0 to 39 holds NaN" in answer.stderr
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


def test_options_that_would_do_nothing_are_refused(here: Path) -> None:
    for arguments, message in (
        (("--lr", "0.1"), "--lr does nothing without --epochs N"),
        (("--data", "data.npz"), "--data does nothing without --epochs N"),
        (("--samples", "3"), "--samples does nothing without --calib DATA"),
        (("--mean", "0.5"), "--mean does nothing without --calib or --data"),
        (("--epochs", "1", "--data", "data.npz", "--l1", "1"), "--l1 does nothing with --sparsity gradual"),
        (("--epochs", "1"), "--epochs asks for fine-tuning, but there is no training data; add --data"),
        (("--resume",), "--resume continues a fine-tuning"),
    ):
        assert message in lcnn("compress", "model.pt", *SHAPE, *arguments, "-o", "x.lcnn", code=2).stderr


# Interrupting and resuming

DATASET = """
import os, signal
import torch
from torch.utils.data import Dataset

class Noise(Dataset):
    asked = 0
    def __len__(self):
        return 64
    def __getitem__(self, i):
        Noise.asked += 1
        if Noise.asked == int(os.environ.get("INTERRUPT_AT", 0)):
            os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
        g = torch.Generator().manual_seed(i)
        return torch.rand(3, 16, 16, generator=g), i % 10

def make():
    return Noise()
"""


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[object, ...]]:
    """A folder with an uninterrupted run in whole.lcnn, and the arguments that made it."""
    path = tmp_path_factory.mktemp("training")
    torch.save(plain_net(), path / "model.pt")
    (path / "noise.py").write_text(DATASET)
    args = ("compress", "model.pt", "--input-shape", "1,3,16,16", "--no-measure", "--dict", 8, "--data", "noise.py:make",
            "--epochs", 3, "--batch-size", 16, "--seed", 5)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        lcnn(*args, "-o", "whole.lcnn")
    assert not list(path.glob("*.checkpoint"))
    return path, args


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_leaves_a_checkpoint_and_resumes_to_the_same_bytes(
    training: tuple[Path, tuple[object, ...]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, args = training
    monkeypatch.chdir(path)
    target = f"{name}.lcnn"
    # 12 steps of 16 images: the signal arrives while the images of step 6 are read.
    stopped = child(*args, "-o", target, cwd=path, code=errors.INTERRUPTED, INTERRUPT_AT="90", SIGNAL=name)
    assert stopped.stderr == f"interrupted; {target}.checkpoint keeps the work; the same command with --resume continues\n"
    assert not (path / target).exists()
    assert sorted(p.name for p in (path / f"{target}.checkpoint").iterdir()) == ["plan.json", "training.ckpt"]
    if name == "SIGTERM":
        shutil.rmtree(path / f"{target}.checkpoint")
        return
    again = lcnn(*args, "-o", target, code=2)
    assert "holds an interrupted fine-tuning; add --resume to continue it, or delete that folder" in again.stderr
    lcnn(*args, "-o", target, "--resume")
    same_bytes(path / target, path / "whole.lcnn")
    assert not list(path.glob("*.checkpoint"))


def test_a_fine_tuned_run_is_repeated_from_its_configuration(
    training: tuple[Path, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = training
    monkeypatch.chdir(path)
    lcnn("compress", "model.pt", "-c", "whole.lcnn/config.json", "-o", "repeated.lcnn", "--no-measure")
    same_bytes(path / "repeated.lcnn", path / "whole.lcnn")


def test_nothing_to_resume(training: tuple[Path, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    path, args = training
    monkeypatch.chdir(path)
    assert "no checkpoint to resume; run without --resume" in lcnn(*args, "-o", "new.lcnn", "--resume", code=2).stderr
    assert not (path / "new.lcnn.checkpoint").exists()


def test_an_interrupt_before_training_leaves_no_checkpoint(
    training: tuple[Path, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, args = training
    monkeypatch.chdir(path)

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "compress_source", interrupted)
    assert lcnn(*args, "-o", "new.lcnn", code=errors.INTERRUPTED).stderr == "interrupted; nothing is left half-written\n"
    assert not list(path.glob("new.lcnn*"))


# The embedded default


def test_quickstart_writes_only_its_artefact_and_opens_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("quickstart must work offline")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(quickstart, "PLAN", PlanSettings("16", 2, only=("layer3.conv2",), keep_slow=True))
    monkeypatch.setattr(quickstart, "CALIBRATION_IMAGES", 32)
    result = lcnn("quickstart", "--epochs", 0, "-o", "q.lcnn", code=None)
    assert result.exit_code in (0, 1)  # whether one layer alone makes the net faster is not asked here
    assert "accuracy" in result.stdout
    assert "2000 test images" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["q.lcnn"]
    assert api.load("q.lcnn").config["data"]["calib"] == "lcnn_compress.quickstart:training_images"

"""The entry point: help at once, notices of the library, and what a request to stop leaves behind."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from command_line import child, lcnn, plain_net, same_bytes

from lcnn_compress.cli import error_boundary as errors
from lcnn_compress.cli.main import Notices

COMMANDS = ("compress", "sensitivity", "export", "bench", "eval", "inspect", "profile", "predict", "doctor", "quickstart")


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


def test_what_the_library_warns_of_is_shown_once_with_options_named(capsys: pytest.CaptureFixture[str]) -> None:
    notices, logger = Notices(), logging.Logger("lcnn_compress.x")
    logger.addHandler(notices)
    for _ in range(2):
        logger.warning("careful with `init`")
    logger.info("nobody asked")
    assert capsys.readouterr().err == "warning: careful with --init\n"


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


def test_an_interrupted_run_leaves_a_checkpoint_and_resumes_to_the_same_bytes(
    training: tuple[Path, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, args = training
    monkeypatch.chdir(path)
    stop(training, "SIGINT")
    again = lcnn(*args, "-o", "SIGINT.lcnn", code=2)
    assert "holds an interrupted fine-tuning; add --resume to continue it, or delete that folder" in again.stderr
    lcnn(*args, "-o", "SIGINT.lcnn", "--resume")
    same_bytes(path / "SIGINT.lcnn", path / "whole.lcnn")
    assert not list(path.glob("*.checkpoint"))


@pytest.mark.parametrize("ignores_interrupts", [False, True])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_request_to_stop_leaves_a_checkpoint_in_a_background_job_too(
    training: tuple[Path, tuple[object, ...]], name: str, ignores_interrupts: bool
) -> None:
    stop(training, name, ignores_interrupts)
    shutil.rmtree(training[0] / f"{name}.lcnn.checkpoint")


LOST = """
import os, signal, sys, time
from lcnn_compress.cli.main import take_requests_to_stop

class Asks:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(0)

take_requests_to_stop()
try:
    Asks()
    time.sleep(60)
except KeyboardInterrupt:
    print("asked")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_request_that_comes_while_something_is_deleted_is_not_lost(name: str, tmp_path: Path) -> None:
    done = child("-c", LOST, name, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("asked\n", "")


def test_a_job_that_shall_outlive_its_terminal_does(training: tuple[Path, tuple[object, ...]]) -> None:
    path, args = training
    source = (
        "import signal, sys\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom lcnn_compress.cli.main import main\n"
        "sys.argv[0] = 'lcnn'\nmain()"
    )
    child("-c", source, *args, "-o", "nohup.lcnn", cwd=path, INTERRUPT_AT="90", SIGNAL="SIGHUP")
    same_bytes(path / "nohup.lcnn", path / "whole.lcnn")


def stop(training: tuple[Path, tuple[object, ...]], name: str, ignores_interrupts: bool = False) -> None:
    """Run a training that sends itself the signal, and see that it keeps its work."""
    path, args = training
    target = f"{name}.lcnn"
    # 12 steps of 16 images: the signal arrives while the images of step 6 are read.
    stopped = child(
        *args, "-o", target, cwd=path, code=errors.INTERRUPTED, ignores_interrupts=ignores_interrupts, INTERRUPT_AT="90",
        SIGNAL=name,
    )  # fmt: skip
    assert stopped.stderr == f"interrupted; {target}.checkpoint keeps the work; the same command with --resume continues\n"
    assert not (path / target).exists()
    assert sorted(p.name for p in (path / f"{target}.checkpoint").iterdir()) == ["plan.json", "training.ckpt"]


def test_a_training_in_8_bits_is_resumed_in_its_last_part_too(
    training: tuple[Path, tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, args = training
    monkeypatch.chdir(path)
    args = (*args, "--arithmetic", "int8")
    lcnn(*args, "-o", "bytes.lcnn")
    # After those that calibrate and two epochs of 64 images, in the third epoch.
    child(*args, "-o", "stopped.lcnn", cwd=path, code=errors.INTERRUPTED, INTERRUPT_AT=str(3 * 64 + 20), SIGNAL="SIGINT")
    kept = sorted(p.name for p in (path / "stopped.lcnn.checkpoint").iterdir())
    assert kept == ["plan.json", "training.ckpt", "training_int8.ckpt"]
    lcnn(*args, "-o", "stopped.lcnn", "--resume")
    same_bytes(path / "stopped.lcnn", path / "bytes.lcnn")
    assert not list(path.glob("*.checkpoint"))
    lcnn("export", "stopped.lcnn", "--onnx")


def test_a_background_job_ignores_ctrl_c(training: tuple[Path, tuple[object, ...]]) -> None:
    path, args = training
    child(*args, "-o", "ignored.lcnn", cwd=path, ignores_interrupts=True, INTERRUPT_AT="90", SIGNAL="SIGINT")
    same_bytes(path / "ignored.lcnn", path / "whole.lcnn")


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

"""Run the command line in tests: in this process where that is enough, in a child process where isolation matters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import lcnn_compress
from lcnn_compress import runtime
from lcnn_compress.cli.app import app

needs_library = pytest.mark.skipif(runtime.library_path() is None, reason="the native library is not installed")
HOME = Path(__file__).parent.parent
PACKAGE_PARENT = Path(lcnn_compress.__file__).parent.parent  # the package under test: installed, or this checkout
STABLE = ("manifest.json", "lcnn.json", "model.safetensors", "config.json")


def lcnn(*args: object, code: int | None = 0) -> Any:
    """Run a command here and check its exit code, unless that is None; the result has ``stdout`` and ``stderr``."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert code is None or result.exit_code == code, (args, result.exit_code, result.output, result.exception)
    return result


def lcnn_json(*args: object, code: int = 0) -> dict[str, Any]:
    """Run a command with --json and return the only thing it prints on stdout."""
    answer: dict[str, Any] = json.loads(lcnn(*args, "--json", code=code).stdout)
    return answer


def child(
    *args: object, cwd: Path, code: int | None = 0, ignores_interrupts: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``lcnn ARGS``, or Python's own ``-c SOURCE``, in a child process with pipes for its output.

    Whether it ignores interrupts (SIGINT) is said here: it would inherit that, and tests may run in a background job. Under
    nohup it would inherit that a hang-up is ignored.
    """

    def set_signals() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignores_interrupts else signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    command = [sys.executable, *(() if args[0] == "-c" else ("-m", "lcnn_compress")), *map(str, args)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PYTHONPATH": os.pathsep.join([str(PACKAGE_PARENT), str(HOME / "tests")]), **variables}
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=set_signals,
    )  # fmt: skip
    assert code is None or done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
    return done


def plain_net() -> nn.Sequential:
    """A net of torch.nn classes only, so that its pickle is loaded without trust; the middle layer is worth compressing."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 4, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    ).eval()  # fmt: skip


def same_bytes(one: Path, other: Path) -> None:
    """Assert that two artefacts agree in the files that do not hold measurements."""
    for name in STABLE:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name

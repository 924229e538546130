"""Jobs in child processes: their results and known errors come back, and whatever else happens to them is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_onnx import write

import lcnn_compress
from lcnn_compress.benchmark.child import run_child
from lcnn_compress.benchmark.compare import measure_memory
from lcnn_compress.errors import ArtefactError, ChildError, SettingsError

EMPTY = "the memory measurement of an empty process"


def test_a_child_is_of_this_package_wherever_it_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "lcnn_compress"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('the package in the working directory')")
    for name in ("json", "signal", "statistics", "subprocess", "onnxruntime"):  # the user's scripts
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module in the working directory')")
    monkeypatch.chdir(tmp_path)
    assert run_child(measure_memory, {}, EMPTY, 60)["peak_rss_bytes"] > 0


def test_arguments_reach_the_job_and_its_result_comes_back() -> None:
    given = {"s": '{"a": [1, 2.5], "b": null}'}
    assert run_child(json.loads, given, "reading", 60) == {"a": [1, 2.5], "b": None}


def test_a_known_error_of_a_job_is_raised_here(tmp_path: Path) -> None:
    (tmp_path / "half.onnx").write_bytes(write(tmp_path, lookup=False).read_bytes()[:500])
    with pytest.raises(ArtefactError, match=r"^half.onnx: ONNX Runtime"):
        run_child(measure_memory, {"model": tmp_path / "half.onnx"}, "half", 60)


def test_a_crashed_child_shows_the_end_of_its_error_output() -> None:
    with pytest.raises(ChildError, match=r"^the reading of nonsense: the process ended with status 1: .*JSONDecodeError"):
        run_child(json.loads, {"s": "nonsense"}, "the reading of nonsense", 60)


def test_a_killed_child_is_no_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    with pytest.raises(SettingsError, match=r"ended with status -9, probably for want of memory; .*it wrote nothing"):
        run_child(measure_memory, {}, EMPTY, 60)


def test_a_child_past_its_time_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"the memory measurement of an empty process: took more than 0 s; measure fewer"):
        run_child(measure_memory, {}, EMPTY, 0)


PARENT = """
import runpy, signal, sys
from lcnn_compress.benchmark.child import run_child
signal.signal(signal.SIGINT, signal.default_int_handler)
run_child(runpy.run_path, {"path_name": sys.argv[1]}, "sleep", 60)
"""
CHILD = """
import os, pathlib, time
pathlib.Path(__file__).with_name("number").write_text(str(os.getpid()))
time.sleep(60)
"""


def is_there(process: int) -> bool:
    """Tell whether a process runs; one that has ended and that nobody has asked about is none."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_no_child_outlives_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    file = tmp_path / "number"
    command = [sys.executable, "-c", PARENT, str(tmp_path / "child.py")]
    env = os.environ | {"PYTHONPATH": str(Path(lcnn_compress.__file__).parents[1])}
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as parent:
        until(lambda: file.exists() and bool(file.read_text()))
        parent.send_signal(number)
    until(lambda: not is_there(int(file.read_text())))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)

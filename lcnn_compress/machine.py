"""What a measured figure needs to be understood later: processor, instruction set, versions. No torch import."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lcnn_compress import runtime


def machine() -> dict[str, Any]:
    """Return facts about this machine and the packages that matter."""
    return {
        "cpu": _cpu_model(), "cores": os.cpu_count(), "isa": runtime.isa(), "system": platform.platform(),
        "python": platform.python_version(), "onnxruntime": runtime.onnxruntime_version(), "torch": _installed("torch"),
    }  # fmt: skip


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

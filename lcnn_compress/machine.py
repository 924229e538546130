"""What a measured figure needs to be understood later: processor, instruction set, versions. No torch import."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lcnn_compress import runtime

INT8_EXTENSIONS = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True)
class Machine:
    """The processor's name and cores, the kernels' instruction set (None without the native library), and versions."""

    cpu: str
    cores: int | None
    isa: str | None
    system: str
    python: str
    onnxruntime: str
    torch: str | None  # None where torch is not installed


def machine() -> Machine:
    """Return facts about this machine and the packages that matter."""
    return Machine(
        cpu=_cpu_model(), cores=os.cpu_count(), isa=runtime.isa(), system=platform.platform(),
        python=platform.python_version(), onnxruntime=runtime.onnxruntime_version(), torch=_installed("torch"),
    )  # fmt: skip


def int8_extensions() -> list[str]:
    """Return the int8 products this processor has, by Linux's names; without them int8 gains less."""
    found = (_cpu_info("flags") or _cpu_info("Features") or "").split()
    return [name for name in INT8_EXTENSIONS if name in found]


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.machine()


def _cpu_info(key: str) -> str | None:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""The instruction sets whose kernels this machine must run, by what Linux says of it, not by what the library does."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

_AVX2 = {"avx2", "fma", "f16c"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_X86_FLAGS = {
    "scalar": set(),
    "avx2": _AVX2,
    "avxvnni": _AVX2 | {"avx_vnni"},
    "avx512": _AVX512,
    "avx512vnni": _AVX512 | {"avx512_vnni"},
    "amx": _AVX512 | {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
}


def _tiles_allowed() -> bool:
    """Whether Linux lets this process use AMX tiles: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)."""
    return ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0


def _of_machine() -> tuple[str, ...]:
    if platform.machine() in ("aarch64", "arm64"):
        return ("scalar", "neon")
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    names = [name for name, needed in _X86_FLAGS.items() if needed <= flags]
    return tuple(name for name in names if name != "amx" or _tiles_allowed())


ISAS = _of_machine()

"""Files of nets that tests of loading write, change and compare."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

ARCH = f"{__file__}:small_net"


def small_net() -> nn.Module:
    """Return a net of torch.nn classes alone, 3x8x8 and larger."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


class Touch:
    """A pickle that creates a file when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def rewritten(archive: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> Path:
    """Copy a zip archive with other content under some of its names (below its root folder)."""
    target = archive.with_stem("changed")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
        for name, content in (extra or {}).items():
            new.writestr(f"{root}/{name}", content)
    return target


def same(a: nn.Module, b: nn.Module) -> bool:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.equal(a.eval()(x), b.eval()(x))

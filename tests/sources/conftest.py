"""What every test of loading a net needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_files import small_net


@pytest.fixture(autouse=True)
def _restore_import_path() -> Iterator[None]:
    before = [*sys.path]
    yield
    sys.path[:] = before


@pytest.fixture
def saved_program(tmp_path: Path) -> Path:
    batch = torch.export.Dim("batch")
    program = torch.export.export(small_net().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"

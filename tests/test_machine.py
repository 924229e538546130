"""Facts about this machine, against what the system says by other ways."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import onnxruntime
import torch

from lcnn_compress.machine import INT8_EXTENSIONS, int8_extensions, machine


def test_a_machine_is_described_in_values_that_json_holds() -> None:
    found = machine()
    assert found.cores == os.cpu_count()
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert (found.onnxruntime, found.torch) == (onnxruntime.__version__, torch.__version__)
    assert found.cpu.strip()
    assert json.loads(json.dumps(asdict(found))) == asdict(found)


def test_int8_products_are_named_as_linux_names_them() -> None:
    assert set(int8_extensions()) <= set(INT8_EXTENSIONS)

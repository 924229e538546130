"""What a measured figure says of this machine."""

from __future__ import annotations

import os
from importlib.metadata import version

import onnxruntime

from lcnn_compress import runtime
from lcnn_compress.machine import INT8_EXTENSIONS, int8_extensions, machine


def test_processor_kernels_and_versions_are_named() -> None:
    facts = machine()
    assert facts["cpu"]
    assert (facts["cores"], facts["isa"]) == (os.cpu_count(), runtime.isa())
    assert (facts["onnxruntime"], facts["torch"]) == (onnxruntime.__version__, version("torch"))


def test_only_known_products_of_8_bits_are_named_in_their_order() -> None:
    found = int8_extensions()
    assert found == [name for name in INT8_EXTENSIONS if name in found]

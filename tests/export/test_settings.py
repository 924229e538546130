"""How to write an ONNX file."""

from __future__ import annotations

import pytest

from lcnn_compress.errors import SettingsError
from lcnn_compress.export.settings import MAX_DIFFERENCE, ExportSettings


def test_defaults_and_types() -> None:
    assert ExportSettings() == ExportSettings("float16", True, False, MAX_DIFFERENCE)
    assert ExportSettings("int8").storage == "int8"
    with pytest.raises(SettingsError, match="`storage` is 'int4'; it must be one of float16, float32, int8"):
        ExportSettings("int4")

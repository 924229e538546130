"""Settings of an export."""

from __future__ import annotations

import pytest

from lcnn_compress.errors import SettingsError
from lcnn_compress.export.export_settings import ExportSettings


def test_types_that_cannot_be_written_are_refused() -> None:
    assert ExportSettings("int8").storage == "int8"
    with pytest.raises(SettingsError, match="`storage` is 'float64'; it must be one of float16, float32, int8"):
        ExportSettings("float64")

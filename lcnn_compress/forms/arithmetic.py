"""What a layer computes in: float32, or whole numbers of 8 bits."""

from __future__ import annotations

from lcnn_compress.errors import SettingsError

FLOAT32, INT8 = "float32", "int8"
ARITHMETICS = (FLOAT32, INT8)


def check_arithmetic(arithmetic: str) -> None:
    """Raise SettingsError unless ``arithmetic`` is one of ``ARITHMETICS``."""
    if arithmetic not in ARITHMETICS:
        raise SettingsError(f"`arithmetic` is '{arithmetic}'; it must be one of {', '.join(ARITHMETICS)}")

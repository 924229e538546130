"""What a layer computes in: float32, whole numbers of 8 bits, or bfloat16, which is float32 with 8 bits of precision."""

from __future__ import annotations

from lcnn_compress.errors import SettingsError

FLOAT32, INT8, BFLOAT16 = "float32", "int8", "bfloat16"
ARITHMETICS = (FLOAT32, INT8, BFLOAT16)


def check_arithmetic(arithmetic: str) -> None:
    """Raise SettingsError unless ``arithmetic`` is one of ``ARITHMETICS``."""
    if arithmetic not in ARITHMETICS:
        raise SettingsError(f"`arithmetic` is '{arithmetic}'; it must be one of {', '.join(ARITHMETICS)}")

"""What a layer computes in: float32, whole numbers of 8 bits, or bfloat16, which is float32 with 8 bits of precision."""

from __future__ import annotations

from collections.abc import Sequence

from lcnn_compress.errors import SettingsError

FLOAT32, INT8, BFLOAT16 = "float32", "int8", "bfloat16"
ARITHMETICS = (FLOAT32, INT8, BFLOAT16)
# A search chooses for each layer; without a target it means float32.
AUTO = "auto"


def check_arithmetic(arithmetic: str, allowed: Sequence[str] = ARITHMETICS) -> None:
    """Raise SettingsError unless ``arithmetic`` is one of those allowed."""
    if arithmetic not in allowed:
        raise SettingsError(f"`arithmetic` is '{arithmetic}'; it must be one of {', '.join(allowed)}")

"""Whether neighbouring filters have one pattern."""

from __future__ import annotations

import numpy as np


def patterns_in_common(support, share, groups=1):
    """Whether blocks of filters, which may not cross groups, have the same entries."""
    for group in np.split(np.asarray(support), groups):
        for start in range(0, len(group), share):
            block = group[start : start + share]
            if not (block == block.any(0)).all():
                return False
    return True

"""What several tests of captured nets need."""

from __future__ import annotations

import pytest
import torch
from nets import oddities

from lcnn_compress.net.capture import capture


@pytest.fixture(scope="module")
def captured():
    x = torch.randn(2, 3, 11, 10, generator=torch.Generator().manual_seed(1))
    model = oddities()
    return model, capture(model, x), x

"""A net with a dictionary that is large enough to be stored in 8 bits."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from lcnn_compress import api
from lcnn_compress.compression.plan import PlanSettings
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.operators.common import FIRST_STAGE
from lcnn_compress.operators.lookup_conv import OP_TYPE

WIDE_SHAPE = (1, 4, 16, 16)


class Wide(nn.Module):
    """A linear layer whose dictionary is large."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(1024, 300)
        self.last = nn.Linear(300, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.fc(torch.relu(self.conv(x)).flatten(1))))


@functools.cache
def wide_artefacts() -> dict[str, api.Artefact]:
    """The net with 256 rows for layer "fc", and with every coefficient, as each of two types."""
    source = api.open_model(Wide(), WIDE_SHAPE)
    plan = PlanSettings("fc=256", 256, only=("fc",), keep_slow=True)
    return {
        stored: api.compress_source(source, CompressSettings(plan, init="svd", storage=stored, measure=False))
        for stored in ("int8", "float16")
    }


def dictionaries(model: onnx.ModelProto) -> list[np.ndarray]:
    """Return those of lookup convolutions; "fc", which uses every row, is two ordinary ones."""
    constants = {t.name: t for t in model.graph.initializer}
    names = [node.input[1] for node in model.graph.node if node.op_type == OP_TYPE]
    names += [name for name in constants if name.endswith(f"{FIRST_STAGE}.weight")]
    return [numpy_helper.to_array(constants[name]) for name in names]

"""What torch's exporter cannot write is written with what it can: attention of any rank, adaptive maxima."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import outputs
from torch import nn

from lcnn_compress.export.to_onnx import export_onnx
from lcnn_compress.net.capture import capture

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("size", "is_open"), [((1, 1), True), ((3, 5), False), ((4, 1), False), ((16, 16), False)])
def test_maxima_of_parts_of_a_plane(tmp_path: Path, size: tuple[int, int], is_open: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveMaxPool2d(size))
    path = tmp_path / "model.onnx"
    export_onnx(capture(model, torch.zeros(1, 3, 16, 16)), path, (1, 3, 16, 16))
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [bool(dim.dim_param) for dim in dims] == [True, False, is_open, is_open]
    for shape in ((1, 3, 16, 16), (3, 3, 16, 16), *([(2, 3, 9, 14)] if is_open else [])):
        x = torch.randn(shape)
        np.testing.assert_allclose(outputs(path, x), model(x).detach().numpy(), atol=1e-5)


class WindowAttention(nn.Module):
    """Attention over 12 tokens with 0 to 3 axes before them and the batch, as windows and grids of windows have."""

    def __init__(self, axes, mask):
        super().__init__()
        self.linear = nn.Linear(16, 48)
        self.axes, self.mask = axes, mask

    def forward(self, x):
        q, k, v = self.linear(x.flatten(1).reshape(len(x), *self.axes, -1, 16)).chunk(3, -1)
        length = q.shape[-2]
        mask = {
            "none": None,
            "plain": torch.ones(length, length).tril(),
            "whole": q.mean(-1, keepdim=True).repeat_interleave(length, -1),
        }
        return nn.functional.scaled_dot_product_attention(q, k, v, mask[self.mask], scale=0.3)


@pytest.mark.parametrize(("axes", "mask"), [((), "plain"), ((2, 3), "whole"), ((1, 2, 3), "none")])
def test_attention_of_any_rank(tmp_path, axes, mask):
    torch.manual_seed(0)
    net = capture(WindowAttention(axes, mask), torch.zeros(1, 3, 8, 8))
    export_onnx(net, tmp_path / "attention.onnx", (1, 3, 8, 8))
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(tmp_path / "attention.onnx", x), net(x).numpy(), atol=1e-5)

"""Nodes of layers carry the layers' names, and no others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported import REUSED, Reused, compressed, outputs
from torch import nn
from torch.nn import functional

from lcnn_compress import api
from lcnn_compress.benchmark.profile import Rounds, layer_times
from lcnn_compress.compression.pipeline import compress_net
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.errors import ModelError
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.template import with_factors
from lcnn_compress.export.to_onnx import export_onnx
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured, layers


def test_a_layer_may_be_called_again(tmp_path):
    shape = (1, 3, 16, 16)
    dense = capture(Reused(), torch.zeros(shape))
    net = compress_net(Captured.of(dense, shape), CompressSettings(measure=False), plans=REUSED).net
    path, ordinary = tmp_path / "model.onnx", tmp_path / "dense.onnx"
    export_onnx(net, path, shape)
    model = onnx.load(path)
    called = [n.name for n in model.graph.node if n.op_type in ("Conv", "LookupConv")]
    thin = ["thin/dictionary", "thin", "thin/call2/dictionary", "thin/call2"]
    assert called == ["stem", "head", "head/call2", *thin, "last", "last/call2"]
    ordinary.write_bytes(dense_form(model).SerializeToString())
    assert [t.name for t in onnx.load(ordinary).graph.initializer if t.name.endswith("weight")] == [
        "stem.weight", "last.weight", "head.weight", "thin.weight",
    ]  # fmt: skip
    part = dense_form(model, {"head"})
    assert [n.op_type for n in part.graph.node].count("LookupConv") == 0
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for file, native in ((path, True), (path, False), (ordinary, False)):
            np.testing.assert_allclose(outputs(file, x, native=native), net(x).numpy(), atol=2e-5)
    twin = with_factors(model, net, "float16")
    assert [n.name for n in twin.graph.node if n.op_type in ("Conv", "LookupConv")] == called
    times = layer_times(path, rounds=Rounds(1, 1, 2))
    assert set(times) == {"stem", "head", "thin", "last", "(other)"}


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.b = nn.Conv2d(3, 16, 3), nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).flatten(2).transpose(1, 2)
        return self.b(self.b(self.mix(x, x, x, need_weights=False)[0]) @ x.transpose(1, 2) @ x)


def test_products_without_weights_are_no_layers(tmp_path, caplog):
    shape = (1, 3, 8, 8)
    dense = capture(Attending(), torch.zeros(shape))
    names = [layer.name for layer in layers(dense, torch.zeros(shape))]
    assert names == ["a", "mix.in_proj", "mix.out_proj", "b"]
    export_onnx(dense, tmp_path / "model.onnx", shape)
    named = [n.name for n in onnx.load(tmp_path / "model.onnx").graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert [name for name in named if name] == [*names, "b/call2"]
    assert named.count("") == 4
    assert set(layer_times(tmp_path / "model.onnx", rounds=Rounds(1, 1, 2))) == {*names, "(other)"}
    assert "no time found" not in caplog.text


def test_zeros_padded_before_a_max_pooling_stay_zeros(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2), nn.Conv2d(16, 8, 1))
    model[0].bias.data.fill_(-9.0)  # every zero is the largest of its window
    net = compressed(model, (1, 3, 16, 16))
    assert export_onnx(net, tmp_path / "net.onnx", (1, 3, 16, 16)) < 1e-5


class Absurd(nn.Module):
    """A net that torch runs at once; ONNX Runtime would take minutes for the first of its poolings."""

    def __init__(self, **pool: Any) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, padding=1), pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(self.conv(x), **self.pool)


@pytest.mark.parametrize(
    ("pool", "seen"),
    [
        (
            {"kernel_size": 1 << 20, "stride": 1, "padding": 1 << 19},
            "pads of AveragePool '.*' is 524288, 524288",
        ),
        ({"kernel_size": 3, "stride": 1 << 20}, "strides of AveragePool '.*' is 1048576, 1048576"),
    ],
)
def test_a_pooling_that_no_net_has_is_refused_before_anything_runs_it(pool: dict[str, int], seen: str, tmp_path: Path) -> None:
    shape = (1, 3, 16, 16)
    net = capture(Absurd(**pool), torch.zeros(shape))
    with pytest.raises(ModelError, match=rf"ModelError: {seen}.*; it must be whole numbers from [01] to 65535"):
        export_onnx(net, tmp_path / "net.onnx", shape)
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("net", [nn.MaxPool2d(5), nn.AvgPool2d(5), nn.Conv2d(3, 8, 5)])
def test_a_plane_smaller_than_the_window_is_refused(net: nn.Module) -> None:
    with pytest.raises(ModelError):
        api.open_model(nn.Sequential(nn.Conv2d(3, 3, 1), net), (1, 3, 4, 4))

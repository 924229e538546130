"""Nodes of layers carry the layers' names, and no others do."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from exported import REUSED, Reused, compressed, outputs
from torch import nn

from lcnn_compress.benchmark.profile import layer_times
from lcnn_compress.compression.pipeline import compress_net
from lcnn_compress.compression.settings import CompressSettings
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
    times = layer_times(path, runs=2)
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
    assert set(layer_times(tmp_path / "model.onnx", runs=2)) == {*names, "(other)"}
    assert "no time found" not in caplog.text


def test_zeros_padded_before_a_max_pooling_stay_zeros(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2), nn.Conv2d(16, 8, 1))
    model[0].bias.data.fill_(-9.0)  # every zero is the largest of its window
    net = compressed(model, (1, 3, 16, 16))
    assert export_onnx(net, tmp_path / "net.onnx", (1, 3, 16, 16)) < 1e-5

"""Which poolings of a net become ours, are done inside lookup convolutions, or stay standard."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lcnn_compress import runtime
from lcnn_compress.compression.pipeline import compress_net
from lcnn_compress.compression.plan import PlanSettings
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.template import with_factors
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured
from lcnn_compress.operators.common import DOMAIN
from lcnn_compress.operators.lookup_conv import OP_TYPE


class Pools(nn.Module):
    """Poolings behind a lookup convolution, behind a pooling, behind a dense convolution, and one that rounds up."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)  # stays dense
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 3, 2, 1)
        x = nn.functional.max_pool2d(x, 2, 1)
        x = nn.functional.max_pool2d(self.conv3(x).relu(), 2, 2, ceil_mode=True)
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    plan = PlanSettings("0.5", 2, keep_slow=True)
    shape = (1, 3, 35, 41)
    return compress_net(Captured.of(capture(Pools(), torch.zeros(shape)), shape), CompressSettings(plan, measure=False)).net


def pools(model: onnx.ModelProto) -> list[str]:
    return [node.domain for node in model.graph.node if node.op_type == "MaxPool"]


def test_poolings_behind_lookups_are_inside_them_or_ours(net):
    model = to_onnx(net, (1, 3, 35, 41), ExportSettings(), {})
    assert pools(model) == ["", DOMAIN, ""]
    assert pooled(model) == {"conv2": [[3, 3], [2, 2], [1, 1, 1, 1]], "conv3": [[1, 1], [1, 1], [0] * 4]}
    assert sorted(f.name for f in model.functions) == ["LookupConv", "MaxPool"]
    x = torch.randn(2, 3, 35, 41)
    with torch.no_grad():
        want = net(x).numpy()
    for native in {False, runtime.library_path() is not None}:
        got = runtime.session(model.SerializeToString(), native=native).run(None, {"input": x.numpy()})[0]
        np.testing.assert_allclose(got, want, atol=2e-5)


def pooled(model: onnx.ModelProto) -> dict[str, list[list[int]]]:
    nodes = [node for node in model.graph.node if node.op_type == OP_TYPE]
    return {node.name: [list(a.ints) for a in node.attribute if a.name.startswith("pool_")] for node in nodes}


class Branches(nn.Module):
    """Lookup convolutions whose results are pooled, and read by something else or added to."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))

    def forward(self, x):
        y = self.conv1(x).relu()
        z = (self.conv2(y) + y).relu()
        return nn.functional.max_pool2d(y, 2), nn.functional.max_pool2d(z, 2), nn.functional.hardswish(self.conv3(z))


def test_what_is_added_to_or_read_twice_is_pooled_apart():
    shape = (1, 16, 12, 14)
    plan = PlanSettings("0.5", 2, keep_slow=True)
    branches = compress_net(
        Captured.of(capture(Branches(), torch.zeros(shape)), shape), CompressSettings(plan, measure=False)
    ).net
    model = to_onnx(branches, shape, ExportSettings(), {})
    assert pools(model) == [DOMAIN, DOMAIN]
    assert pooled(model) == {"conv1": [], "conv2": [], "conv3": []}


def test_pooling_and_hard_swish_agree_with_torch_natively_and_by_the_body():
    shape = (1, 8, 31, 45)
    net = nn.Sequential(
        nn.Conv2d(8, 16, 5, 2, 2), nn.Hardswish(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU6(),
        nn.MaxPool2d((2, 3), (2, 1), (0, 1)), nn.Conv2d(24, 8, 3),
    )  # fmt: skip
    plan = PlanSettings("0.5", 2, keep_slow=True)
    made = compress_net(Captured.of(capture(net, torch.zeros(shape)), shape), CompressSettings(plan, measure=False)).net
    model = to_onnx(made, shape, ExportSettings(), {})
    onnx.checker.check_model(model, full_check=True)
    assert pools(model) == []
    x = torch.randn(3, 8, 40, 33)
    with torch.no_grad():
        want = made(x).numpy()
    for native in {False, runtime.library_path() is not None}:
        got = runtime.session(model.SerializeToString(), native=native, threads=2).run(None, {"input": x.numpy()})[0]
        np.testing.assert_allclose(got, want, atol=2e-5)
    got = runtime.session(dense_form(model).SerializeToString()).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_poolings_behind_layers_turned_dense_are_standard_again(net):
    model = to_onnx(net, (1, 3, 35, 41), ExportSettings(), {})
    mixed = dense_form(model, {"conv2"})
    assert pools(mixed) == ["", "", "", ""]
    assert [f.name for f in mixed.functions] == ["LookupConv"]
    assert pooled(mixed) == {"conv3": []}
    assert pools(dense_form(model, {"conv3"})) == ["", DOMAIN, ""]
    dense = dense_form(model)
    assert pools(dense) == [""] * 4
    assert not dense.functions
    onnx.checker.check_model(dense, full_check=True)


def test_a_twin_has_the_poolings_of_its_own_layers(net):
    template = to_onnx(net, (1, 3, 35, 41), ExportSettings(), {})
    twin = with_factors(template, net, "float16")
    assert pools(twin) == ["", DOMAIN, ""]
    assert pooled(twin) == pooled(template)
    dense = capture(Pools(), torch.zeros(1, 3, 35, 41))
    assert pools(with_factors(template, dense, "float16")) == [""] * 4

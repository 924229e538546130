"""Lookup convolutions as ordinary ones: dense layers, and low-rank layers as two convolutions that count as one layer.

Those of linear layers are matrix products, as the layers were.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cases import small_net
from command_line import needs_library
from exported import outputs
from flattened import PLANE, flattened_artefact, planes
from onnx import numpy_helper

from lcnn_compress import api, runtime
from lcnn_compress.benchmark.profile import OTHER, layer_times
from lcnn_compress.compression.plan import LayerPlan
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import with_lookups
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.operators.lookup_conv import OP_TYPE

pytestmark = pytest.mark.usefixtures("one_thread")


def test_dense_form_is_a_matrix_product_of_the_same_name() -> None:
    model = to_onnx(flattened_artefact().net, PLANE, ExportSettings(), {})
    dense = dense_form(model)
    fc1 = next(n for n in dense.graph.node if n.name == "fc1")
    assert fc1.op_type == "Gemm"
    x = planes(2).numpy()
    mine, other = (runtime.session(m.SerializeToString(), native=False).run(None, {"input": x})[0] for m in (model, dense))
    assert abs(mine - other).max() < 1e-5


def test_dense_form_needs_nothing_of_ours(exported, tmp_path):
    net, path = exported
    dense = dense_form(onnx.load(path))
    assert not dense.functions
    assert {o.domain for o in dense.opset_import} == {""}
    assert [n.op_type for n in dense.graph.node].count("Conv") == 3
    onnx.checker.check_model(dense, full_check=True)
    x = torch.randn(2, 3, 16, 16)
    (tmp_path / "dense.onnx").write_bytes(dense.SerializeToString())
    with torch.no_grad():
        np.testing.assert_allclose(outputs(tmp_path / "dense.onnx", x), net(x).numpy(), atol=2e-5)


SHAPE = (1, 3, 16, 16)


PLANS = [
    LayerPlan("stem", "lowrank", "", 2, 2),
    LayerPlan("conv1", "lookup", "", 8, 2),
    LayerPlan("conv2", "lowrank", "", 8, 8),  # with residual and activation
    LayerPlan("fc", "lowrank", "", 6, 6),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    artefact = api.compress_source(api.open_model(small_net(), SHAPE), CompressSettings(measure=False), plans=PLANS)
    path = tmp_path_factory.mktemp("ordinary") / "net.onnx"
    api.export_onnx(artefact, path)
    return artefact.net, path


def layer_nodes(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(node.name, node.op_type) for node in model.graph.node if node.op_type in ("Conv", "Gemm", OP_TYPE)]


def test_low_rank_layers_become_two_convolutions(written: tuple[torch.nn.Module, Path]) -> None:
    model = onnx.load(written[1])
    assert layer_nodes(model) == [
        ("stem/dictionary", "Conv"), ("stem", "Conv"), ("conv1", OP_TYPE),
        ("conv2/dictionary", "Conv"), ("conv2", "Conv"), ("fc/dictionary", "Gemm"), ("fc", "Gemm"),
    ]  # fmt: skip
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert constants["conv2/dictionary.weight"].shape == (8, 32, 1, 1)
    assert constants["conv2.kernel"].shape == (32, 8, 3, 3)
    assert constants["conv2.kernel"].dtype == constants["conv2/dictionary.weight"].dtype == np.float16


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (3, 3, 9, 31)])
def test_two_convolutions_agree_with_torch(written: tuple[torch.nn.Module, Path], native: bool, shape: tuple[int, ...]) -> None:
    net, path = written
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = net(x).numpy()
    got = runtime.session(path, native=native).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_the_dense_form_has_one_convolution_for_each_layer(written: tuple[torch.nn.Module, Path]) -> None:
    net, path = written
    dense = dense_form(onnx.load(path))
    onnx.checker.check_model(dense, full_check=True)
    assert layer_nodes(dense) == [("stem", "Conv"), ("conv1", "Conv"), ("conv2", "Conv"), ("fc", "Gemm")]
    assert not any("/dictionary" in t.name for t in dense.graph.initializer)
    weights = {t.name: numpy_helper.to_array(t) for t in dense.graph.initializer}
    for name in ("stem", "conv2", "fc"):
        layer = net.get_submodule(name)
        assert isinstance(layer, LookupConv2d)
        np.testing.assert_allclose(weights[f"{name}.weight"], layer.weight().detach().numpy(), rtol=0, atol=1e-6)
    some = dense_form(onnx.load(path), {"conv2"})
    assert layer_nodes(some)[3:] == [("conv2", "Conv"), ("fc/dictionary", "Gemm"), ("fc", "Gemm")]
    assert layer_nodes(some)[:3] == layer_nodes(onnx.load(path))[:3]
    x = torch.randn(2, *SHAPE[1:], generator=torch.Generator().manual_seed(0)).numpy()
    want = runtime.session(path).run(None, {"input": x})[0]
    for model in (dense, some):
        y = runtime.session(model.SerializeToString()).run(None, {"input": x})[0]
        np.testing.assert_allclose(y, want, rtol=0, atol=2e-5)


@needs_library
def test_both_convolutions_count_for_the_layer(written: tuple[torch.nn.Module, Path], caplog: pytest.LogCaptureFixture) -> None:
    times = layer_times(written[1])
    assert set(times) == {"stem", "conv1", "conv2", "fc", OTHER}
    assert not caplog.messages


def test_groups_stay_apart() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(16, 12, 3, 2, groups=2, bias=False), torch.nn.ReLU6())
    geometry = ConvGeometry((3, 3), (2, 2), groups=2)
    generator = torch.Generator().manual_seed(0)
    rows, kernel = torch.randn(6, 8, generator=generator).half(), torch.randn(12, 3, 3, 3, generator=generator).half()
    dense = capture(net, torch.zeros(1, 16, 9, 9))
    found = layers(dense, torch.zeros(1, 16, 9, 9))
    lookup = LookupConv2d(rows.float(), kernel.float(), None, geometry)
    built = with_lookups(Captured.of(dense, (1, 16, 9, 9)), {found[0].name: lookup})
    model = to_onnx(built, (1, 16, 9, 9), ExportSettings(), {})
    assert [node.op_type for node in model.graph.node if node.op_type in ("Conv", OP_TYPE)] == ["Conv", "Conv"]
    x = torch.randn(2, 16, 9, 9, generator=generator)
    got = runtime.session(model.SerializeToString()).run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(got, built(x).numpy(), rtol=0, atol=1e-4)


def test_strides_of_a_1x1_are_taken_where_least_is_computed() -> None:
    dense = capture(torch.nn.Sequential(torch.nn.Conv2d(16, 12, 1, (2, 3))), torch.zeros(1, 16, 9, 11))
    generator = torch.Generator().manual_seed(0)
    rows, kernel = torch.randn(4, 16, generator=generator).half(), torch.randn(12, 4, 1, 1, generator=generator).half()
    lookup = LookupConv2d(rows.float(), kernel.float(), None, ConvGeometry((1, 1), (2, 3)))
    built = with_lookups(Captured.of(dense, (1, 16, 9, 11)), {"0": lookup})
    model = to_onnx(built, (1, 16, 9, 11), ExportSettings(), {})
    x = torch.randn(2, 16, 9, 11, generator=generator)
    assert strides(model) == [[2, 3], [1, 1]]
    assert strides(dense_form(model)) == [[2, 3]]
    with torch.no_grad():
        want = torch.nn.functional.conv2d(x, lookup.weight(), lookup.bias, (2, 3)).numpy()
        np.testing.assert_allclose(built(x).numpy(), want, rtol=0, atol=1e-4)
    for form in (model, dense_form(model)):
        got = runtime.session(form.SerializeToString()).run(None, {"input": x.numpy()})[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def strides(model: onnx.ModelProto) -> list[list[int]]:
    return [list(a.ints) for node in model.graph.node for a in node.attribute if a.name == "strides"]


def test_a_full_identity_stays_an_operator() -> None:
    dense = capture(torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3)), torch.zeros(1, 8, 9, 9))
    lookup = LookupConv2d(torch.eye(8), torch.ones(8, 8, 3, 3), None, ConvGeometry((3, 3)))
    model = to_onnx(with_lookups(Captured.of(dense, (1, 8, 9, 9)), {"0": lookup}), (1, 8, 9, 9), ExportSettings(), {})
    assert layer_nodes(model) == [("0", OP_TYPE)]


class Linears(torch.nn.Module):
    """Linear layers on a flattened plane, on tokens and on features, and a convolution that only looks like one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.flat, self.tokens, self.head = torch.nn.Linear(16 * 20, 24), torch.nn.Linear(16, 24), torch.nn.Linear(24, 6)
        self.squeeze = torch.nn.Conv2d(16, 24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        squeezed = self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid().flatten(1)
        tokens = torch.relu(self.tokens(x.flatten(2).transpose(1, 2)))
        logits: torch.Tensor = self.head(torch.relu(self.flat(x.flatten(1))) * squeezed + tokens.mean(1))
        return logits


@pytest.mark.parametrize("native", [True, False])
def test_linear_layers_are_matrix_products_in_ordinary_form(native: bool) -> None:
    shape = (1, 3, 4, 5)
    source = api.open_model(Linears().eval(), shape)
    plans = [
        LayerPlan(layer.name, *(("dense", "") if layer.name == "stem" else ("lowrank", "", 5, 5)))
        for layer in layers(source.net, torch.zeros(shape))
    ]
    net = api.compress_source(source, CompressSettings(measure=False, storage="float32"), plans=plans).net
    low_rank = to_onnx(net, shape, ExportSettings("float32"), {})
    # A rank of many channels is a convolution of the plane, and only then are the rows flattened.
    expected = {
        "stem": ["Conv"], "squeeze": ["Conv"] * 2, "flat": ["Conv", "Gemm"], "tokens": ["Gemm"] * 2, "head": ["Gemm"] * 2,
    }  # fmt: skip
    found: dict[str, list[str]] = {}
    for name, kind in layer_nodes(low_rank):
        found.setdefault(name.removesuffix("/dictionary"), []).append(kind)
    assert found == expected
    dense = dense_form(low_rank)
    assert sorted(layer_nodes(dense)) == sorted((name, kinds[-1]) for name, kinds in expected.items())
    x = torch.randn(3, *shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = net(x).numpy()
    for model in (low_rank, dense, dense_form(low_rank, {"flat", "head"})):
        onnx.checker.check_model(model, full_check=True)
        got = runtime.session(model.SerializeToString(), native=native).run(None, {"input": x.numpy()})[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)

"""A Linear on a flattened (N, C, H, W) becomes an (H, W) lookup convolution on C channels, from the plan to the ONNX file."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from cases import tolerance
from torch import Tensor, nn

from lcnn_compress import api, runtime
from lcnn_compress.artefact.artefact import load_artefact, save_artefact
from lcnn_compress.compress.plan import PlanSettings, plan_layers, planned_macs
from lcnn_compress.compress.refit import refit
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.export.verify import verify
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.geometry import ConvGeometry
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import fold_batch_norms, replace_layer
from lcnn_compress.net.layers import FEW_CHANNELS, Layer, layers
from lcnn_compress.operators.common import DOMAIN
from lcnn_compress.train.recipe import FinetuneSettings

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 3, 4, 5)  # not square: catches swapped axes
FLATTENS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(x.shape[0], -1),
    "reshape": lambda x: x.reshape(-1, 160),
}


class Flattened(nn.Module):
    """Conv -> flatten -> (dropout) -> Linear -> (batch norm) -> ReLU -> Linear."""

    def __init__(self, flatten: str = "flatten", *, dropout: float = 0.0, norm: bool = False, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.flatten, self.dropout = FLATTENS[flatten], nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc1 = nn.Linear(channels * 20, 12)
        self.norm = nn.BatchNorm1d(12) if norm else nn.Identity()
        self.fc2 = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.fc1(self.dropout(self.flatten(torch.relu(self.conv(x))))))
        logits: Tensor = self.fc2(torch.relu(x))
        return logits


def found(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers(capture(model, torch.zeros(shape)), torch.zeros(shape))}


def exact(layer: Layer) -> LookupConv2d:
    """The same layer with the identity as dictionary."""
    weight = layer.weight().detach()
    return LookupConv2d(torch.eye(weight.shape[1]), weight, layer.module.bias, layer.geometry)


def replaced(model: nn.Module, *names: str, shape: tuple[int, ...] = SHAPE):
    net = capture(model, torch.zeros(shape))
    for layer in layers(net, torch.zeros(shape)):
        if layer.name in names:
            replace_layer(net, layer, exact(layer))
    return net


def images(n: int = 3) -> Tensor:
    return torch.randn(n, *SHAPE[1:], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("flatten", "dropout"), [*itertools.product(FLATTENS, (0.0, 0.5))])
def test_geometry_weight_and_macs_are_those_of_a_convolution(flatten: str, dropout: float) -> None:
    model = Flattened(flatten, dropout=dropout)
    fc1 = found(model)["fc1"]
    assert (fc1.geometry, fc1.sizes, fc1.obstacle) == (ConvGeometry((4, 5)), ((4, 5),), None)
    assert (fc1.in_channels, fc1.out_channels, fc1.dense_macs) == (8, 12, 8 * 20 * 12)
    assert torch.equal(fc1.weight(), model.fc1.weight.view(12, 8, 4, 5))
    plan = plan_layers([fc1], PlanSettings("fc1=3", 1))[0]
    assert planned_macs(fc1, plan) == 3 * 8 * 20 + 1 * 12 * 20
    assert plan_layers([fc1], PlanSettings("fast", only=("fc1",)))[0].dictionary_size == 2  # a quarter of 8 channels


def test_replaced_layer_reads_the_planes_and_gives_the_same_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(160, 12)).eval()
    net = replaced(model, "2")
    assert [str(n.target) for n in net.graph.nodes if n.op == "call_module"] == ["0", "2"]
    assert not any("flatten" in str(node.target) for node in net.graph.nodes)
    x = images()
    with torch.no_grad():
        allowed = tolerance(net.get_submodule("2"), model[0](x)).flatten(1)
        assert ((net(x) - model(x)).abs() <= allowed).all()


@pytest.mark.parametrize(("flatten", "dropout"), [*itertools.product(FLATTENS, (0.0, 0.5))])
def test_whole_net_is_the_same_with_full_rank_dictionaries(flatten: str, dropout: float) -> None:
    model = Flattened(flatten, dropout=dropout, norm=True).eval()
    model.norm.running_mean.normal_()
    net = replaced(model, "fc1", "fc2").double()  # sums of 160 float64 terms differ by far less than the 1e-7 allowed
    for _ in range(2):
        torch.testing.assert_close(net(images().double()), copy.deepcopy(model).double()(images().double()))
        fold_batch_norms(net)
    assert not any(isinstance(m, (nn.Dropout, nn.BatchNorm1d)) for m in net.modules())


def test_dropout_still_drops_in_training() -> None:
    net = replaced(Flattened(dropout=0.5), "fc1").train()
    assert not torch.equal(net(images()), net(images()))


class Heads(nn.Module):
    """Layers that read one flattened tensor; ``a`` is also called on another plane, ``often`` also on features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b, self.often = nn.Linear(160, 4), nn.Linear(160, 160), nn.Linear(160, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        turned = self.conv(x).transpose(2, 3).flatten(1)
        x = nn.functional.dropout(self.conv(x).flatten(1), training=self.training)
        return self.a(x), self.a(turned), self.often(x) + self.often(self.b(x))


def test_layers_that_share_a_flatten_and_layers_called_with_different_shapes() -> None:
    model = Heads().eval()
    named = found(model)
    kernels = {name: layer.geometry.kernel for name, layer in named.items()}
    assert kernels == {"conv": (3, 3), "a": (1, 1), "b": (4, 5), "often": (1, 1)}
    assert named["a"].sizes == named["often"].sizes == ((1, 1), (1, 1))
    net = replaced(model, "a", "b", "often").double()
    for got, want in zip(net(images().double()), model.double()(images().double()), strict=True):
        torch.testing.assert_close(got, want)


def test_one_pixel_few_channels_and_a_flattened_batch_stay_a_1x1_convolution() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    few = Flattened(channels=FEW_CHANNELS)
    rows = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(0, 2), nn.Linear(5, 4))
    for model, name, features in ((pooled, "3", 8), (few, "fc1", 20 * FEW_CHANNELS), (rows, "2", 5)):
        layer = found(model)[name]
        assert (layer.geometry.kernel, set(layer.sizes), layer.in_channels) == ((1, 1), {(1, 1)}, features), name


@pytest.mark.parametrize("channels", [FEW_CHANNELS, 8])
def test_input_of_another_size_is_refused_as_before(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.Flatten(), nn.Linear(20 * channels, 12)).eval()
    for net in (model, replaced(model, "2")):
        assert net(images()).shape == (3, 12)
        with pytest.raises(RuntimeError):
            net(torch.zeros(1, 3, 8, 10))  # four times the plane


@pytest.fixture(scope="module")
def artefact():
    torch.manual_seed(0)
    settings = CompressSettings(PlanSettings("fc1=4,fc2=4", 2, only=("fc*",), keep_slow=True), measure=False)
    return api.compress(api.open_model(Flattened(dropout=0.5), SHAPE), settings=settings)


def test_onnx_file_has_one_node_with_its_activation_on_the_planes(artefact) -> None:
    model = to_onnx(artefact.net, SHAPE, ExportSettings(), {})
    assert verify(artefact.net, model.SerializeToString(), SHAPE, 1e-5) < 1e-5
    fc1 = next(n for n in model.graph.node if n.name == "fc1")
    values = {a.name: onnx.helper.get_attribute_value(a) for a in fc1.attribute}
    assert (fc1.domain, values["kernel_shape"], values["pads"], values["clip_min"]) == (DOMAIN, [4, 5], [0, 0, 0, 0], 0.0)
    kinds = [n.op_type for n in model.graph.node]
    assert "Flatten" not in kinds
    assert kinds.index("LookupConv") == kinds.index("Relu") + 1  # reads the convolution's activation itself
    assert kinds.count("Relu") == 1
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[2].dim_value, dims[3].dim_value) == ("batch", 4, 5)
    onnx.checker.check_model(model, full_check=True)


def test_dense_form_is_a_matrix_product_of_the_same_name(artefact) -> None:
    model = to_onnx(artefact.net, SHAPE, ExportSettings(), {})
    dense = dense_form(model)
    fc1 = next(n for n in dense.graph.node if n.name == "fc1")
    assert fc1.op_type == "Gemm"
    x = images(2).numpy()
    mine, other = (runtime.session(m.SerializeToString(), native=False).run(None, {"input": x})[0] for m in (model, dense))
    assert abs(mine - other).max() < 1e-5


def test_artefact_and_report(artefact, tmp_path: Path) -> None:
    save_artefact(artefact, tmp_path / "net.lcnn")
    assert torch.equal(load_artefact(tmp_path / "net.lcnn").net(images()), artefact.net(images()))
    row = next(row for row in artefact.report.layers if row.name == "fc1")
    assert (row.type, row.kernel, row.in_channels, row.input_sizes) == ("Linear", (4, 5), 8, ((4, 5),))
    assert (row.macs_stage1, row.macs_stage2) == (4 * 8 * 20, 2 * 12 * 20)


def test_refit_lowers_the_error_of_the_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(160, 12)).eval()
    dense = capture(model, torch.zeros(SHAPE))
    settings = CompressSettings(PlanSettings("3=2", 1, only=("3",)), measure=False)
    net = api.compress(api.open_model(model, SHAPE), settings=settings).net
    x = images(800)
    with torch.no_grad():
        start = float((net(x) - dense(x)).norm())
        before, after = refit(net, dense, [x])["3"]
        end = float((net(x) - dense(x)).norm())
    assert end < 0.99 * start
    assert after / before == pytest.approx(end / start, rel=1e-5)


class Noise:
    """Random images with random classes."""

    def __len__(self) -> int:
        return 16

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return images(len(indices)), indices % 10


@pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
def test_fine_tuning_trains_it(sparsity: str) -> None:
    plan = PlanSettings("fc1=4", 2, only=("fc1",))
    settings = CompressSettings(plan, measure=False, finetune=FinetuneSettings(epochs=1, batch_size=8, sparsity=sparsity))
    made = api.compress(api.open_model(Flattened(dropout=0.5), SHAPE), settings=settings, data=TrainingData(examples=Noise()))
    lookup = made.net.get_submodule("fc1")
    assert isinstance(lookup, LookupConv2d)
    assert lookup.sparse_kernel.shape == (12, 4, 4, 5)
    assert verify(made.net, to_onnx(made.net, SHAPE, ExportSettings(), {}).SerializeToString(), SHAPE, 1e-5) < 1e-5

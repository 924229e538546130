"""ONNX files: right numbers with and without the library, dynamic sizes, and no file after a failed check."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from command_line import needs_library
from exported import compressed, outputs
from flattened import PLANE, flattened_artefact
from torch import Tensor, nn

from lcnn_compress import api, runtime
from lcnn_compress.compression.pipeline import Reusable, compress_net
from lcnn_compress.compression.plan import LayerPlan, PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.errors import DataError, MissingError, ModelError
from lcnn_compress.export.to_onnx import ExportSettings, export_onnx, to_onnx
from lcnn_compress.export.verify import verify
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.operators.common import DOMAIN

pytestmark = pytest.mark.usefixtures("one_thread")


def test_onnx_file_has_one_node_with_its_activation_on_the_planes() -> None:
    model = to_onnx(flattened_artefact().net, PLANE, ExportSettings(), {})
    assert verify(flattened_artefact().net, model.SerializeToString(), PLANE, 1e-5) < 1e-5
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


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (4, 3, 16, 16), (2, 3, 9, 31)])
def test_every_batch_and_size_agrees_with_torch(exported, native, shape):
    net, path = exported
    x = torch.randn(shape)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(path, x, native=native), net(x).numpy(), atol=2e-5)


def test_inliner_of_onnx_can_replace_the_operator(exported, tmp_path):
    from onnx.inliner import inline_local_functions

    net, path = exported
    inlined = inline_local_functions(onnx.load(path))
    assert all(n.domain != DOMAIN for n in inlined.graph.node)
    onnx.save(inlined, tmp_path / "inlined.onnx")
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(tmp_path / "inlined.onnx", x, native=False), net(x).numpy(), atol=2e-5)


def test_file_passes_the_full_checker_and_shape_inference(exported):
    model = onnx.load(exported[1])
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 10


def test_without_body_the_file_needs_the_library(exported, tmp_path):
    net, _ = exported
    path = tmp_path / "strict.onnx"
    if runtime.library_path() is None:
        pytest.skip("the native library is not installed")
    export_onnx(net, path, (1, 3, 16, 16), ExportSettings(fallback=False))
    assert not onnx.load(path).functions
    with pytest.raises(MissingError, match=r"strict\.onnx: has no function body"):
        runtime.session(path, native=False)


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3))


def off_in_torch(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Let a layer give something else in torch than its weights say, which no file can repeat."""
    layer.register_forward_hook(lambda _, __, y: change(y))


def test_a_failed_check_writes_nothing(exported, tmp_path):
    net, calls = copy.deepcopy(exported[0]), []
    path = tmp_path / "wrong.onnx"
    net.get_submodule("conv2").register_forward_hook(lambda *_: calls.append(1))
    export_onnx(net, path, (1, 3, 16, 16))
    path.write_bytes(b"the old file")
    last = len(calls)  # it belongs to the last check, after the exporter's own
    calls.clear()
    off_in_torch(net.get_submodule("conv2"), lambda y: y + torch.arange(y.shape[3]) if len(calls) == last else y)
    with pytest.raises(ModelError, match=r"the exported net differs from torch by \d\.\d\de[-+]\d\d .*; nothing was written"):
        export_onnx(net, path, (1, 3, 16, 16))
    assert path.read_bytes() == b"the old file"


def test_a_net_that_magnifies_rounding_is_exported_at_the_users_word(tmp_path):
    net, path = compressed(two_layers(), (1, 3, 16, 16)), tmp_path / "model.onnx"
    off_in_torch(net.get_submodule("2"), lambda y: 1.005 * y)
    with pytest.raises(ModelError, match=r"by \d\.\d\de-03 of their spread, more than 1e-03 \(raise `tolerance`"):
        export_onnx(net, path, (1, 3, 16, 16))
    assert not path.exists()
    assert 1e-3 < export_onnx(net, path, (1, 3, 16, 16), ExportSettings(tolerance=1e-2)) < 5e-3
    # Open axes must hold what they promise whatever the user allows.
    assert [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]


@needs_library
def test_a_net_that_magnifies_rounding_is_timed_like_any_other():
    shape = (1, 3, 16, 16)
    dense = capture(two_layers(), torch.zeros(shape))
    settings = CompressSettings(PlanSettings("0.5", 2, only=("2",), keep_slow=True))
    built: dict[LayerPlan, LookupConv2d] = {}
    compress_net(Captured.of(dense, shape), replace(settings, measure=False), reusable=Reusable(built))
    (layer,) = built.values()
    off_in_torch(layer, lambda y: 1.005 * y)
    artefact = compress_net(Captured.of(dense, shape), settings, reusable=Reusable(built))
    assert artefact.report.totals.speedup is not None
    # What is timed is not held against torch; what is written is.
    for wrong, change in (("nan", lambda y: y * torch.nan), ("inf", lambda y: y[..., 1:])):  # inf is another shape
        off_in_torch(artefact.net.get_submodule("2"), change)
        with pytest.raises(ModelError, match=f"differ from torch's by {wrong}"):
            to_onnx(artefact.net, shape, ExportSettings(), {})


def test_what_onnx_lacks_is_named(tmp_path):
    class Waves(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    net = capture(nn.Sequential(nn.Conv2d(3, 8, 3), Waves()), torch.zeros(1, 3, 6, 6))
    with pytest.raises(ModelError, match=r"torch\.onnx cannot export the net: \w+: .*bessel_j0"):
        export_onnx(net, tmp_path / "waves.onnx", (1, 3, 6, 6))


@pytest.mark.parametrize("native", [True, False])
def test_padding_that_is_not_zeros_and_computed_weights_agree_with_torch(tmp_path, native):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular"), nn.LeakyReLU(0.2), nn.ReflectionPad2d(2),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 24, 5, stride=2)), nn.ReLU(), nn.Upsample(scale_factor=2),
        nn.ReplicationPad2d((0, 1, 2, 0)), nn.Conv2d(24, 8, 3),
    ).eval()  # fmt: skip
    net = compressed(model, (1, 3, 16, 16))
    export_onnx(net, tmp_path / "net.onnx", (1, 3, 16, 16))
    nodes = onnx.load(tmp_path / "net.onnx").graph.node
    assert [n.name for n in nodes if n.domain == DOMAIN] == ["3", "7"]
    for shape in ((1, 3, 16, 16), (2, 3, 9, 31)):
        x = torch.randn(shape)
        np.testing.assert_allclose(outputs(tmp_path / "net.onnx", x, native=native), net(x).detach(), rtol=1e-3, atol=1e-4)


class Mixture(nn.Module):
    """Every image has a kernel of its own (Yang et al. 2019), which torch's exporter takes for one number of images only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.choice = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)
        self.kernels = nn.Parameter(torch.randn(4, 16, 16, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        weight = torch.einsum("nk,koihw->noihw", self.choice(x.mean((2, 3))).softmax(1), self.kernels).flatten(0, 1)
        return nn.functional.conv2d(x.reshape(1, -1, *x.shape[2:]), weight, groups=len(x)).unflatten(1, (len(x), -1))[0]


def test_a_batch_that_cannot_vary_is_one_image(tmp_path):
    net = compressed(Mixture(), (1, 3, 12, 12))
    export_onnx(net, tmp_path / "net.onnx", (1, 3, 12, 12))
    shape = onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape
    assert [axis.dim_value for axis in shape.dim] == [1, 3, 12, 12]


class OneImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x.reshape(1, 3, 12, 12)))


def test_data_in_batches_are_taken_where_the_net_takes_them(tmp_path):
    two = TrainingData([torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))])
    mixture = api.compress_source(api.open_model(Mixture(), (1, 3, 12, 12)), CompressSettings(measure=False), two)
    assert export_onnx(mixture.net, tmp_path / "net.onnx", (1, 3, 12, 12)) < 1e-5
    with pytest.raises(DataError, match=r"does not take a batch of \(2, 3, 12, 12\) of the data: .*; compress it without data"):
        api.compress_source(api.open_model(OneImage(), (1, 3, 12, 12)), CompressSettings(), two)


class FixedSize(nn.Module):
    """Adaptive pooling to 2x2 and a flatten: height and width cannot be dynamic; ReLU6 and sigmoid after layers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(8, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)
        self.c = nn.Linear(64, 32)
        self.d = nn.Linear(32, 4)

    def forward(self, x):
        x = nn.functional.relu6(self.a(x))
        x = torch.sigmoid(self.b(x)) + x
        x = nn.functional.adaptive_avg_pool2d(x, 2)
        return self.d(torch.relu(self.c(torch.flatten(x, 1))))


def test_sizes_the_net_fixes_stay_fixed_and_clip_is_fused(tmp_path):
    torch.manual_seed(0)
    net = compressed(FixedSize(), (1, 8, 12, 12))
    assert sum(layer.obstacle is not None for layer in layers(net, torch.zeros(1, 8, 12, 12))) == 3
    export_onnx(net, tmp_path / "fixed.onnx", (1, 8, 12, 12))
    model = onnx.load(tmp_path / "fixed.onnx")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch"
    assert (dims[2].dim_value, dims[3].dim_value) == (12, 12)
    first = next(n for n in model.graph.node if n.name == "a")
    assert {a.name: a.f for a in first.attribute if a.name.startswith("clip")} == {"clip_min": 0.0, "clip_max": 6.0}
    x = torch.randn(5, 8, 12, 12)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(tmp_path / "fixed.onnx", x), net(x).numpy(), atol=2e-5)


def test_what_the_net_does_not_take_is_not_exported(tmp_path, monkeypatch):
    tried, export = [], torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: tried.append(options) or export(*args, **options))
    net = capture(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(128, 4)), torch.zeros(1, 3, 6, 6))
    export_onnx(net, tmp_path / "flat.onnx", (1, 3, 6, 6))
    assert [list(options["dynamic_shapes"][0]) for options in tried] == [[0]]  # each takes minutes where nets are large


class Named(nn.Module):
    """Gives results under keys, of a plane whose height its code fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        y = torch.cat([self.second(self.first(x)[:, :, i : i + 8]) for i in range(0, x.shape[2], 8)], 2)
        return {"scores": y, "mask": y > 0, "inner": [y * 2, x.shape[3]]}


def test_a_file_has_the_interface_of_its_net_whatever_was_decided(tmp_path) -> None:
    shape = (1, 3, 16, 16)
    for number, net in enumerate((capture(Named(), torch.zeros(shape)), compressed(Named(), shape))):
        path = tmp_path / f"{number}.onnx"
        export_onnx(net, path, shape)
        graph = onnx.load(path).graph
        assert [value.name for value in graph.output] == ["scores", "mask", "inner", "inner_1"]
        assert [bool(dim.dim_param) for dim in graph.input[0].type.tensor_type.shape.dim] == [True, False, False, True]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_exported(kind, tmp_path) -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rows = nn.Conv2d(3, 8, 3), kind(8, 4, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rows(self.conv(x).mean(2).transpose(1, 2))[0]

    torch.manual_seed(0)
    model = Reading().eval()
    export_onnx(capture(model, torch.zeros(1, 3, 8, 8)), tmp_path / "model.onnx", (1, 3, 8, 8))
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(tmp_path / "model.onnx", x), model(x).numpy(), atol=1e-5)

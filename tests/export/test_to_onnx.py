"""ONNX files: right numbers with and without the library, fused epilogues, dynamic sizes, and no file after a failed check."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from cases import small_net
from torch import nn

from lcnn_compress import api, runtime
from lcnn_compress.bench.profile import layer_times
from lcnn_compress.compress.pipeline import compress_net
from lcnn_compress.compress.plan import LayerPlan, PlanSettings
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.errors import DataError, MissingError, ModelError
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.template import with_factors
from lcnn_compress.export.to_onnx import ExportSettings, export_onnx
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.operators.common import DOMAIN
from lcnn_compress.operators.lookup_conv import NO_BOUND


def compressed(model: nn.Module, shape: tuple[int, ...]):
    plan = PlanSettings("0.5", 2, keep_slow=True)
    return compress_net(Captured.of(capture(model, torch.zeros(shape)), shape), CompressSettings(plan, measure=False)).net


def outputs(path, x, **kwargs):
    return runtime.session(path, **kwargs).run(None, {"input": x.numpy()})[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    net = compressed(small_net(), (1, 3, 16, 16))
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    difference = export_onnx(net, path, (1, 3, 16, 16), metadata={"layers": [{"name": "conv1"}]})
    assert difference < 1e-5
    return net, path


def test_batch_norm_relu_and_residual_are_inside_the_node(exported):
    model = onnx.load(exported[1])
    kinds = [n.op_type for n in model.graph.node]
    assert kinds == ["Conv", "Relu", "LookupConv", "LookupConv", "ReduceMean", "Gemm"]
    conv1, conv2 = (n for n in model.graph.node if n.domain == DOMAIN)
    assert (conv1.name, conv2.name) == ("conv1", "conv2")
    assert conv2.input[5] == conv1.output[0]
    for node in (conv1, conv2):
        bounds = {a.name: a.f for a in node.attribute if a.name.startswith("clip")}
        assert bounds == {"clip_min": 0.0, "clip_max": np.float32(NO_BOUND)}
    assert {p.key for p in model.metadata_props} == {"lcnn.layers", "lcnn.input_shape"}
    assert "/" not in onnx.helper.printable_graph(model.graph).replace("/convolved", "")  # no source paths left inside


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (4, 3, 16, 16), (2, 3, 9, 31)])
def test_every_batch_and_size_agrees_with_torch(exported, native, shape):
    net, path = exported
    x = torch.randn(shape)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(path, x, native=native), net(x).numpy(), atol=2e-5)


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


class Reused(nn.Module):
    """One layer at two sizes, as detection heads have it, one that is a product of two, and a dense one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.thin, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.stem(x)).relu()
        x = self.thin(self.thin(self.head(nn.functional.max_pool2d(x, 2))).relu())
        return self.last(x) + self.last(x.flip(2))


REUSED = (
    LayerPlan("stem", "dense", ""),
    LayerPlan("head", "lookup", "", dictionary_size=8, lookups=2),
    LayerPlan("thin", "lowrank", "", dictionary_size=4, lookups=4),
    LayerPlan("last", "dense", ""),
)


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


def test_a_file_tells_the_shapes_of_every_kind(tmp_path):
    source = api.open_model(Reused(), (1, 3, 16, 16))
    artefact = api.compress_source(source, CompressSettings(measure=False), plans=REUSED)
    api.export_onnx(artefact, tmp_path / "model.onnx")
    told = api.describe_onnx(tmp_path / "model.onnx")
    shown = [[row.get(key) for key in ("in_channels", "out_channels", "kernel", "dictionary_size")] for row in told["layers"]]
    assert shown == [[3, 16, [3, 3], None], [16, 16, [3, 3], 8], [16, 16, [3, 3], 4], [16, 4, [1, 1], None]]
    model = onnx.load(tmp_path / "model.onnx")
    next(n for n in model.graph.node if n.name == "stem").name = "other"
    onnx.save(model, tmp_path / "model.onnx")
    told = api.describe_onnx(tmp_path / "model.onnx")
    assert told["facts"]["layers without a node of their name"] == "stem"
    assert [row["name"] for row in told["layers"]] == ["head", "thin", "last"]


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


def test_a_failed_check_writes_nothing(exported, tmp_path, monkeypatch):
    net = copy.deepcopy(exported[0])
    path = tmp_path / "wrong.onnx"
    path.write_bytes(b"the old file")
    monkeypatch.setattr("lcnn_compress.export.verify.largest_difference", lambda *_, native: 0.5 if native else 0.0)
    monkeypatch.setattr(runtime, "library_path", lambda: path)
    with pytest.raises(ModelError, match=r"differs from torch by 5\.00e-01"):
        export_onnx(net, path, (1, 3, 16, 16))
    assert path.read_bytes() == b"the old file"


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


def test_a_net_that_magnifies_rounding_is_exported_at_the_users_word(tmp_path, monkeypatch):
    monkeypatch.setattr("lcnn_compress.export.to_onnx.largest_difference", lambda *_, **__: 5e-3)
    net, path = compressed(small_net(), (1, 3, 16, 16)), tmp_path / "model.onnx"
    with pytest.raises(ModelError, match=r"by 5\.00e-03 of the largest, more than 1e-03 \(raise --tolerance"):
        export_onnx(net, path, (1, 3, 16, 16))
    assert not path.exists()
    assert export_onnx(net, path, (1, 3, 16, 16), ExportSettings(tolerance=1e-2)) == 5e-3
    # Open axes must hold what they promise whatever the user allows.
    assert [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]


def test_a_net_that_magnifies_rounding_is_timed_like_any_other(monkeypatch):
    monkeypatch.setattr("lcnn_compress.export.to_onnx.largest_difference", lambda *_, **__: 5e-3)
    settings = CompressSettings(PlanSettings("0.5", 2, keep_slow=True))
    assert api.compress(small_net(), input_shape=(1, 3, 16, 16), settings=settings).report.totals.speedup > 0
    for wrong in ("nan", "inf"):  # inf is another shape
        monkeypatch.setattr("lcnn_compress.export.to_onnx.largest_difference", lambda *_, wrong=wrong, **__: float(wrong))
        with pytest.raises(ModelError, match=f"differ from torch's by {wrong}"):
            api.compress(small_net(), input_shape=(1, 3, 16, 16), settings=settings)


def test_what_onnx_lacks_is_named(tmp_path):
    class Waves(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    net = capture(nn.Sequential(nn.Conv2d(3, 8, 3), Waves()), torch.zeros(1, 3, 6, 6))
    with pytest.raises(ModelError, match=r"torch\.onnx cannot export the net: \w+: .*bessel_j0"):
        export_onnx(net, tmp_path / "waves.onnx", (1, 3, 6, 6))


class Mobile(nn.Module):
    """The parts of MobileNetV3: hard swish as a module, in place and as a function, behind a sum, a gate and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(inplace=True))
        self.expand = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, groups=32, bias=False), nn.BatchNorm2d(32))
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.project = nn.Sequential(nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.last = nn.Sequential(nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU6(inplace=True))
        self.hidden, self.classifier = nn.Linear(32, 24), nn.Linear(24, 10)

    def forward(self, x):
        x = self.stem(x)
        y = nn.functional.hardswish(self.depthwise(self.expand(x)))
        gate = self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        x = nn.functional.hardswish(self.project(y * nn.functional.hardsigmoid(gate)) + x)
        x = self.last(x).mean((2, 3))
        return self.classifier(nn.functional.hardswish(self.hidden(x)))


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


def test_zeros_padded_before_a_max_pooling_stay_zeros(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2), nn.Conv2d(16, 8, 1))
    model[0].bias.data.fill_(-9.0)  # every zero is the largest of its window
    net = compressed(model, (1, 3, 16, 16))
    assert export_onnx(net, tmp_path / "net.onnx", (1, 3, 16, 16)) < 1e-5


@pytest.fixture(scope="module")
def mobile(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("mobile") / "model.onnx"
    net = compressed(Mobile().eval(), (1, 3, 32, 32))
    assert export_onnx(net, path, (1, 3, 32, 32)) < 1e-5
    return net, path


def test_hard_swish_is_inside_the_node(mobile):
    model = onnx.load(mobile[1])
    lookups = {n.name: {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute} for n in model.graph.node if n.domain}
    swish = {name: values["hard_swish"] for name, values in lookups.items()}
    assert swish == {"expand.0": 1, "excite": 0, "project.0": 1, "last.0": 0, "hidden": 1, "squeeze": 0}
    for name, values in lookups.items():
        unbounded = (-np.float32(NO_BOUND), np.float32(NO_BOUND))
        bounds = {"squeeze": (0, np.float32(NO_BOUND)), "last.0": (0, 6)}.get(name, unbounded)
        assert (values["clip_min"], values["clip_max"]) == bounds
    # What remains follows the stem and the depthwise convolution, which stay dense.
    assert [n.op_type for n in model.graph.node].count("HardSwish") == 2


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 24, 50)])
def test_a_net_with_hard_swish_agrees_with_torch(mobile, native, shape):
    net, path = mobile
    x = 3 * torch.randn(shape)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(path, x, native=native), net(x).numpy(), atol=2e-5)


@pytest.mark.parametrize("way", ["dense", "inlined"])
def test_hard_swish_comes_out_of_the_node_again(mobile, tmp_path, way):
    from onnx.inliner import inline_local_functions

    net, path = mobile
    model = dense_form(onnx.load(path)) if way == "dense" else inline_local_functions(onnx.load(path))
    assert all(not n.domain for n in model.graph.node)
    if way == "dense":
        assert [n.op_type for n in model.graph.node].count("HardSwish") == 5
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "model.onnx")
    x = 3 * torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(tmp_path / "model.onnx", x, native=False), net(x).numpy(), atol=2e-5)


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

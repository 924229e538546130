"""Files of nets in 8 bits and bfloat16: such numbers between layers, as in torch, and float32 where no operator takes them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from command_line import needs_library
from flattened import PLANE, flattened_artefact
from torch import nn
from torch.nn import functional

from lcnn_compress import runtime, zoo
from lcnn_compress.compression.pipeline import in_arithmetic
from lcnn_compress.compression.settings import LayerPlan
from lcnn_compress.export.export_settings import ExportSettings
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.to_onnx import export_onnx, to_onnx
from lcnn_compress.export.verify import BFLOAT16_DIFFERENCE, ROUNDED_DIFFERENCE
from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d
from lcnn_compress.forms.int8 import Int8Conv2d
from lcnn_compress.net.agreement import as_arrays, difference
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import finished
from lcnn_compress.net.layers import Captured
from lcnn_compress.operators import bfloat16_conv as halves
from lcnn_compress.operators import int8_conv as ops
from lcnn_compress.operators import narrow
from lcnn_compress.quantisation.quantise import reason_against

pytestmark = pytest.mark.usefixtures("one_thread")


def captured_of(model: nn.Module, shape: tuple[int, ...]) -> Captured:
    return Captured.of(finished(capture(model.eval(), torch.zeros(shape)), "float32"), shape)


def in_bytes(model: nn.Module, shape: tuple[int, ...], layers: list[str] | None = None):
    return narrowed(captured_of(model, shape), {"int8": layers})


def narrowed(captured: Captured, names: dict[str, list[str] | None]):
    """Return a net with layers, all that can where None is given for their names, in other arithmetic."""
    fit = [layer.name for layer in captured.layers if reason_against(captured, layer) is None]
    plans = [
        LayerPlan(name, "dense", "", arithmetic=arithmetic)
        for arithmetic, chosen in names.items() for name in (fit if chosen is None else chosen)
    ]  # fmt: skip
    calibration = [torch.rand(8, *captured.input_shape[1:], generator=torch.Generator().manual_seed(0))]
    return in_arithmetic(captured.net, captured.input_shape, plans, calibration)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


class Oddly(nn.Module):
    """A sum of rounded values, an activation without an operator, bytes that are also read as float32, two results."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = functional.max_pool2d(self.a(x).relu(), 3, 2, 1, ceil_mode=True)
        y = functional.silu(self.b(x))
        y = self.b(x + y).clamp(-1, 1)
        return self.c(y + x), x.sigmoid()


class Heads(nn.Module):
    """Values that several layers read, joined ones among them, and a pooled one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.d = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).relu()
        joined = torch.cat([self.b(x).relu(), x], 1)
        x = functional.max_pool2d(self.c(joined).relu(), 2)
        return self.d(x.mean((2, 3)).relu())


class Context(nn.Module):
    """A sum of planes and one pixel for all of them, as global context has it, and a pooling to the size that is there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.adaptive_avg_pool2d(self.a(x).relu(), (12, 14))
        pixel = self.b(x.mean((2, 3), keepdim=True)).relu()
        return self.c((x + functional.max_pool2d(pixel, 1)).relu())


class Wise(nn.Module):
    """Depthwise and grouped layers, padding of its own, joined branches of which one is a sum, a flattened plane."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.wise = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped, self.one = nn.Conv2d(16, 24, 3, padding=1, groups=2), nn.Conv2d(16, 24, 1)
        self.last = nn.Linear(48 * 5 * 5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(self.stem(x), (0, 1, 1, 0)).relu()
        x = self.wise(x).clamp(0, 6)
        x = torch.cat([self.grouped(x) + self.one(x), self.one(x).relu()], 1)
        return self.last(functional.max_pool2d(x, 2).flatten(1))


class Pooled(nn.Module):
    """Two layers that read the same pooled values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(self.a(x).relu(), 2)
        return self.b(x) - self.c(x)


NETS = {
    "wise": (Wise, (1, 3, 20, 20)),
    "residual": (zoo.fashion_resnet, (1, 1, 28, 28)),
    "oddly": (Oddly, (1, 3, 21, 18)),
    "heads": (Heads, (1, 3, 12, 14)),
    "context": (Context, (1, 3, 12, 14)),
    "pooled": (Pooled, (1, 3, 12, 14)),
    "demosaicnet": (zoo.demosaicnet, (1, 3, 16, 16)),
}


# Kinds of numbers, the largest difference that a file may have, and what the nets here have less than.
KINDS = {"int8": (ROUNDED_DIFFERENCE, 5e-3), "bfloat16": (BFLOAT16_DIFFERENCE, 1e-3)}


@pytest.mark.parametrize("arithmetic", KINDS)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_library), False])
def test_files_give_what_torch_does(name: str, native: bool, arithmetic: str, tmp_path) -> None:
    make, shape = NETS[name]
    net = narrowed(captured_of(make(), shape), {arithmetic: None})
    path = tmp_path / "net.onnx"
    assert export_onnx(net, path, shape) <= KINDS[arithmetic][0]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    for count in (1, 3):
        x = torch.rand(count, *shape[1:], generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            want = net(x)
        want = [y.numpy() for y in (want if isinstance(want, tuple) else (want,))]
        got = runtime.session(path, native=native).run(None, {"input": x.numpy()})
        assert difference(got, want) < KINDS[arithmetic][1]
        # Values that rounded the other way are rare; a wrong scale would move all of them.
        assert all(np.median(np.abs(g - w)) < 1e-3 * w.std() for g, w in zip(got, want, strict=True))


def test_nothing_returns_to_float32_between_layers() -> None:
    model = to_onnx(in_bytes(zoo.fashion_resnet(), (1, 1, 28, 28)), (1, 1, 28, 28), ExportSettings(), {})
    found = kinds(model)
    assert found[0] == ops.QUANTIZE
    assert found[-2:] == [ops.CONV_TO_FLOAT, "Reshape"]
    assert set(found[1:-2]) == {ops.QLINEAR_CONV, ops.BYTE_AVERAGE, "Reshape"}
    assert found.count(ops.QLINEAR_CONV) == 9
    names = [node.name for node in model.graph.node if node.op_type in ops.INPUTS]
    assert names[:3] == ["conv1", "layer1.conv1", "layer1.conv2"]
    constants = {tensor.name for tensor in model.graph.initializer}
    residuals = [node.input[-3] for node in model.graph.node if node.op_type == ops.QLINEAR_CONV]
    none = [name for name in residuals if name in constants]
    assert len(set(none)) == len(none) > 0  # ONNX Runtime 1.18 crashes where bodies share them
    model = to_onnx(in_bytes(Heads(), (1, 3, 12, 14)), (1, 3, 12, 14), ExportSettings(), {})
    found = kinds(model)
    assert found.count(ops.QUANTIZE) == found.count(ops.CONV_TO_FLOAT) == found.count(ops.BYTE_MAX_POOL) == 1
    assert {ops.DEQUANTIZE, "Relu", "Clip", "MaxPool"}.isdisjoint(found)


def test_float32_is_made_where_it_is_read_and_nowhere_else() -> None:
    found = kinds(to_onnx(in_bytes(Oddly(), (1, 3, 21, 18)), (1, 3, 21, 18), ExportSettings(), {}))
    assert "MaxPool" in found  # ceil_mode has no operator on bytes
    assert ops.BYTE_ADD in found
    found = kinds(to_onnx(in_bytes(Context(), (1, 3, 12, 14)), (1, 3, 12, 14), ExportSettings(), {}))
    assert "AveragePool" not in found  # torch makes one of a single pixel, which changes nothing
    assert "Add" in found  # of planes and a pixel: QLinearAdd takes equal shapes
    one = to_onnx(in_bytes(Heads(), (1, 3, 12, 14), ["b"]), (1, 3, 12, 14), ExportSettings(), {})
    assert [kind for kind in kinds(one) if kind in ops.INPUTS or kind == "Conv"] == ["Conv", ops.CONV_TO_FLOAT, "Conv"]


def test_nothing_returns_to_float32_between_layers_in_bfloat16() -> None:
    net = narrowed(captured_of(zoo.fashion_resnet(), (1, 1, 28, 28)), {"bfloat16": None})
    model = to_onnx(net, (1, 1, 28, 28), ExportSettings(), {})
    # The average is computed in float32: no operator on bfloat16 does that.
    average = [halves.TO_FLOAT, "ReduceMean", "Cast", "Reshape"]
    assert kinds(model) == [halves.FROM_FLOAT, *[halves.CONV] * 9, *average, halves.CONV_TO_FLOAT, "Reshape"]
    constants = {tensor.name for tensor in model.graph.initializer}
    none = [node.input[-1] for node in model.graph.node if node.op_type == halves.CONV and node.input[-1] in constants]
    assert len(set(none)) == len(none) == 6  # ONNX Runtime 1.18 crashes where bodies share them
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    assert weights["layer1.conv1.weight"].data_type == onnx.TensorProto.BFLOAT16
    found = kinds(
        to_onnx(narrowed(captured_of(Heads(), (1, 3, 12, 14)), {"bfloat16": None}), (1, 3, 12, 14), ExportSettings(), {})
    )
    assert found[:6] == [halves.FROM_FLOAT, halves.CONV, halves.CONV, "Concat", halves.CONV, halves.MAX_POOL]


# Layers of one net in three arithmetics: what they read is in the numbers of another, joined, added, pooled.
MIXES = [
    ("wise", {"bfloat16": ["wise", "one"], "int8": ["stem", "last"]}),
    ("wise", {"bfloat16": ["stem", "grouped", "last"], "int8": ["wise", "one"]}),
    ("residual", {"bfloat16": ["layer1.conv1", "layer2.conv2", "fc"], "int8": ["conv1", "layer2.conv1", "layer3.conv2"]}),
    (
        "residual",
        {"bfloat16": ["conv1", "layer2.downsample.0", "layer3.conv2"], "int8": ["layer1.conv2", "layer3.conv1", "fc"]},
    ),
    ("heads", {"bfloat16": ["a", "d"], "int8": ["b", "c"]}),
    ("heads", {"bfloat16": ["b", "c"], "int8": ["a", "d"]}),
    ("heads", {"bfloat16": ["c"], "int8": ["b"]}),
    ("oddly", {"bfloat16": ["b"], "int8": ["a", "c"]}),
    ("oddly", {"bfloat16": ["a", "c"], "int8": ["b"]}),
    ("context", {"bfloat16": ["b"], "int8": ["c"]}),
    ("pooled", {"bfloat16": ["c"], "int8": ["a", "b"]}),
    ("heads", {"bfloat16": ["b"], "int8": ["a", "c"]}),
]


@pytest.mark.parametrize("at", range(len(MIXES)))
@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_library), False])
def test_layers_of_one_net_may_differ(at: int, native: bool) -> None:
    name, names = MIXES[at]
    make, shape = NETS[name]
    captured = captured_of(make(), shape)
    net = narrowed(captured, names)
    made = {layer: type(net.get_submodule(layer)) for layer in (layer.name for layer in captured.layers)}
    assert {layer for layer, kind in made.items() if kind is Bfloat16Conv2d} == set(names["bfloat16"])
    assert {layer for layer, kind in made.items() if kind is Int8Conv2d} == set(names["int8"])
    model = to_onnx(net, shape, ExportSettings(), {})
    onnx.checker.check_model(model, full_check=True)
    x = torch.rand(2, *shape[1:], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        want, plain = as_arrays(net(x)), as_arrays(captured.net(x))
    for file, allowed in ((model, 5e-3), (dense_form(model), 0.05)):
        got = runtime.session(file.SerializeToString(), native=native).run(None, {"input": x.numpy()})
        assert difference(got, want) < allowed
    assert difference(want, plain) < 0.05


def test_bytes_and_bfloat16_change_into_each_other_without_float32() -> None:
    captured = captured_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)), (1, 3, 9, 9))
    mixed = narrowed(captured, {"int8": ["0", "3"], "bfloat16": ["2"]})
    wanted = [ops.QUANTIZE, ops.CONV_TO_BFLOAT16, halves.CONV, ops.FROM_BFLOAT16, ops.CONV_TO_FLOAT]
    assert kinds(to_onnx(mixed, (1, 3, 9, 9), ExportSettings(), {})) == wanted
    captured = captured_of(Heads(), (1, 3, 12, 14))
    # b reads in bfloat16 what a gives; c reads that joined with what b gives, in bytes.
    found = kinds(to_onnx(narrowed(captured, {"int8": ["a", "c"], "bfloat16": ["b"]}), (1, 3, 12, 14), ExportSettings(), {}))
    wanted = [ops.QUANTIZE, ops.CONV_TO_BFLOAT16, halves.CONV, *[ops.FROM_BFLOAT16] * 2, "Concat", ops.CONV_TO_FLOAT]
    assert sorted(found[: len(wanted)]) == sorted(wanted)

    # What b and c read is pooled once, in bytes.
    captured = captured_of(Pooled(), (1, 3, 12, 14))
    found = kinds(to_onnx(narrowed(captured, {"int8": ["a", "b"], "bfloat16": ["c"]}), (1, 3, 12, 14), ExportSettings(), {}))
    assert {ops.FROM_BFLOAT16, ops.BYTE_MAX_POOL, ops.BYTES_TO_BFLOAT16} < set(found)
    assert {ops.DEQUANTIZE, halves.TO_FLOAT, halves.FROM_FLOAT}.isdisjoint(found)


def test_linear_layers_take_rows_of_bytes() -> None:
    artefact = flattened_artefact()
    captured = Captured.of(artefact.net, PLANE)
    names = [layer.name for layer in captured.layers]
    for arithmetic, kind in (("int8", narrow.BYTES), ("bfloat16", narrow.HALVES)):
        found = kinds(to_onnx(narrowed(captured, {arithmetic: names}), PLANE, ExportSettings(), {}))
        assert found.count(kind.from_float) == 1
        assert kind.to_float not in found


@pytest.mark.parametrize("arithmetic", KINDS)
@pytest.mark.parametrize("name", NETS)
def test_the_dense_form_is_in_float32(name: str, arithmetic: str) -> None:
    make, shape = NETS[name]
    net = narrowed(captured_of(make(), shape), {arithmetic: None})
    dense = dense_form(to_onnx(net, shape, ExportSettings(), {}))
    assert {entry.domain for entry in dense.opset_import} == {""}
    x = torch.rand(2, *shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = net(x)
    first = (want[0] if isinstance(want, tuple) else want).numpy()
    got = runtime.session(dense.SerializeToString(), native=False).run(None, {"input": x.numpy()})[0]
    assert np.square(got - first).mean() < 0.01 * first.var()
    assert np.abs(got - first).max() > 0  # it does not round


@pytest.mark.parametrize("kind", narrow.KINDS, ids=lambda kind: kind.name)
def test_the_same_layers_without_a_dictionary(kind: narrow.Narrow) -> None:
    artefact = flattened_artefact()
    captured = Captured.of(artefact.net, PLANE)
    model = to_onnx(narrowed(captured, {kind.name: None}), PLANE, ExportSettings(), {})
    lookups = [node.name for node in model.graph.node if node.op_type in kind.without_dictionary]
    assert lookups
    x = torch.rand(2, *PLANE[1:], generator=torch.Generator().manual_seed(1)).numpy()
    want = runtime.session(model.SerializeToString(), native=False).run(None, {"input": x})[0]
    for names in (set(lookups), set(lookups[:1])):
        dense = dense_form(model, names)
        left = [node.name for node in dense.graph.node if node.op_type in kind.without_dictionary]
        assert left == [name for name in lookups if name not in names]
        got = runtime.session(dense.SerializeToString(), native=False).run(None, {"input": x})[0]
        assert np.square(got - want).mean() < 0.02 * want.var()

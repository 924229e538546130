"""Sums and activations behind a lookup convolution are inside its node."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from exported import compressed, outputs
from torch import nn

from lcnn_compress import runtime
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.to_onnx import export_onnx
from lcnn_compress.operators.common import DOMAIN, NO_BOUND


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


class Chance(nn.Module):
    """A net that chance makes: 2 to 7 layers with sums, clips, poolings, permutations and results that several layers read."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.layers = nn.ModuleList()
        self.steps: list[tuple[int, str, int]] = []
        widths = [3]
        for number in range(int(rng.integers(2, 8))):
            source = int(rng.integers(max(min(1, number), number - 2), number + 1))  # the layers behind the first are lookups
            alike = [i for i, width in enumerate(widths) if i and width == widths[source]]
            width = int(rng.choice([8, 12, 16]))
            kernel, groups = int(rng.choice([1, 3, 3, 5])), int(rng.choice([1, 1, 2])) if widths[source] % 2 == 0 else 1
            self.layers.append(
                nn.Conv2d(widths[source], width, kernel, padding=kernel // 2, groups=groups, bias=bool(rng.random() < 0.8))
            )
            self.steps.append(
                (source, str(rng.choice(list(WAYS))), int(rng.choice(alike)) if alike and rng.random() < 0.5 else -1)
            )
            widths.append(width)
        self.several = bool(rng.random() < 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        made = [x]
        for layer, (source, way, other) in zip(self.layers, self.steps, strict=True):
            y = layer(made[source])
            if other >= 0 and made[other].shape[1] == y.shape[1]:
                y = y + made[other]
            made.append(WAYS[way](y))
        return (made[-1], made[-2]) if self.several else made[-1]


WAYS = {
    "nothing": lambda y: y, "relu": torch.relu, "relu6": nn.functional.relu6, "clip": lambda y: y.clamp(-0.5, 0.75),
    "swish": nn.functional.hardswish, "leaky": lambda y: nn.functional.leaky_relu(y, 0.1),
    "pool": lambda y: nn.functional.max_pool2d(y, 3, 1, 1), "relu, pool": lambda y: nn.functional.max_pool2d(y.relu(), 5, 1, 2),
    "mean": lambda y: nn.functional.avg_pool2d(y, 3, 1, 1), "turned": lambda y: y.permute(0, 1, 3, 2).flip(2).mT,
}  # fmt: skip


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 30))])
def test_nets_that_chance_makes_agree_with_torch(seed, tmp_path):
    torch.manual_seed(seed)
    shape, path = (1, 3, 12, 14), tmp_path / "net.onnx"
    net = compressed(Chance(seed).eval(), shape)
    export_onnx(net, path, shape)
    assert any(node.domain for node in onnx.load(path).graph.node)
    for size in ((1, 3, 12, 14), (3, 3, 12, 14), (2, 3, 17, 9)):
        x = torch.randn(size)
        with torch.no_grad():
            results = net(x)
        for native in (True, False):
            found = runtime.session(path, native=native, threads=2).run(None, {"input": x.numpy()})
            for got, want in zip(found, results if isinstance(results, tuple) else (results,), strict=True):
                # Sums of some hundred products, in layers of which each magnifies little.
                np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5 * float(want.abs().max()))

"""Sparse and low-rank layers are lookup convolutions: an identity dictionary that stays one, and full coefficients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cases import Noise, small_net
from onnx import numpy_helper
from torch import nn

from lcnn_compress import api
from lcnn_compress.compression.plan import LayerPlan, check_plan, planned_macs
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import with_lookups
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.train.recipe import FinetuneSettings

PLANS = [
    LayerPlan("stem", "dense", "only 3 input channels"),
    LayerPlan("conv1", "sparse", "", 16, 0.25),
    LayerPlan("conv2", "lowrank", "", 8, 8),
    LayerPlan("fc", "dense", "classifier"),
]
EXAMPLE = torch.zeros(1, 3, 16, 16)


def compressed(data: TrainingData = TrainingData(), **settings: Any) -> api.Artefact:
    source = api.open_model(small_net(), (1, 3, 16, 16))
    return api.compress_source(source, CompressSettings(measure=False, **settings), data, PLANS)


def test_macs_by_hand() -> None:
    found = {layer.name: layer for layer in layers(capture(small_net(), EXAMPLE), EXAMPLE)}
    conv1, conv2 = found["conv1"], found["conv2"]  # 16 > 32 and 32 > 32, 3x3, output 8x8
    assert planned_macs(conv1, PLANS[1]) == 32 * 9 * 4 * 64
    assert planned_macs(conv1, replace(PLANS[1], lookups=0.01)) == round(32 * 9 * 0.16) * 64  # positions may be empty
    assert planned_macs(conv2, PLANS[2]) == 8 * 32 * 64 + 32 * 9 * 8 * 64
    assert planned_macs(conv2, LayerPlan("conv2", "dense", "")) == conv2.dense_macs


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (LayerPlan("conv1", "sparse", "", 8, 0.25), "dictionary_size is 8 .*must be 16, the channels of a group"),
        (LayerPlan("conv2", "lowrank", "", 8, 4), "lookups is 4 .*must be 8, every row"),
        (LayerPlan("conv2", "pruned", "", 8, 4), "must be one of dense, lookup, sparse, lowrank"),
    ],
)
def test_impossible_plans_are_refused(plan: LayerPlan, message: str) -> None:
    found = {layer.name: layer for layer in layers(capture(small_net(), EXAMPLE), EXAMPLE)}
    with pytest.raises(SettingsError, match=message):
        check_plan(plan, found[plan.name])


def test_report_artefact_and_file_hold_an_exact_identity(tmp_path: Path) -> None:
    artefact = compressed()
    rows = {row.name: row for row in artefact.report.layers}
    assert [row.kind for row in rows.values()] == ["dense", "sparse", "lowrank", "dense"]
    assert rows["conv1"].macs_stage1 == 0
    assert rows["conv1"].macs == rows["conv1"].macs_stage2 == 32 * 9 * 4 * 64
    assert rows["conv2"].n_nonzeros == 32 * 9 * 8
    api.save(artefact, tmp_path / "net.lcnn")
    loaded = api.load(tmp_path / "net.lcnn")
    layer = loaded.net.get_submodule("conv1")
    assert isinstance(layer, LookupConv2d)
    assert layer.is_identity
    assert layer.n_nonzeros == 32 * 9 * 4
    assert not loaded.net.get_submodule("conv2").is_identity
    api.export_onnx(loaded, tmp_path / "net.onnx")  # checked against torch
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "net.onnx").graph.initializer}
    np.testing.assert_array_equal(constants["conv1.dictionary"], np.eye(16))


def test_sparse_layers_of_equal_width_keep_their_names(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    plans = [LayerPlan(name, "sparse", "", 8, 0.5) for name in ("0", "2")]
    artefact = api.compress_source(api.open_model(net, (1, 8, 9, 9)), CompressSettings(measure=False), plans=plans)
    api.export_onnx(artefact, tmp_path / "net.onnx")
    assert [node.name for node in onnx.load(tmp_path / "net.onnx").graph.node] == ["0", "2"]


def test_layers_of_equal_lists_keep_their_names() -> None:
    net = capture(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), torch.zeros(1, 8, 9, 9))
    empty = torch.zeros(8, 1, 3, 3)
    lookups = {n: LookupConv2d(torch.full((1, 8), float(n)), empty, None, ConvGeometry((3, 3))) for n in ("0", "2")}
    model = to_onnx(with_lookups(Captured.of(net, (1, 8, 9, 9)), lookups), (1, 8, 9, 9), ExportSettings(), {})
    assert [node.name for node in model.graph.node] == ["0", "2"]


@pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
def test_training_leaves_the_identity_alone(sparsity: str) -> None:
    data = TrainingData([torch.randn(8, 3, 16, 16)], Noise())
    before, after = (compressed(data, finetune=finetune).net for finetune in (None, FinetuneSettings(1, 8, 1e-2, sparsity)))
    assert torch.equal(after.get_submodule("conv1").dictionary, torch.eye(16))
    assert after.get_submodule("conv1").is_identity
    assert not torch.equal(before.get_submodule("conv1").sparse_kernel, after.get_submodule("conv1").sparse_kernel)
    assert not torch.equal(before.get_submodule("conv2").dictionary, after.get_submodule("conv2").dictionary)


@pytest.mark.parametrize("size", [1e-3, 6e5])
def test_coefficients_outside_float16_give_up_the_identity_and_keep_their_precision(size: float) -> None:
    net = small_net()
    with torch.no_grad():
        net.conv1.weight *= size
        net.bn1.running_var *= 0  # the norm would undo the scale
        net.bn1.running_var += 1
    source = api.open_model(net, (1, 3, 16, 16))
    plans = [replace(PLANS[1], lookups=16) if plan.name == "conv1" else plan for plan in PLANS]
    stored = {
        kind: api.compress_source(source, CompressSettings(measure=False, storage=kind), plans=plans).net
        for kind in ("float16", "float32")
    }
    layer, exact = (net.get_submodule("conv1") for net in stored.values())
    assert not layer.is_identity
    # Two factors, each rounded by at most 2^-11 of its values.
    assert (layer.weight() - exact.weight()).norm() <= 2 * 2.0**-11 * exact.weight().norm()


def test_identity_is_recognised_by_group() -> None:
    geometry = ConvGeometry((1, 1), groups=2)
    kernel = torch.ones(4, 3, 1, 1)
    assert LookupConv2d(torch.eye(3).repeat(2, 1), kernel, None, geometry).is_identity
    assert not LookupConv2d(torch.eye(6)[:, :3], kernel, None, geometry).is_identity
    assert not LookupConv2d(torch.eye(3)[:2].repeat(2, 1), kernel[:, :2], None, geometry).is_identity

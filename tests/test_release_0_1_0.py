"""What release 0.1.0 wrote goes on working: an artefact of it is kept in ``release_0_1_0`` with the file exported from it.

It was made of ``net()`` with ``plans`` as in its configuration, without data and without measuring.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cases import Noise
from onnx import numpy_helper
from patterns import patterns_in_common
from torch import nn

from lcnn_compress import api, runtime
from lcnn_compress.artefact.artefact import load_artefact
from lcnn_compress.compression.plan import LayerPlan
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.train.loop import Goal, finetune
from lcnn_compress.train.recipe import FinetuneSettings

OLD = Path(__file__).parent / "release_0_1_0"
SHAPE = (1, 3, 12, 12)
KINDS = {"3": "lookup", "5": "sparse", "8": "lowrank", "10": "lowrank"}  # every row of 10 is looked up
COMMON = {"3": 4, "5": 2, "8": 1, "10": 1}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(),
        nn.Conv2d(24, 24, 3, 2, padding=1, groups=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 32, 1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "report.html").write_text("")  # nobody reads it back
    return Path(shutil.copytree(OLD, tmp_path / "old.lcnn", ignore=shutil.ignore_patterns("*.onnx")))


def lookups(made: nn.Module) -> dict[str, LookupConv2d]:
    return {name: module for name, module in made.named_modules() if isinstance(module, LookupConv2d)}


def test_it_loads_with_its_kinds_and_common_patterns(old: Path) -> None:
    found = lookups(load_artefact(old).net)
    assert {name: lookup.kind.name for name, lookup in found.items()} == KINDS
    assert {name: lookup.filters_per_pattern for name, lookup in found.items()} == COMMON


def test_it_is_exported_as_the_file_that_the_release_wrote(old: Path, tmp_path: Path) -> None:
    api.export_onnx(load_artefact(old), tmp_path / "new.onnx")
    models = [onnx.load(path).graph for path in (OLD / "model.onnx", tmp_path / "new.onnx")]
    nodes = [[(node.op_type, node.name) for node in graph.node] for graph in models]
    assert nodes[0] == nodes[1]
    values = [{t.name: numpy_helper.to_array(t) for t in graph.initializer} for graph in models]
    assert values[0].keys() == values[1].keys()
    for name in values[0]:
        np.testing.assert_array_equal(values[0][name], values[1][name])


def test_its_onnx_file_runs_as_its_net(old: Path) -> None:
    x = torch.rand(2, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = load_artefact(old).net(x)
    np.testing.assert_allclose(runtime.session(OLD / "model.onnx").run(None, {"input": x.numpy()})[0], expected, atol=1e-5)


def test_its_configuration_gives_the_same_bytes(tmp_path: Path) -> None:
    config = json.loads((OLD / "config.json").read_text())
    plans = [LayerPlan.from_json(plan) for plan in config["layers"]]
    settings = CompressSettings(measure=False, init=config["init"], seed=config["seed"], storage=config["coefficients"])
    api.save(api.compress_source(api.open_model(net(), SHAPE), settings, plans=plans), tmp_path / "new.lcnn")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "new.lcnn" / name).read_bytes() == (OLD / name).read_bytes(), name


@pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
def test_it_trains_on_and_keeps_its_common_patterns(old: Path, sparsity: str) -> None:
    loaded = load_artefact(old).net
    before = {name: lookup.sparse_kernel.detach().clone() for name, lookup in lookups(loaded).items()}
    fewer = {name: lookup.n_nonzeros // 2 for name, lookup in lookups(loaded).items()}
    recipe = FinetuneSettings(6, 8, 1e-2, sparsity, threshold_c=0.5)
    finetune(loaded, api.open_model(net(), SHAPE).net, Noise(), recipe, goal=Goal(fewer))
    after = lookups(loaded)
    assert any(lookup.n_nonzeros < before[name].count_nonzero() for name, lookup in after.items())  # training prunes
    assert all(not torch.equal(before[name], lookup.sparse_kernel) for name, lookup in after.items())
    for name, lookup in after.items():
        common = lookup.filters_per_pattern
        assert patterns_in_common(lookup.support.numpy(), common, lookup.geometry.groups), name


def test_common_patterns_survive_save_and_load(old: Path, tmp_path: Path) -> None:
    api.save(load_artefact(old), tmp_path / "again.lcnn")
    again = load_artefact(tmp_path / "again.lcnn")
    assert {name: lookup.filters_per_pattern for name, lookup in lookups(again.net).items()} == {
        "3": 4,
        "5": 2,
        "8": 1,
        "10": 1,
    }
    assert {name: lookup.kind.name for name, lookup in lookups(again.net).items()} == KINDS

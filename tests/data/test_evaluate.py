"""Scores of an artefact beside its dense net, of a model, and of an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lcnn_compress import api
from lcnn_compress.data.evaluate import evaluate_file
from lcnn_compress.errors import SettingsError

SHAPE = (1, 3, 16, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt of torch's own classes, data.npz, and model.lcnn made from them."""
    path = tmp_path_factory.mktemp("api")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )
    torch.save(net, path / "model.pt")
    rng = np.random.default_rng(0)
    np.savez(path / "data.npz", x=rng.random((12, *SHAPE[1:]), np.float32), y=rng.integers(0, 10, 12))
    data = api.DataSettings(calib=str(path / "data.npz"), mean=(0.5,), std=(0.25,))
    source = api.open_model(path / "model.pt", data=data)
    loaded = api.load_data(data, source.input_shape)
    plan = api.PlanSettings("16", only=("0",), keep_slow=True)
    configuration = api.Configuration(api.CompressSettings(plan=plan, measure=False), data)
    api.compress_and_save(source, path / "model.lcnn", configuration, loaded)
    return path


def test_an_artefact_is_scored_beside_its_net_prepared_as_before(folder: Path, tmp_path: Path) -> None:
    data = api.DataSettings(data=str(folder / "data.npz"))
    found = evaluate_file(folder / "model.lcnn", data)
    assert found.notes == ("mean [0.5] and std [0.25] as in compression",)
    assert (found.metric, found.n) == ("top1_percent", 12)
    prepared = api.DataSettings(data=data.data, mean=(0.5,), std=(0.25,))
    dense = evaluate_file(folder / "model.pt", prepared, limit=12)
    assert (dense.dense, dense.lookup) == (found.dense, None)
    api.export_onnx(api.load(folder / "model.lcnn"), tmp_path / "model.onnx")
    file = evaluate_file(tmp_path / "model.onnx", prepared)
    assert (file.dense, file.lookup) == (None, found.lookup)
    with pytest.raises(SettingsError, match="`data` is missing"):
        evaluate_file(folder / "model.pt", api.DataSettings())

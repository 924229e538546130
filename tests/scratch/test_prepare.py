"""Nets and data of a training from scratch: how many classes there are, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.errors import DataError, ModelError, SettingsError
from lcnn_compress.scratch.prepare import prepare_training

pytestmark = pytest.mark.usefixtures("one_thread")
FACTORY = f"{tiny.__file__}:tiny_net"


def outputs(prepared: object) -> int:
    source = prepared.source  # type: ignore[attr-defined]
    return source.net(torch.zeros(source.input_shape)).shape[1]


def test_a_factory_is_told_the_number_of_classes(tmp_path: Path) -> None:
    data = DataSettings(data=tiny.saved(tmp_path))
    prepared = prepare_training(FACTORY, data, scored=tiny.saved(tmp_path, 8, 1, "val"), input_shape=tiny.SHAPE)
    assert (outputs(prepared), len(prepared.examples)) == (tiny.CLASSES, 96)
    assert prepared.scored is not None
    assert len(prepared.scored) == 8
    assert prepared.source.origin.kind == "scratch"
    assert outputs(prepare_training(FACTORY, data, input_shape=tiny.SHAPE, n_classes=6)) == 6


def test_nets_of_the_zoo_go_by_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((6, 1, 28, 28), np.uint8), y=np.arange(6))
    prepared = prepare_training("lenet", DataSettings(data=str(tmp_path / "data.npz")))
    assert (outputs(prepared), prepared.source.origin.spec) == (6, "lcnn_compress.zoo:lenet")


def test_one_hot_rows_name_all_their_classes(tmp_path: Path) -> None:
    x, y = tiny.stripes(8)
    np.savez(tmp_path / "data.npz", x=x, y=np.eye(9)[y])
    assert outputs(prepare_training(FACTORY, DataSettings(data=str(tmp_path / "data.npz")), input_shape=tiny.SHAPE)) == 9


def test_a_module_must_have_as_many_classes_as_the_data(tmp_path: Path) -> None:
    data = DataSettings(data=tiny.saved(tmp_path))
    with pytest.raises(SettingsError, match=r"TinyNet: returns \(1, 7\) for one image, but the labels name 4 classes"):
        prepare_training(tiny.tiny_net(7), data, input_shape=tiny.SHAPE)
    assert outputs(prepare_training(tiny.tiny_net(7), data, input_shape=tiny.SHAPE, n_classes=7)) == 7


def test_an_unknown_number_of_classes(tmp_path: Path) -> None:
    x, y = tiny.stripes(8)
    np.savez(tmp_path / "targets.npz", x=x, y=y / 3)
    np.savez(tmp_path / "bare.npz", x=x)
    with pytest.raises(SettingsError, match=r"number of classes is unknown.*`n_classes`"):
        prepare_training(FACTORY, DataSettings(data=str(tmp_path / "targets.npz")), input_shape=tiny.SHAPE)
    with pytest.raises(SettingsError, match="no labels"):
        prepare_training(FACTORY, DataSettings(data=str(tmp_path / "bare.npz")), input_shape=tiny.SHAPE)
    with pytest.raises(SettingsError, match="`n_classes` is 3, but the labels name 4 classes"):
        prepare_training(FACTORY, DataSettings(data=tiny.saved(tmp_path)), input_shape=tiny.SHAPE, n_classes=3)


def test_targets_train_a_net_with_its_own_outputs(tmp_path: Path) -> None:
    x, _ = tiny.stripes(8)
    np.savez(tmp_path / "data.npz", x=x, y=x / np.float32(255))
    prepared = prepare_training(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), DataSettings(data=str(tmp_path / "data.npz")))
    assert prepared.source.net(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("net", "error", "message"),
    [("no_such_net", Exception, "no_such_net"), (f"{tiny.__file__}:nothing", ModelError, "has no 'nothing'")],
)
def test_nets_that_are_not_there(tmp_path: Path, net: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prepare_training(net, DataSettings(data=tiny.saved(tmp_path)), input_shape=tiny.SHAPE)


def test_data_that_is_not_there_or_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs `data`"):
        prepare_training(FACTORY, DataSettings())
    with pytest.raises(DataError, match="the net takes"):
        prepare_training("lenet", DataSettings(data=tiny.saved(tmp_path)))

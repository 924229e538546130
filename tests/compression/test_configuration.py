"""Reading a config.json back into what it records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lcnn_compress.compression.configuration import read_configuration
from lcnn_compress.compression.settings import CompressSettings, LayerPlan
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.errors import ArtefactError, FileError, SettingsError
from lcnn_compress.train.recipe import FinetuneSettings

LAYERS = [
    {"name": "0", "kind": "dense", "reason": "classifier", "dictionary_size": 0, "lookups": 0.0, "note": ""},
    {"name": "1", "kind": "lookup", "reason": "", "dictionary_size": 8, "lookups": 2, "note": "small"},
]


def written(folder: Path, **changes: Any) -> Path:
    """A config.json with some values changed."""
    values = {
        "init": "svd", "seed": 3, "coefficients": "float32", "layers": LAYERS, "finetune": None,
        "data": {"calib": "c.npz", "samples": 24, "data": None, "mean": [0.5], "std": [0.25]},
        "model": {"kind": "state_dict", "arch": "a:b", "sha256": "ab"}, "input_shape": [1, 3, 8, 8],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values | changes))
    return folder / "config.json"


def test_what_is_recorded(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path))
    assert found.settings == CompressSettings(init="svd", seed=3, storage="float32")
    assert found.data == DataSettings("c.npz", 24, None, (0.5,), (0.25,))
    assert (found.arch, found.input_shape, found.sha256) == ("a:b", (1, 3, 8, 8), "ab")
    assert found.plans == (LayerPlan("0", "dense", "classifier"), LayerPlan("1", "lookup", "", 8, 2, "small"))


def test_a_fine_tuning_and_what_was_held_out(tmp_path: Path) -> None:
    data = {"calib": None, "samples": 512, "data": "d.npz", "mean": None, "std": None, "held_out": 0.3}
    found = read_configuration(written(tmp_path, finetune={"epochs": 2, "lr": 0.5}, data=data))
    assert found.settings.finetune == FinetuneSettings(2, lr=0.5)
    assert found.data == DataSettings(data="d.npz", held_out=0.3)


def test_data_given_anew(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert read_configuration(path, {"calib": "moved.npz"}).data == DataSettings("moved.npz", 24, None, (0.5,), (0.25,))
    assert read_configuration(written(tmp_path, data=None)).data == DataSettings()
    path = written(tmp_path, data={"in_memory": True})
    assert read_configuration(path, {"data": "d.npz", "samples": 3}).data == DataSettings(data="d.npz", samples=3)
    for given in ({}, {"samples": 3}):
        with pytest.raises(SettingsError, match="the data of that run was in memory; give it with `calib` or `data`"):
            read_configuration(path, given)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none.json: cannot be read: No such file or directory; give the config.json"):
        read_configuration(tmp_path / "none.json")
    for content, message in (("{", r"not JSON \("), ("[]", "holds a list, not an object"), ("{}", "of this version .KeyError")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ArtefactError, match=f"bad.json: .*{message}.*; use the config.json of an artefact"):
            read_configuration(tmp_path / "bad.json")
    with pytest.raises(ArtefactError, match=r"not a configuration of this version \(TypeError: .*'colour'"):
        read_configuration(written(tmp_path, data={"colour": "red"}))

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


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("seed",), [True, -1, 1.5, NAN, "3", 10**30]), (("init",), ["pca", 3, None]), (("coefficients",), ["int4", True]),
        (("layers", 1, "dictionary_size"), [True, 8.0, NAN, "8", None, 10**30]),
        (("layers", 1, "lookups"), [True, NAN, "2", None]), (("layers", 1, "share"), [True, 2.0, None]),
        (("layers", 1, "name"), [True, None, 3]), (("layers", 1), [3, "ab", None, []]),
        (("layers",), [3, None, {"a": 1}]), (("input_shape",), [[1, True], [1, -3], [], "ab", 3, [1, 3.0], [10**30], None]),
        (("data", "samples"), [True, 0, -4, 2.5, NAN, 10**30]), (("data", "mean"), [[True], [NAN], 0.5, "a", {}]),
        (("data", "std"), [[INFINITY], ["a"]]), (("data", "calib"), [True, 3, []]), (("data", "held_out"), [True, 1.0, NAN]),
        (("data",), [3, "ab", [1]]), (("model", "arch"), [True, 3]), (("model", "sha256"), [3, []]), (("model",), [None, 3]),
        (("finetune",), [3, "ab", [1]]), (("finetune", "epochs"), [True, 0, 1.5, NAN, 10**30]),
        (("finetune", "lr"), [True, NAN, "1"]),
        (("finetune", "optimiser"), [3, {"betas": 3}, {"betas": [True, 0.5]}, {"lr": [1]}]),
        (("finetune", "schedule"), [3, {"warmup_steps": True}, {"steps": 3}]),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_values_that_no_configuration_has_are_refused(
    place: tuple[str | int, ...], wrong: list[object], tmp_path: Path
) -> None:
    for value in wrong:
        path = written(tmp_path, finetune={"epochs": 2, "lr": 0.5})
        values = part = json.loads(path.read_text())
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = value
        path.write_text(json.dumps(values))
        with pytest.raises(
            ArtefactError,
            match=r"config\.json: not (a configuration of this version \(|JSON \(it holds ).*; use the config\.json",
        ):
            read_configuration(path)


def test_json_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ArtefactError, match=r"deep\.json: not JSON \("):
        read_configuration(tmp_path / "deep.json")

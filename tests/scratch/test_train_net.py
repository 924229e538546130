"""Training from scratch into an artefact: all ways to get sparse, resumed bit for bit, and what happens to its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from lcnn_compress.artefact.artefact import load_artefact
from lcnn_compress.data.arrays import from_arrays
from lcnn_compress.data.evaluate import evaluate
from lcnn_compress.data.examples import Preprocessing
from lcnn_compress.errors import ArtefactError, SettingsError
from lcnn_compress.export.export_settings import ExportSettings
from lcnn_compress.export.to_onnx import export_onnx
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.scratch.prepare import Prepared
from lcnn_compress.scratch.train_net import TrainingFolder, train_from_scratch
from lcnn_compress.scratch.train_settings import TrainSettings
from lcnn_compress.sources.source import Source, open_source

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = TrainSettings(dictionary=tiny.DICTIONARY, epochs=3, batch_size=16, lr=0.01, balanced=True, shift=1, flip=False)
STABLE = ("lcnn.json", "model.safetensors", "config.json")


class Watched:
    """Examples that tell of each batch before it is handed out."""

    def __init__(self, n: int, seed: int, at_call: Callable[[int], None] = lambda _: None) -> None:
        self.whole = from_arrays("tiny", *tiny.stripes(n, seed), tiny.SHAPE, Preprocessing())
        self.at_call, self.calls = at_call, 0

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        if len(indices) < len(self):  # all are asked for once, for their labels
            self.calls += 1
            self.at_call(self.calls)
        return self.whole.batch(indices)


@cache
def source() -> Source:
    return open_source(tiny.tiny_net(tiny.CLASSES), tiny.SHAPE)


def prepared(at_call: Callable[[int], None] = lambda _: None) -> Prepared:
    return Prepared(source(), Watched(96, 0, at_call), Watched(40, 1))


def log_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in TrainingFolder(path).log.read_text().splitlines()]


def same_files(a: Path, b: Path) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in STABLE)


@pytest.mark.parametrize("sparsity", ["threshold", "top", "gradual"])
def test_a_net_is_learned_and_its_artefact_is_like_any_other(tmp_path: Path, sparsity: str) -> None:
    settings = replace(SETTINGS, sparsity=sparsity, lookups=2, threshold_c=0.1 if sparsity == "threshold" else None, epochs=12)
    artefact = train_from_scratch(prepared(), tmp_path / "net.lcnn", settings)
    loaded = load_artefact(tmp_path / "net.lcnn")
    judged = Watched(40, 1)
    assert evaluate(loaded.net, judged).value > 90
    rows = {row.name: row for row in loaded.report.layers}
    coded = {name for name, module in loaded.net.named_modules() if isinstance(module, LookupConv2d)}
    assert coded == {"conv1", "conv2", "fc1"}
    assert [rows[name].dictionary_size for name in ("conv1", "conv2", "fc1")] == [3, 6, 5]
    assert rows["conv1"].relative_error is None
    if sparsity != "threshold":
        assert [rows[name].lookups_per_position for name in ("conv1", "conv2", "fc1")] == [2, 2, 2]
    difference = export_onnx(loaded.net, tmp_path / "net.onnx", loaded.input_shape, ExportSettings())
    assert difference < 1e-3
    told = log_of(tmp_path / "net.lcnn")
    assert [line["epoch"] for line in told] == [*range(1, 13)]
    assert tuple(line["loss"] for line in told) == artefact.report.training.losses  # type: ignore[union-attr]
    assert told[-1]["loss"] < told[0]["loss"]
    assert {name: layer["nonzeros"] for name, layer in told[-1]["layers"].items()} == {
        name: rows[name].n_nonzeros for name in coded
    }
    if sparsity == "threshold":
        assert all(told[0]["layers"][name]["nonzeros"] > told[-1]["layers"][name]["nonzeros"] for name in coded)
    assert told[-1]["score"]["n"] == 40


def test_dense_is_trained_with_the_same_recipe(tmp_path: Path) -> None:
    artefact = train_from_scratch(
        prepared(), tmp_path / "net.lcnn", replace(SETTINGS, preset="dense", dictionary=None, epochs=12)
    )
    assert evaluate(load_artefact(tmp_path / "net.lcnn").net, Watched(40, 1)).value > 90
    assert artefact.report.totals.macs_ratio == 1
    assert log_of(tmp_path / "net.lcnn")[0]["layers"] == {}


@pytest.mark.parametrize("sparsity", ["threshold", "top"])
def test_an_interrupted_training_is_resumed_to_the_same_bits(tmp_path: Path, sparsity: str) -> None:
    settings = replace(SETTINGS, sparsity=sparsity, lookups=1, timetable="alexnet")
    train_from_scratch(prepared(), tmp_path / "whole.lcnn", settings)

    def interrupt(number: int) -> None:
        if number == 9:  # in the second epoch of 6 steps
            raise KeyboardInterrupt

    path = tmp_path / "net.lcnn"
    with pytest.raises(KeyboardInterrupt, match="`resume` goes on"):
        train_from_scratch(prepared(interrupt), path, settings)
    assert not path.exists()
    assert len(log_of(path)) == 1
    with pytest.raises(SettingsError, match="holds an interrupted training"):
        train_from_scratch(prepared(), path, settings)
    with pytest.raises(ArtefactError, match=r"checkpoint of other settings: .*lr"):
        train_from_scratch(prepared(), path, replace(settings, lr=0.5), resume=True)
    with pytest.raises(ArtefactError, match="layer shapes"):
        train_from_scratch(prepared(), path, replace(settings, dictionary="conv2=5"), resume=True)
    rest = prepared()
    train_from_scratch(rest, path, settings, resume=True)
    assert same_files(path, tmp_path / "whole.lcnn")
    unlike = ("seconds",)
    told = [[{k: v for k, v in line.items() if k not in unlike} for line in log_of(p)] for p in (path, tmp_path / "whole.lcnn")]
    assert told[0] == told[1]
    assert len(told[0]) == 3
    with pytest.raises(SettingsError, match="the training is over"):
        train_from_scratch(prepared(), path, settings, resume=True)


def test_a_training_that_was_killed_between_two_checkpoints_is_resumed(tmp_path: Path) -> None:
    """A process that is killed writes nothing more: what is there then is the checkpoint of the last epoch, and its log."""
    train_from_scratch(prepared(), tmp_path / "whole.lcnn", SETTINGS)
    folder, path = TrainingFolder(tmp_path / "net.lcnn"), tmp_path / "net.lcnn"
    kept: dict[str, bytes] = {}

    def kill(number: int) -> None:
        if number == 14:
            kept["checkpoint"] = folder.checkpoint.read_bytes()
            raise MemoryError  # the loop writes no checkpoint for it

    with pytest.raises(MemoryError):
        train_from_scratch(prepared(kill), path, SETTINGS)
    assert folder.checkpoint.read_bytes() == kept["checkpoint"]
    train_from_scratch(prepared(), path, SETTINGS, resume=True)
    assert same_files(path, tmp_path / "whole.lcnn")


def test_another_training_starts_from_the_final_checkpoint(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=6)
    train_from_scratch(prepared(), tmp_path / "first.lcnn", settings)
    final = TrainingFolder(tmp_path / "first.lcnn").final
    train_from_scratch(prepared(), tmp_path / "second.lcnn", replace(settings, epochs=1, lr=1e-4), init_from=final)
    first, second = log_of(tmp_path / "first.lcnn"), log_of(tmp_path / "second.lcnn")
    assert second[0]["loss"] < first[1]["loss"]
    assert all(
        second[0]["layers"][name]["nonzeros"] <= layer["nonzeros"] for name, layer in first[-1]["layers"].items()
    )  # fmt: skip
    with pytest.raises(ArtefactError, match="of another net"):
        train_from_scratch(prepared(), tmp_path / "third.lcnn", replace(settings, dictionary="conv2=4"), init_from=final)


def test_layers_that_lose_everything_are_still_written_and_exported(tmp_path: Path) -> None:
    """An epsilon of many standard deviations leaves no entry of any kernel: outputs are those of biases."""
    train_from_scratch(prepared(), tmp_path / "net.lcnn", replace(SETTINGS, threshold_c=100.0, epochs=1))
    loaded = load_artefact(tmp_path / "net.lcnn")
    assert [row.n_nonzeros for row in loaded.report.layers][:3] == [0, 0, 0]
    export_onnx(loaded.net, tmp_path / "net.onnx", loaded.input_shape, ExportSettings())
    with torch.no_grad():
        outputs = loaded.net(torch.rand(2, *tiny.SHAPE[1:]))
    assert torch.equal(outputs[0], outputs[1])


def test_a_place_that_holds_something_else_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "net.lcnn").mkdir()
    (tmp_path / "net.lcnn" / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not an artefact"):
        train_from_scratch(prepared(), tmp_path / "net.lcnn", SETTINGS)
    assert not TrainingFolder(tmp_path / "net.lcnn").folder.exists()

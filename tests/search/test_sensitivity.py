"""lcnn sensitivity: one layer at a time, against the same layer replaced in a net of its own."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from cases import small_net
from command_line import lcnn, lcnn_json
from torch import Tensor

from lcnn_compress import api
from lcnn_compress.compression.settings import TrainingData
from lcnn_compress.data.score import score, torch_runner
from lcnn_compress.errors import DataError
from lcnn_compress.search.sensitivity import SensitivitySettings, picture, sensitivity

SHAPE = (1, 3, 16, 16)
MODEL = ("sensitivity", "model.pt", "--arch", "cases:small_net", "--input-shape", "1,3,16,16")
pytestmark = pytest.mark.usefixtures("one_thread")


class Labelled:
    """Images and the classes the dense net gives them."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[indices], self.y[indices]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(small_net().state_dict(), "model.pt")
    np.savez("data.npz", x=np.random.default_rng(0).random((40, 3, 16, 16), np.float32), y=np.arange(40) % 10)
    return tmp_path


def test_small_dictionaries_do_more_harm_and_the_net_stays_as_it_was() -> None:
    source = api.open_model(small_net(), SHAPE)
    x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = source.net(x)
    examples = Labelled(x, before.argmax(1))
    data = TrainingData([x[:32], x[32:]], examples)
    answer = sensitivity(source.captured, SensitivitySettings((1.0, 0.25, 1 / 16)), data)
    assert set(answer) == {
        "command", "input_shape", "sizes", "lookups", "init", "metric", "dense", "n", "layers", "dense_layers"
    }  # fmt: skip
    assert all(set(row) == {"name", "macs_dense", "forms"} for row in answer["layers"])
    assert answer["dense"] == 100.0
    assert [row["name"] for row in answer["layers"]] == ["conv1", "conv2"]
    assert set(answer["dense_layers"]) == {"stem", "fc"}
    for row in answer["layers"]:
        errors = [form["error"] for form in row["forms"]]
        assert errors == sorted(errors)
        assert errors[0] > 0
        assert [form["dictionary_size"] for form in row["forms"]] == ([16, 4, 1] if row["name"] == "conv1" else [32, 8, 2])
        assert all(0 <= form["drop"] <= 100 for form in row["forms"])
    unlabelled = sensitivity(source.captured, SensitivitySettings((0.25,)), TrainingData([x]))
    assert (unlabelled["metric"], unlabelled["dense"], unlabelled["n"]) == (None, None, 64)
    assert set(unlabelled["layers"][0]["forms"][0]) == {"share", "dictionary_size", "macs", "error"}
    with torch.no_grad():
        assert torch.equal(source.net(x), before)
    assert score(torch_runner(source.net), examples).value == 100.0


def test_without_calibration_inputs_it_is_refused() -> None:
    source = api.open_model(small_net(), SHAPE)
    with pytest.raises(DataError, match="holds 0 images; sensitivity needs at least 1"):
        sensitivity(source.captured, SensitivitySettings(), TrainingData())


@pytest.mark.usefixtures("here")
def test_table_json_and_picture() -> None:
    table = lcnn(*MODEL, "--calib", "data.npz", "--sizes", "0.5,0.25").stdout
    assert [line.split()[0] for line in table.splitlines()[2:4]] == ["conv1", "conv2"]
    assert "error of the outputs" in table
    answer = lcnn_json(*MODEL, "--data", "data.npz", "--sizes", "0.5", "--plot", "plot.svg")
    assert (answer["metric"], answer["n"]) == ("top1_percent", 40)
    texts = [element.text for element in ElementTree.parse("plot.svg").iter() if element.text]
    assert {"conv1", "conv2", "0.5"} <= set(texts)
    assert f"{answer['layers'][0]['forms'][0]['drop']:.2f}" in texts


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "sensitivity needs data; add --data (labelled) or --calib"),
        (("--calib", "data.npz", "--plot", "plot.png"), "--plot is 'plot.png'; it must end in .svg"),
        (("--calib", "data.npz", "--sizes", "0.5,2"), "--sizes is '0.5,2'; it must be shares above 0 and up to 1"),
    ],
)
def test_wrong_use_is_refused(options: tuple[str, ...], message: str) -> None:
    assert message in lcnn(*MODEL, *options, code=2).stderr


def test_names_are_escaped_in_the_picture() -> None:
    row = {"name": "<script>", "forms": [{"drop": 1.0, "error": 0.1}]}
    root = ElementTree.fromstring(picture({"metric": "top1_percent", "sizes": [0.5], "layers": [row]}))
    assert "<script>" in [element.text for element in root.iter()]

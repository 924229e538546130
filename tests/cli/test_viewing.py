"""The commands that look at nets, as a user meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from attributes import all_labels, colour_net, write_table
from command_line import lcnn, lcnn_json, plain_net, same_bytes
from PIL import Image

from lcnn_compress import api
from lcnn_compress.compression.settings import CompressSettings, PlanSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt and an artefact of it, net.lcnn, which takes 3x16x16 and tells 10 classes."""
    path = tmp_path_factory.mktemp("viewing")
    torch.save(plain_net(), path / "model.pt")
    settings = CompressSettings(PlanSettings("16", 2, keep_slow=True), measure=False)
    api.save(api.compress(str(path / "model.pt"), input_shape=(1, 3, 16, 16), settings=settings), path / "net.lcnn")
    return path


def test_profile_of_the_artefact_here(here: Path) -> None:
    answer = lcnn_json("profile", "--runs", 2, "--batch", 3, "--trace", "trace.json")
    assert (answer["command"], answer["input_shape"], answer["runs"]) == ("profile", [3, 3, 16, 16], 2)
    assert {"0", "2", "7"} <= {layer for node in answer["nodes"] for layer in node["layers"]}
    assert json.loads(Path("trace.json").read_text())["otherData"]["file"] == "net.lcnn"
    assert not (here / "net.lcnn" / "model.onnx").exists()
    printed = lcnn("profile", "net.lcnn", "--runs", 1, "--trace", "t.json").stdout
    assert "the same run without a profile: " in printed
    assert printed.endswith("written t.json; open it in chrome://tracing or ui.perfetto.dev\n")
    assert "--threads is 5000; it must be at least 1" in lcnn("profile", "--threads", 5000, code=2).stderr
    assert "no such artefact directory" in lcnn("profile", "gone", code=5).stderr


def test_inspect_draws_layers(here: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    answer = lcnn_json("inspect", "net.lcnn", "--plot", "layers.svg", "--filters", "0,63")
    assert (answer["pictures"], answer["notes"]) == (["layers.svg"], [])
    assert ">63 made, off " in Path("layers.svg").read_text()
    (here / "model.pt").unlink()
    result = lcnn("inspect", "net.lcnn", "--plot", "pictures")
    assert result.stdout.endswith("written pictures/2.svg\n")
    assert "note: filters stand alone, without the original ones: " in result.stderr
    assert "net.lcnn" in lcnn("inspect", "net.lcnn").stdout


def test_pictures_that_cannot_be_drawn_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, message in (
        (("model.pt", "--plot", "a.svg"), "--plot draws artefacts; model.pt is none"),
        (("net.lcnn", "--filters", "1"), "--filters does nothing without --plot"),
        (("net.lcnn", "--plot", "a.svg", "--filters", "a"), "--filters is 'a'; it must be whole numbers of at least 0"),
        (("net.lcnn", "--plot", "a.pdf"), "a.pdf: pictures end in .svg or .png, or lie in a folder; choose another --plot"),
    ):
        assert message in lcnn("inspect", *arguments, code=2).stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused = lcnn("inspect", "net.lcnn", "--plot", "a.svg", code=3).stderr
    assert "the package 'matplotlib' is missing; run pip install matplotlib, or pip install '.[plot]' in a checkout" in refused


def test_predict_names_classes(here: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 16), (90, 20, 250)).save(name)
    Path("names.txt").write_text("\n".join(f"thing {i}" for i in range(10)))
    answer = lcnn_json("predict", "a.png", "b.png", "--top", 3, "--labels", "names.txt")
    assert (answer["command"], answer["task"], answer["input_shape"]) == ("predict", "classes", [1, 3, 16, 16])
    first, second = answer["images"]
    assert first["labels"] == second["labels"]
    assert [label["name"] for label in first["labels"]] == [f"thing {label['number']}" for label in first["labels"]]
    lines = [line.split() for line in lcnn("predict", "a.png", "--top", 2).stdout.splitlines()]
    assert lines[0] == ["image", "class", "probability"]
    assert lines[1][:3] == ["a.png", "class", str(first["labels"][0]["number"])]
    assert len(lines) == 3
    wrong = lcnn("predict", "a.png", "--mean", "0.5", code=2).stderr
    assert "give both or none" in wrong
    assert "gone.png: no such file" in lcnn("predict", "gone.png", code=5).stderr


def test_several_labels_from_training_to_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path, all_labels(2))
    torch.save(colour_net(24), "model.pt")
    common = ("--input-shape", "1,3,8,8", "--data", "table.csv", "--no-measure")
    train = ("--epochs", 2, "--lr", 1e-4, "--batch-size", 4, "--only", "0", "--dict", 2, "--keep-slow", "--no-distill")
    lcnn("compress", "model.pt", *common, *train, "--task", "multilabel")
    made = api.load("model.lcnn")
    assert (made.config["data"]["task"], made.config["finetune"]["task"]) == ("multilabel", "multilabel")
    assert made.report.training is not None
    assert len(made.report.training.losses) == 2
    scored = lcnn_json("eval", "model.lcnn", "--data", "table.csv")
    assert (scored["metric"], scored["dense"], scored["n"]) == ("labels_percent", 100, 16)
    assert scored["labels"]["names"] == ["red", "green", "blue"]
    assert scored["labels"]["dense"]["mean_average_precision"] == 1
    assert scored["labels"]["lookup"]["positives"] == [8, 8, 8]
    assert "task multilabel as in compression" in scored["notes"]
    shown = [line.split() for line in lcnn("eval", "model.pt", *common[:4], "--task", "multilabel").stdout.splitlines()]
    assert ["red", "8", "100.00", "1.000"] in shown
    assert ["mean", "1.000"] in shown
    told = lcnn_json("predict", "images/6.png", "images/0.png", "--model", "model.lcnn", "--labels", "table.csv", "--top", 3)
    assert told["task"] == "multilabel"
    assert {label["name"] for label in told["images"][0]["labels"]} == {"red", "green", "blue"}
    lcnn("compress", "model.pt", "-c", "model.lcnn/config.json", "-o", "again.lcnn", "--no-measure")
    same_bytes(Path("again.lcnn"), Path("model.lcnn"))
    for arguments, message in (
        ((*common, "--task", "multilabel"), "--data does nothing without --epochs N"),
        ((*common, "--epochs", 1), "is a table of several labels for each image; say so with --task multilabel"),
        (
            (*common, "--epochs", 1, "--task", "faces"),
            "--task is 'faces'; it must be one of classes, multilabel, targets",
        ),
        ((*common[:2], "--task", "multilabel"), "--task does nothing without --data"),
        (("-c", "model.lcnn/config.json", "--task", "multilabel"), "--config already fixes --task"),
        ((*common[:2], "--data", "images", "--epochs", 1, "--strict"), "--strict is for tables of labels (.csv)"),
    ):
        assert message in lcnn("compress", "model.pt", *arguments, "-o", "no.lcnn", code=2).stderr
    Path("images/3.png").unlink()
    assert "1 of 16 images are not there" in lcnn_json("eval", "model.lcnn", "--data", "table.csv")["notes"][0]
    refused = lcnn("eval", "model.lcnn", "--data", "table.csv", "--strict", code=2).stderr
    assert "1 of 16 images are not there, the first is images/3.png; add them, remove their lines" in refused

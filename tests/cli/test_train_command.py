"""``lcnn train`` and what the other commands make of its artefact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from command_line import lcnn, lcnn_json, needs_library

from lcnn_compress.cli.train_command import TrainRequest
from lcnn_compress.scratch.train_settings import TrainSettings

pytestmark = pytest.mark.usefixtures("one_thread")
FACTORY = f"{tiny.__file__}:tiny_net"
SHAPE = ",".join(map(str, tiny.SHAPE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and the artefact of a net that was trained on it."""
    path = tmp_path_factory.mktemp("train")
    data, val = tiny.saved(path), tiny.saved(path, 40, 1, "val")
    answer = lcnn_json(
        "train", FACTORY, "--data", data, "--val", val, "--dict", tiny.DICTIONARY, "--input-shape", SHAPE, "--epochs", 12,
        "--batch-size", 16, "--lr", 0.01, "--mean", 0.5, "--std", 0.25, "-o", path / "tiny.lcnn",
    )  # fmt: skip
    assert (answer["command"], answer["training"]["steps"]) == ("train", 72)
    assert [row["kind"] for row in answer["layers"]][-1] == "dense"
    return path


@needs_library
def test_export_eval_bench_and_inspect_take_the_artefact(here: Path) -> None:
    lines = [json.loads(line) for line in (here / "tiny.lcnn.training" / "log.jsonl").read_text().splitlines()]
    scored = lcnn_json("eval", "tiny.lcnn", "--data", "val.npz")
    # Batch norms are folded and factors rounded since.
    assert scored["lookup"] == pytest.approx(lines[-1]["score"]["value"], abs=5)
    assert scored["lookup"] > 90
    assert scored["dense"] is None
    assert any("trained from scratch" in note for note in scored["notes"])
    assert lcnn_json("export", "tiny.lcnn", "--onnx")["max_difference"] < 1e-3
    assert lcnn_json("eval", "tiny.lcnn/model.onnx", "--data", "val.npz", "--mean", 0.5, "--std", 0.25)["lookup"] > 90
    measured = lcnn_json("bench", "tiny.lcnn", "--iterations", 3, "--no-rivals", "--no-per-layer")
    assert measured["dense_source"] == "dense form of the same file"
    assert "trained from scratch" in measured["notes"][0]
    assert {row["name"] for row in lcnn_json("inspect", "tiny.lcnn")["layers"]} == {"conv1", "conv2", "fc1", "fc2"}


def test_the_table_and_where_things_are(here: Path) -> None:
    shown = lcnn(
        "train", FACTORY, "--data", "data.npz", "--preset", "dense", "--input-shape", SHAPE, "--epochs", 1,
        "--schedule", "alexnet", "--balanced", "--shift", 1, "--flip", "-o", "other.lcnn",
    ).stdout  # fmt: skip
    assert "fc2" in shown
    assert "written other.lcnn; other.lcnn.training/log.jsonl tells of every epoch" in shown


def test_a_run_is_not_repeated_by_compress(here: Path) -> None:
    shown = lcnn("compress", "data.npz", "-c", "tiny.lcnn/config.json", code=2).stderr
    assert "lcnn train" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--data"),
        (("--data", "data.npz", "--preset", "dense", "--dict", "4"), "--dict does nothing with --preset dense"),
        (("--data", "data.npz", "--preset", "dense", "--lookups", "4"), "--lookups does nothing with --preset dense"),
        (("--data", "data.npz", "--lookups", "4"), "--lookups does nothing with --sparsity threshold; add --sparsity top"),
        (("--data", "data.npz", "--sparsity", "top", "--l1", "1"), "--l1 does nothing with --sparsity top; add --sparsity thr"),
        (("--data", "data.npz", "--preset", "fast"), "--preset is 'fast'; it must be one of lcnn-fast"),
        (("--data", "data.npz", "--schedule", "linear"), "--schedule is 'linear'"),
        (("--data", "data.npz", "--classes", "3"), "--classes is 3, but the labels name 4 classes"),
        (("--data", "data.npz", "--resume"), "no training to resume"),
        (("--data", "data.npz", "--resume", "--init-from", "x.ckpt"), "--init-from does nothing with --resume"),
        (("--data", "data.npz", "--dict", "conv9=3"), "'conv9' matches no layer"),
        (("--data", "data.npz", "--init-from", "x.ckpt"), "x.ckpt: no checkpoint"),
    ],
)
def test_what_cannot_be_done_is_refused(here: Path, options: tuple[str, ...], message: str) -> None:
    shown = lcnn("train", FACTORY, "--input-shape", SHAPE, "-o", "new.lcnn", *options, code=2)
    assert message in " ".join(shown.stderr.split())
    assert not (here / "new.lcnn").exists()


def test_defaults_are_those_of_the_settings() -> None:
    assert TrainRequest(net="x").settings(frozenset()) == TrainSettings()

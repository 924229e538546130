"""Models, artefacts and files scored by their path; scores are those of the nets themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from attributes import NAMES, all_labels, colour_net, write_table
from onnx import TensorProto, helper
from torch import nn

from lcnn_compress import api
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.data.evaluate import Evaluation, evaluate_file
from lcnn_compress.data.score import LabelScores
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError, ModelError, SettingsError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.pt of torch's own classes, its artefact, its ONNX file, and data that the net scores 75 % on."""
    path = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)
    ).eval()
    torch.save(net, path / "model.pt")
    x = torch.rand(8, 3, 12, 12)
    with torch.no_grad():
        labels = net(x).argmax(1)
    labels[:2] = (labels[:2] + 1) % 4
    np.savez(path / "data.npz", x=x.numpy(), y=labels.numpy())
    np.savez(path / "bare.npz", x=x.numpy())
    settings = api.CompressSettings(plan=api.PlanSettings("1.0", lookups=1.0, only=("0",), keep_slow=True), measure=False)
    artefact = api.compress(str(path / "model.pt"), settings=settings, input_shape=(1, 3, 12, 12))
    api.save(artefact, path / "model.lcnn")
    api.export_onnx(artefact, path / "model.onnx")
    return path


def test_an_artefact_is_scored_beside_its_net(folder: Path) -> None:
    found = evaluate_file(folder / "model.lcnn", DataSettings(data=str(folder / "data.npz")))
    assert (found.metric, found.dense, found.n) == ("top1_percent", 75.0, 8)
    assert found.lookup == 75.0  # dictionaries of full rank


def test_a_model_and_a_file_have_one_score(folder: Path) -> None:
    data = DataSettings(data=str(folder / "data.npz"))
    assert evaluate_file(folder / "model.pt", data, input_shape=(1, 3, 12, 12)) == Evaluation("top1_percent", 75.0, None, 8)
    assert evaluate_file(folder / "model.onnx", data) == Evaluation("top1_percent", None, 75.0, 8)
    assert evaluate_file(folder / "model.onnx", data, limit=3).n == 3


def test_data_without_labels_or_none_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="the data has no labels or targets"):
        evaluate_file(folder / "model.onnx", DataSettings(data=str(folder / "bare.npz")))
    with pytest.raises(SettingsError, match="`data` is missing; evaluation needs labelled examples"):
        evaluate_file(folder / "model.onnx", DataSettings())


def one_node(path: Path, op_type: str, inputs: list[str], output: onnx.ValueInfoProto, **attributes: int) -> None:
    """Write a file with one node, whose inputs are the file's."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 12, 12]) for name in inputs]
    node = helper.make_node(op_type, inputs, [output.name], **attributes)
    model = helper.make_model(helper.make_graph([node], "g", values, [output]), ir_version=9)
    model.opset_import[0].version = 17
    onnx.save(model, path)


def test_files_that_take_or_return_something_else_are_refused(folder: Path) -> None:
    number, text = (helper.make_tensor_value_info("y", kind, None) for kind in (TensorProto.FLOAT, TensorProto.STRING))
    many = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    data = DataSettings(data=str(folder / "data.npz"))
    for op_type, inputs, output, message in (
        ("Add", ["a", "b"], number, "takes a, b; only files with one input can be used"),
        ("Constant", [], number, "takes no input; only files with one input"),
        ("Cast", ["a"], text, r"returns tensor\(string\) first; only files that return floats"),
        ("SequenceConstruct", ["a"], many, r"returns seq\(tensor\(float\)\) first"),
    ):
        path = folder / f"{op_type}.onnx"
        attributes = {"Cast": {"to": int(TensorProto.STRING)}, "Constant": {"value_float": 1.0}}
        one_node(path, op_type, inputs, output, **attributes.get(op_type, {}))  # type: ignore[arg-type]
        with pytest.raises(ModelError, match=f"{op_type}.onnx: {message}"):
            evaluate_file(path, data)


def test_several_labels_are_scored_by_name(tmp_path: Path) -> None:
    table = write_table(tmp_path, all_labels())
    # A wrong label, as the image is not red, and an image that is not there.
    table.write_text(table.read_text().replace("images/3.png,0,1,1", "images/3.png,1,1,1").replace("images/5.png", "gone.png"))
    torch.save(colour_net(), tmp_path / "model.pt")
    data = DataSettings(data=str(table), task=Task.LABELS)
    found = evaluate_file(tmp_path / "model.pt", data, input_shape=(1, 3, 8, 8))
    assert (found.metric, found.lookup, found.n) == ("labels_percent", None, 7)
    assert found.dense == pytest.approx(100 * 20 / 21)
    assert found.labels is not None
    assert (found.labels.names, found.labels.lookup) == (NAMES, None)
    # Red: 3 of the 4 positives are the brightest, the fourth is as dark as the 3 negatives: 3/4 * 1 + 1/4 * 4/7.
    precision = 0.75 + 0.25 * 4 / 7
    assert found.labels.dense == LabelScores(
        (4, 4, 3), pytest.approx((600 / 7, 100, 100)), pytest.approx((precision, 1, 1)), pytest.approx((precision + 2) / 3)
    )  # type: ignore[arg-type]
    assert found.notes[0] == f"{table}: 1 of 8 images are not there and are left out, the first is {tmp_path}/gone.png"
    with pytest.raises(DataError, match="1 of 8 images are not there"):
        evaluate_file(
            tmp_path / "model.pt", DataSettings(data=str(table), task=Task.LABELS, strict=True), input_shape=(1, 3, 8, 8)
        )


def test_labels_that_no_image_has_are_named_and_left_out_of_the_mean(tmp_path: Path) -> None:
    labels = all_labels()
    x = np.repeat(labels[:, :, None, None], 4, axis=2).repeat(4, axis=3).astype(np.float32)
    labels[:, 1] = 0
    np.savez(tmp_path / "data.npz", x=x, y=labels)
    torch.save(colour_net(), tmp_path / "model.pt")
    data = DataSettings(data=str(tmp_path / "data.npz"), task=Task.LABELS)
    found = evaluate_file(tmp_path / "model.pt", data, input_shape=(1, 3, 4, 4))
    assert found.labels is not None
    assert found.labels.names == ("label 0", "label 1", "label 2")
    assert found.labels.dense == LabelScores((4, 0, 4), (100.0, 50.0, 100.0), (1.0, None, 1.0), 1.0)
    assert "no image has label 1: average precision is not defined there, and the mean leaves them out" in found.notes
    torch.save(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), tmp_path / "four.pt")
    with pytest.raises(DataError, match=r"labels are \(8, 3\), but the net returns \(8, 4\)"):
        evaluate_file(tmp_path / "four.pt", data, input_shape=(1, 3, 4, 4))

"""Nets whose answer is known, because they tell which colour an image has, and everything that is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from attributes import NAMES, all_labels, colour_net, write_table
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from lcnn_compress import api
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import ArtefactError, DataError, FileError, ModelError, SettingsError
from lcnn_compress.views.predictions import predict, read_names

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 51)}


def image(folder: Path, name: str, size: tuple[int, int] = (9, 12)) -> Path:
    """Write an image of one colour."""
    Image.new("RGB", size, COLOURS[name]).save(folder / f"{name}.png")
    return folder / f"{name}.png"


def colour_file(folder: Path, *, last: str | None = None, size: object = 8, shape: str | None = None) -> Path:
    """Write an ONNX file that returns the mean of each channel, after another operator perhaps."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["mean"]), helper.make_node("Flatten", ["mean"], ["flat"])]
    if last is not None:
        nodes.append(helper.make_node(last, ["flat"], ["y"]))
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("flat" if last is None else "y", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    if shape is not None:
        helper.set_model_props(model, {"lcnn.input_shape": shape})
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def test_classes_are_named_and_their_probabilities_are_the_softmax(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n\n", "utf-8-sig")
    paths = [image(tmp_path, name) for name in ("green", "blue")]
    told = predict(paths, colour_file(tmp_path), labels=tmp_path / "names.txt", top=2)
    assert (told.task, told.input_shape, [p.image for p in told.images]) == ("classes", (1, 3, 8, 8), [str(p) for p in paths])
    assert [[label.name for label in p.labels] for p in told.images] == [["green", "red"], ["blue", "red"]]
    e = math.e
    assert told.images[0].labels[0].probability == pytest.approx(e / (e + 2), rel=1e-5)
    assert told.images[1].labels[0].probability == pytest.approx(e**0.2 / (e**0.2 + 2), rel=1e-5)  # 51 of 255
    assert told.notes == (
        "no mean and std are known for an ONNX file: pixels lie in 0 to 1, unless `mean` and `std` are given",
    )  # fmt: skip
    unnamed = predict(paths[:1], tmp_path / "net.onnx", data=api.DataSettings(mean=(0.0, 1.0, 0.0), std=(1.0, 1.0, 0.5)))
    assert [(label.name, label.number) for label in unnamed.images[0].labels] == [(f"class {i}", i) for i in range(3)]
    assert [label.probability for label in unnamed.images[0].labels] == [pytest.approx(1 / 3)] * 3
    assert unnamed.notes == ()


def test_what_a_softmax_gives_is_no_logit(tmp_path: Path) -> None:
    told = predict([image(tmp_path, "red")], colour_file(tmp_path, last="Softmax"))
    assert told.images[0].labels[0].probability == pytest.approx(math.e / (math.e + 2), rel=1e-5)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1))
    settings = api.CompressSettings(api.PlanSettings(skip=("*",)), measure=False)
    api.save(api.compress(net, input_shape=(1, 3, 6, 6), settings=settings), tmp_path / "net.lcnn")
    told = predict([image(tmp_path, "red")], tmp_path / "net.lcnn")
    pixel = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    wanted = sorted(net(pixel.expand(1, 3, 6, 6))[0].tolist(), reverse=True)
    assert [label.probability for label in told.images[0].labels] == pytest.approx(wanted, rel=1e-5)


def test_an_artefact_knows_its_size_mean_and_std(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3).view(3, 3, 1, 1))
    folder = tmp_path / "images"
    folder.mkdir()
    for name in COLOURS:
        image(folder, name)
    data = api.DataSettings(calib=str(folder), mean=(0.5, 0.0, 0.0), std=(0.5, 1.0, 1.0))
    source = api.open_model(net, (1, 3, 6, 6))
    settings = api.CompressSettings(api.PlanSettings(skip=("*",)), measure=False)
    api.save(api.compress_source(source, settings, api.load_data(data, source.input_shape)), tmp_path / "net.lcnn")
    told = predict([folder / "red.png"], tmp_path / "net.lcnn", top=1)
    assert told.input_shape == (1, 3, 6, 6)
    (label,) = told.images[0].labels
    assert (label.number, label.probability) == (0, pytest.approx(math.e / (math.e + 2), rel=1e-5))  # (1 - 0.5) / 0.5 = 1
    assert told.notes == ("mean [0.5, 0.0, 0.0] and std [0.5, 1.0, 1.0] as in compression",)
    own = predict([folder / "red.png"], tmp_path / "net.lcnn", top=1, data=api.DataSettings(mean=(0.0,), std=(0.5,)))
    assert own.images[0].labels[0].probability == pytest.approx(math.e**2 / (math.e**2 + 2), rel=1e-5)


def test_the_size_of_an_open_file_is_that_it_states_or_that_is_given(tmp_path: Path) -> None:
    path = image(tmp_path, "red", (40, 20))
    assert predict([path], colour_file(tmp_path, size="s", shape="[1, 3, 4, 4]")).input_shape == (1, 3, 4, 4)
    assert predict([path], colour_file(tmp_path, size="s"), input_shape=(1, 3, 5, 7)).input_shape == (1, 3, 5, 7)
    with pytest.raises(SettingsError, match=r"net\.onnx: takes images of any size, \?x3x\?x\?; say which with `input_shape`"):
        predict([path], tmp_path / "net.onnx")
    with pytest.raises(DataError, match="does not run on images of"):
        predict([path], colour_file(tmp_path), input_shape=(1, 3, 5, 7))


def test_what_cannot_be_predicted_is_refused(tmp_path: Path) -> None:
    path, net = image(tmp_path, "red"), colour_file(tmp_path)
    (tmp_path / "names.txt").write_text("red\ngreen\n")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(DataError, match="`labels` holds 2 names, but the net tells 3 classes"):
        predict([path], net, labels=tmp_path / "names.txt")
    with pytest.raises(FileError, match=r"none\.png: no such file"):
        predict([path, tmp_path / "none.png"], net)
    with pytest.raises(DataError, match=r"text\.png: is not an image that can be decoded"):
        predict([path, tmp_path / "text.png"], net)
    with pytest.raises(SettingsError, match="`top` is 0"):
        predict([path], net, top=0)
    with pytest.raises(SettingsError, match="there are no images"):
        predict([], net)
    with pytest.raises(SettingsError, match=r"text\.png: is neither an artefact nor an \.onnx file"):
        predict([path], tmp_path / "text.png")
    with pytest.raises(FileError, match="gone: no such file or artefact"):
        predict([path], tmp_path / "gone")
    with pytest.raises(SettingsError, match="mean and std have 2 numbers"):
        predict([path], net, data=api.DataSettings(mean=(0.5, 0.5), std=(1.0, 1.0)))
    with pytest.raises(DataError, match=r"bytes are divided by 255, but `mean` is \(127\.0,\)"):
        predict([path], net, data=api.DataSettings(mean=(127.0,), std=(64.0,)))
    net.write_bytes(b"no net")
    with pytest.raises(ArtefactError, match=r"net\.onnx: ONNX Runtime .* refuses it"):
        predict([path], net)


def test_nets_that_tell_no_classes_are_refused_with_a_way_out(tmp_path: Path) -> None:
    path = image(tmp_path, "red")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"returns \(1, 3, 8, 8\) for 1 image, not a number for each class.*'lcnn eval'"):
        predict([path], tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="its output holds NaN or infinity"):
        predict([path], colour_file(tmp_path, last="Reciprocal"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a\n\nb\n", "line 2 is empty"), (b"", "line 1 is empty"), (b"\xff\xfe\x00", "is no text in UTF-8")],
)
def test_names_that_cannot_be_read_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_names(tmp_path / "names.txt")
    with pytest.raises(FileError, match="cannot be read: No such file or directory"):
        read_names(tmp_path / "gone.txt")


def test_images_are_scaled_and_cut_in_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8, 1] = 255  # the middle is green
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    told = predict([tmp_path / "wide.png"], colour_file(tmp_path, size=4), top=1)
    assert told.images[0].labels[0].probability == pytest.approx(math.e / (math.e + 2), rel=1e-5)


def test_several_labels_are_told_by_name(tmp_path: Path) -> None:
    table = write_table(tmp_path, all_labels())
    settings = api.CompressSettings(api.PlanSettings(skip=("*",)), measure=False)
    api.save(api.compress(colour_net(), input_shape=(1, 3, 8, 8), settings=settings), tmp_path / "net.lcnn")
    paths = [tmp_path / "images" / f"{i}.png" for i in (0, 5)]
    data = api.DataSettings(task=Task.LABELS)
    told = predict(paths, tmp_path / "net.lcnn", labels=table, data=data)
    assert told.task == "multilabel"
    assert [[label.name for label in image.labels] for image in told.images] == [[], ["red", "blue"]]
    bright = 1 / (1 + math.exp(-10 * (230 / 255 - 0.5)))
    assert [label.probability for label in told.images[1].labels] == pytest.approx([bright, bright], rel=1e-4)
    told = predict(paths[:1], tmp_path / "net.lcnn", top=3, data=data)
    assert [label.name for label in told.images[0].labels] == ["label 0", "label 1", "label 2"]
    given = predict([paths[1]], colour_file(tmp_path, last="Sigmoid"), labels=table, data=data, top=1)
    assert given.images[0].labels[0].probability == pytest.approx(1 / (1 + math.exp(-230 / 255)), rel=1e-5)
    with pytest.raises(SettingsError, match="`task` is targets, which have no names"):
        predict(paths, tmp_path / "net.lcnn", data=api.DataSettings(task=Task.TARGETS))
    assert read_names(table) == [*NAMES]

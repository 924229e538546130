"""What a file tells about itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import REUSED, Reused
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress import api
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.errors import ArtefactError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_file_tells_the_shapes_of_every_kind(tmp_path):
    source = api.open_model(Reused(), (1, 3, 16, 16))
    artefact = api.compress_source(source, CompressSettings(measure=False), plans=REUSED)
    api.export_onnx(artefact, tmp_path / "model.onnx")
    told = api.describe_onnx(tmp_path / "model.onnx")
    shown = [[row.get(key) for key in ("in_channels", "out_channels", "kernel", "dictionary_size")] for row in told.layers]
    assert shown == [[3, 16, [3, 3], None], [16, 16, [3, 3], 8], [16, 16, [3, 3], 4], [16, 4, [1, 1], None]]
    model = onnx.load(tmp_path / "model.onnx")
    next(n for n in model.graph.node if n.name == "stem").name = "other"
    onnx.save(model, tmp_path / "model.onnx")
    told = api.describe_onnx(tmp_path / "model.onnx")
    assert told.facts["layers without a node of their name"] == "stem"
    assert [row["name"] for row in told.layers] == ["head", "thin", "last"]


def one_layer(path: Path, nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray]) -> None:
    """Write a file whose metadata say that it has a layer called conv."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("X", "Y")]
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"lcnn.layers": json.dumps([{"name": "conv", "macs_dense": 1, "macs": 1}])})
    onnx.save(model, path)


@pytest.mark.parametrize("names", [("conv",), ("conv", "conv/dictionary")])
def test_a_node_of_another_kind_under_the_name_of_a_layer_is_no_internal_error(names: tuple[str, ...], tmp_path: Path) -> None:
    vector = {"W": np.ones(3, np.float32)}
    last = helper.make_node("MatMul", ["X" if len(names) == 1 else "Z", "W"], ["Y"], name="conv")
    first = helper.make_node("Relu", ["X"], ["Z"], name="conv/dictionary")
    one_layer(tmp_path / "x.onnx", [first, last] if len(names) == 2 else [last], vector)
    with pytest.raises(ArtefactError, match=r"x\.onnx: node 'conv' is not one that lcnn writes .*; the file was edited"):
        api.describe_onnx(tmp_path / "x.onnx")


def test_a_node_without_a_weight_is_no_layer(tmp_path: Path) -> None:
    one_layer(tmp_path / "x.onnx", [helper.make_node("Relu", ["X"], ["Y"], name="conv")], {})
    told = api.describe_onnx(tmp_path / "x.onnx")
    assert (told.layers, told.facts["layers without a node of their name"]) == ([], "conv")

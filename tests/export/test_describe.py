"""What a file tells about itself."""

from __future__ import annotations

import onnx
import pytest
from exported import REUSED, Reused
from small_onnx import NetWriter

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


@pytest.mark.parametrize("key", ["lcnn.layers", "lcnn.input_shape"])
def test_a_file_with_metadata_of_anything_is_refused(key, tmp_path):
    model = NetWriter(True, True).model("n")
    next(entry for entry in model.metadata_props if entry.key == key).value = '[{"name": 3}]'
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ArtefactError, match=f"^model.onnx: metadata '{key}' cannot be read"):
        api.describe_onnx(tmp_path / "model.onnx")


def test_a_row_whose_node_is_not_one_of_a_layer_is_left_out(tmp_path):
    model = NetWriter(False, False).model("n")
    nodes = {node.name: node for node in model.graph.node}
    nodes["stem"].name = "other"
    next(node for node in model.graph.node if node.op_type == "Relu").name = "stem"
    onnx.save(model, tmp_path / "model.onnx")
    told = api.describe_onnx(tmp_path / "model.onnx")
    assert told.facts["layers without a node of their name"] == "stem"

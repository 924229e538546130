"""What files say of themselves is read, and refused where it is not as lcnn writes it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from hostile import VALUES, changed, places
from onnx import helper

from lcnn_compress.errors import ArtefactError
from lcnn_compress.export.metadata import StoredLayer, stored_layers

ROW = {"name": "conv", "kind": "lookup", "reason": "", "macs_dense": 20, "macs": 5}
FILE = Path("x.onnx")


def model(**metadata: str) -> onnx.ModelProto:
    made = helper.make_model(helper.make_graph([], "g", [], []))
    helper.set_model_props(made, {f"lcnn.{key}": value for key, value in metadata.items()})
    return made


def test_layers_and_shape_are_read() -> None:
    stored = model(
        layers=json.dumps([ROW, {"name": "old", "macs_dense": 1, "macs": 1, "later": 3}]), input_shape="[1, 3, 8, 8]"
    )
    assert stored_layers(stored, FILE) == ([StoredLayer("conv", 20, 5, "lookup", ""), StoredLayer("old", 1, 1)], [1, 3, 8, 8])
    assert stored_layers(model(), FILE) == (None, None)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"layers": "{}"}, "it is no list of layers"),
        ({"layers": "[3]"}, "layer 1 is 3, not an object"),
        ({"layers": '[{"name": "a"}]'}, "layer 1 lacks macs_dense, macs"),
        ({"layers": json.dumps([ROW | {"macs": "many"}])}, "'macs' of layer 1 is 'many'"),
        ({"layers": json.dumps([ROW | {"macs": -1}])}, "a number of MACs is below 0"),
        ({"input_shape": '"1,3"'}, "is no list of sizes"),
        ({"input_shape": "[1, -3]"}, "no list of sizes"),
        ({"input_shape": "[NaN]"}, "it holds NaN"),
        ({"other": "{"}, "Expecting property name"),
    ],
)
def test_other_metadata_is_refused(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(
        ArtefactError, match=rf"^x.onnx: metadata 'lcnn.layers' or .* cannot be read \(.*{message}.*\); write it"
    ):
        stored_layers(model(**metadata), FILE)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:20])
def test_no_value_is_an_internal_error(value: str) -> None:
    for key, good in (("layers", [ROW]), ("input_shape", [1, 3])):
        for path in places(good):
            try:
                rows, shape = stored_layers(model(**{key: changed(good, path, value)}), FILE)
            except ArtefactError:
                continue
            assert all(isinstance(row, StoredLayer) for row in rows or ())
            assert all(isinstance(size, int) for size in shape or ())

"""How nodes of layers are named, and attributes that a body takes from its node."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from lcnn_compress.operators.common import CALL, FIRST_STAGE, attribute_reference, layer_name


@pytest.mark.parametrize("suffix", ["", FIRST_STAGE, f"{CALL}2", f"{CALL}2{FIRST_STAGE}", "/pool"])
def test_every_node_of_a_layer_has_its_name_before_the_first_slash(suffix: str) -> None:
    assert layer_name(helper.make_node("Conv", ["x", "w"], ["y"], name=f"layer1.0.conv1{suffix}")) == "layer1.0.conv1"


@pytest.mark.parametrize(
    ("field", "kind"),
    [("value_ints", "INTS"), ("value_int", "INT"), ("value_float", "FLOAT"), ("group", "INT"), ("pads", "INTS")],
)
def test_a_body_takes_attributes_from_its_node(field: str, kind: str) -> None:
    reference = attribute_reference(field, "own")
    assert (reference.name, reference.ref_attr_name) == (field, "own")
    assert reference.type == onnx.AttributeProto.AttributeType.Value(kind)

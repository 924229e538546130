"""Small surgery on ONNX graphs: what nothing reads goes, what is only converted counts as its source."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress.export.nodes import attribute_values, constants_of, drop_domain, drop_unread
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.max_pool import POOL_TYPE, pool_body


@pytest.fixture
def model() -> onnx.ModelProto:
    """y = x + flatten(w) as float32; the sine of x and ``spare`` are read by nothing that is read."""
    nodes = [
        helper.make_node("Sin", ["x"], ["sine"]),
        helper.make_node("Add", ["sine", "spare"], ["unread"]),
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["wide"], ["flat"], axis=1),
        helper.make_node("Add", ["x", "flat"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    tensors = [
        numpy_helper.from_array(np.ones((1, 2, 2), np.float16), "w"),
        numpy_helper.from_array(np.ones(1, np.float32), "spare"),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, functions=[pool_body()])


def test_what_nothing_reads_is_dropped_and_order_stays(model: onnx.ModelProto) -> None:
    drop_unread(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Flatten", "Add"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    onnx.checker.check_model(model)


def test_constants_are_found_behind_conversions(model: onnx.ModelProto) -> None:
    constants = constants_of(model.graph)
    assert sorted(constants) == ["flat", "spare", "w", "wide"]
    assert constants["flat"].name == constants["wide"].name == "w"


def test_bodies_and_opset_of_our_operators_go_together(model: onnx.ModelProto) -> None:
    assert [function.name for function in model.functions] == [POOL_TYPE]
    drop_domain(model)
    assert not model.functions
    assert [entry.domain for entry in model.opset_import] == [""]


def test_attributes_are_plain_values(model: onnx.ModelProto) -> None:
    assert attribute_values(model.graph.node[2]) == {"to": TensorProto.FLOAT}
    assert attribute_values(model.graph.node[0]) == {}

"""Which layer a node of ONNX Runtime's own graph counts for."""

from __future__ import annotations

from onnx import helper

from lcnn_compress.benchmark import node_layers
from lcnn_compress.operators.common import DOMAIN
from lcnn_compress.operators.lookup_conv import OP_TYPE


def test_a_sum_of_two_layers_belongs_to_neither() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="left"), helper.make_node("Conv", ["x", "v"], ["b"], name="right"),
        helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Relu", ["sum"], ["relu"]),
    ]  # fmt: skip
    found = node_layers.layers_of_events(helper.make_graph(nodes, "g", [], []))
    assert (found["a_nchwc"], found["b"], found["fused right"]) == ("left", "right", "right")
    assert not {"sum", "sum_nchwc", "relu", "relu_nchwc"} & set(found)


def test_layout_changes_count_for_the_lookups_beside_them() -> None:
    lookup = {"op_type": OP_TYPE, "domain": DOMAIN}
    nodes = [
        helper.make_node("ReorderOutput", ["blocked"], ["plain"]),
        helper.make_node(inputs=["plain"], outputs=["a"], name="one", **lookup),
        helper.make_node(inputs=["a", "plain"], outputs=["b"], name="two", **lookup),
        helper.make_node("ReorderInput", ["b"], ["again"]), helper.make_node("ReorderOutput", ["again"], ["last"]),
    ]  # fmt: skip
    shares: list[list[str]] = [[], ["one"], ["two"], [], []]
    node_layers.add_layout_changes(nodes, shares)
    assert shares == [["one", "two"], ["one"], ["two"], ["two"], []]

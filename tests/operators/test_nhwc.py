"""What operators on narrow numbers have in common."""

from __future__ import annotations

from onnx import helper

from lcnn_compress.operators.common import DOMAIN, NO_BOUND
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.operators.nhwc import GEOMETRY, TO_NCHW, TO_NHWC, bounds, function, narrow_attributes


def test_attributes_say_all_of_a_geometry_and_no_clip() -> None:
    attributes = narrow_attributes(ConvGeometry((3, 2), (2, 1), (1, 0, 2, 3), (1, 4), 5))
    assert attributes == {
        "kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 3], "dilations": [1, 4], "group": 5,
        "clip_min": -NO_BOUND, "clip_max": NO_BOUND,
    }  # fmt: skip
    assert set(GEOMETRY) == set(attributes) - {"clip_min", "clip_max"}


def test_the_two_orders_are_each_others_reverse() -> None:
    assert [TO_NHWC[axis] for axis in TO_NCHW] == [0, 1, 2, 3]


def test_bounds_are_those_of_the_node() -> None:
    nodes = bounds()
    assert [(node.output[0], node.attribute[0].ref_attr_name) for node in nodes] == [
        ("lowest", "clip_min"), ("highest", "clip_max"),
    ]  # fmt: skip
    body = function(
        "Limit", ["X"], [*nodes, helper.make_node("Clip", ["X", "lowest", "highest"], ["Y"])], ["clip_min", "clip_max"]
    )
    assert (body.domain, body.name, list(body.input), list(body.output)) == (DOMAIN, "Limit", ["X"], ["Y"])

"""Our MaxPool: the operator against torch, natively and by its body."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from lcnn_compress import runtime
from lcnn_compress.errors import LcnnError
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.max_pool import POOL_TYPE, pool_body

needs_library = pytest.mark.skipif(runtime.library_path() is None, reason="the native library is not installed")


ATTRIBUTES = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1]}


def pool_model(**changes) -> bytes:
    node = helper.make_node(POOL_TYPE, ["X"], ["Y"], name="the-pool", domain=DOMAIN, **(ATTRIBUTES | changes))
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", "c", "p", "q"])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model.functions.append(pool_body())
    return model.SerializeToString()


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_library), False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "shape"),
    [
        ((3, 3), (2, 2), (1, 1), (2, 5, 13, 17)),
        ((2, 2), (2, 2), (0, 0), (1, 16, 8, 9)),
        ((2, 5), (1, 3), (1, 2), (3, 1, 6, 40)),
        ((3, 3), (1, 1), (1, 1), (1, 4, 100, 130)),  # large enough for threads
        ((1, 1), (1, 1), (0, 0), (0, 4, 3, 3)),
    ],
)
def test_it_gives_what_torch_gives(kernel, stride, padding, shape, native):
    model = pool_model(kernel_shape=kernel, strides=stride, pads=padding * 2)
    x = torch.randn(shape)
    got = runtime.session(model, threads=2, native=native).run(None, {"X": x.numpy()})[0]
    np.testing.assert_array_equal(got, nn.functional.max_pool2d(x, kernel, stride, padding).numpy())


@needs_library
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_shape": [257, 3]}, "MaxPool 'the-pool': kernel height is 257, outside \\[1, 256\\]"),
        ({"pads": [1, 1, 1, 3]}, "MaxPool 'the-pool': padding after width is 3, outside \\[0, 2\\]"),
        ({"dilations": [1, 2]}, "MaxPool 'the-pool': dilation width is 2"),
        ({"strides": [0, 1]}, "MaxPool 'the-pool': stride height is 0"),
        ({"strides": [1]}, "attribute strides"),
    ],
)
def test_bad_attributes_are_refused(changes, message):
    with pytest.raises(LcnnError, match=message):
        runtime.session(pool_model(**changes))


@needs_library
def test_an_input_smaller_than_the_window_is_refused():
    session = runtime.session(pool_model(pads=[0] * 4))
    with pytest.raises(runtime.ORT_ERRORS, match="MaxPool 'the-pool': input height is 2"):
        session.run(None, {"X": np.zeros((1, 1, 2, 5), np.float32)})

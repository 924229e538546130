"""One LookupConv as an ONNX file, and the right answer for it."""

from __future__ import annotations

import numpy as np
import torch
from cases import LookupConvCase, tolerance
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.lookup_conv import INPUTS, OP_TYPE, function_body, node_attributes

POOL = {"pool_kernel_shape": [3, 3], "pool_strides": [2, 2], "pool_pads": [1, 1, 1, 1]}


def node_model(
    case: LookupConvCase, *, dtype=np.float32, gap_type=None, body=True, residual=None, clip=None, hard_swish=0, **changes
) -> bytes:
    """One LookupConv as an ONNX file; ``changes`` replace tensors, attributes or input sizes."""
    layer = case.module()
    gaps, coefficients = encode_positions((layer.sparse_kernel * layer.support).detach().numpy())
    arrays = {
        "D": layer.dictionary.detach().numpy().astype(dtype), "gaps": gaps if gap_type is None else gaps.astype(gap_type),
        "coefficients": coefficients.astype(dtype), "bias": layer.bias.detach().numpy(), "residual": np.zeros(1, np.float32),
    }  # fmt: skip
    attributes = node_attributes(case.geometry) | {"hard_swish": hard_swish}
    if clip is not None:
        attributes |= {"clip_min": clip[0], "clip_max": clip[1]}
    for name, value in changes.items():
        (arrays if name in arrays else attributes)[name] = value
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", case.c_in, "h", "w"])]
    if residual is not None:
        del arrays["residual"]
        inputs.append(helper.make_tensor_value_info("residual", TensorProto.FLOAT, ["n", case.c_out, "p", "q"]))
    node = helper.make_node(OP_TYPE, list(INPUTS), ["Y"], name="the-node", domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", "c", "p", "q"])],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    if body:
        model.functions.append(function_body(hard_swish=hard_swish == 1, pooled="pool_kernel_shape" in changes))
    return model.SerializeToString()


def expected(case: LookupConvCase, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The right answer in double precision, and how far float32 may be from it."""
    layer, x = case.module(), case.input()
    with torch.no_grad():
        weight = layer.weight().double()
        top, left, bottom, right = case.padding
        padded = torch.nn.functional.pad(x.double(), (left, right, top, bottom))
        y = torch.nn.functional.conv2d(padded, weight, layer.bias.double(), case.stride, 0, case.dilation, case.groups)
    extra = 0.0 if residual is None else residual.abs().double()
    return (y if residual is None else y + residual.double()), tolerance(layer, x, extra)

"""What torch's exporter cannot write: put into the graph while a net is exported, computed with what it can or as nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d, RoundBfloat16
from lcnn_compress.forms.int8 import Int8Conv2d, Round8
from lcnn_compress.net.layers import aten, calls
from lcnn_compress.operators import bfloat16_conv, int8_conv
from lcnn_compress.operators.common import DOMAIN, OP_VERSION
from lcnn_compress.operators.narrow import BYTES, HALVES, INPUTS
from lcnn_compress.operators.nhwc import narrow_attributes


def put_in(net: fx.GraphModule) -> None:
    """Replace operators that the exporter does not know, or not in every form."""
    for node in net.graph.nodes:
        node.target = _STAND_INS.get(node.target, node.target)
    net.recompile()


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **options: Any
) -> Tensor:
    """Attend to tensors (..., L, E) of any rank as to (N, heads, L, E), which is all that torch's exporter takes."""
    attend = nn.functional.scaled_dot_product_attention
    if query.ndim == 4:
        return attend(query, key, value, attn_mask, *args, **options)
    q, k, v = (_four_dimensional(x, x.shape[:-2]) for x in (query, key, value))
    if attn_mask is not None:
        attn_mask = _four_dimensional(attn_mask, query.shape[:-2])
    return attend(q, k, v, attn_mask, *args, **options).reshape(*query.shape[:-1], value.shape[-1])


def _four_dimensional(x: Tensor, leading: torch.Size) -> Tensor:
    """Return (*leading, L, E), or what is broadcast to that, as (N, heads, L, E)."""
    x = x.expand(*leading, -1, -1)
    return x.unsqueeze(-3).flatten(0, -4) if len(leading) < 2 else x.flatten(0, -4)


def _adaptive_max(x: Tensor, size: list[int]) -> tuple[Tensor, None]:
    """Pool to ``size``, part by part: part i of n of a length L is [floor(i L / n), ceil((i + 1) L / n))."""
    for axis, n in zip((-2, -1), size * (2 // len(size)), strict=True):
        if n == 1:
            x = x.amax(axis, keepdim=True)
            continue
        length = int(x.shape[axis])  # the file is of this length only
        parts = [x.narrow(axis, i * length // n, -(-(i + 1) * length // n) - i * length // n) for i in range(n)]
        x = torch.cat([part.amax(axis, keepdim=True) for part in parts], axis)
    return x, None


_STAND_INS: dict[Any, Callable[..., Any]] = {
    aten.scaled_dot_product_attention.default: _attention,
    aten.adaptive_max_pool2d.default: _adaptive_max,
}


class _RoundNode(nn.Module):
    """Stands in for a rounding while the net is exported."""

    def __init__(self, rounding: Round8 | RoundBfloat16) -> None:
        super().__init__()
        self.op_type = (BYTES if isinstance(rounding, Round8) else HALVES).rounding
        self.names = tuple(rounding.state_dict())  # scale and zero point, or nothing
        for name in self.names:
            self.register_buffer(name, getattr(rounding, name).clone())

    def forward(self, x: Tensor) -> Tensor:
        inputs = (x, *(getattr(self, name) for name in self.names))
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.op_type}", inputs, {}, dtype=x.dtype, shape=x.shape, version=OP_VERSION
        )


class _ConvNode(nn.Module):
    """Stands in for a layer while the net is exported: an operator that takes narrow numbers, for now given float32."""

    def __init__(self, layer: Int8Conv2d | Bfloat16Conv2d) -> None:
        super().__init__()
        self.geometry, self.out_channels = layer.geometry, layer.out_channels
        held = {"D": layer.dictionary, "W": layer.weight.permute(0, 2, 3, 1).contiguous(), "bias": layer.bias}
        if isinstance(layer, Int8Conv2d):
            self.op_type = int8_conv.LOOKUP_TO_FLOAT if layer.has_dictionary else int8_conv.CONV_TO_FLOAT
            held |= {"x_scale": layer.input_scale, "x_zero_point": layer.zero_point}
            held |= {"w_scale": layer.weight_scale, "d_scale": layer.dictionary_scale}
        else:
            self.op_type = bfloat16_conv.LOOKUP_TO_FLOAT if layer.has_dictionary else bfloat16_conv.CONV_TO_FLOAT
        self.names = INPUTS[self.op_type][1:]
        for name in self.names:
            # The name of its weight tells a layer.
            self.register_buffer("weight" if name == "W" else name, held[name].detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.geometry.output_size(x.shape[2], x.shape[3])
        inputs = (x, *(getattr(self, "weight" if name == "W" else name) for name in self.names))
        shape, attributes = (x.shape[0], self.out_channels, height, width), narrow_attributes(self.geometry)
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.op_type}", inputs, attributes, dtype=x.dtype, shape=shape, version=OP_VERSION
        )


def put_in_narrow(net: fx.GraphModule, stand_in: fx.GraphModule) -> None:
    """Let ``stand_in``, which has the graph of ``net``, export the parts of the net that are in 8 bits or bfloat16."""
    for node, layer in list(calls(net, (Int8Conv2d, Bfloat16Conv2d))):
        stand_in.add_submodule(str(node.target), _ConvNode(layer))
    for node, rounding in list(calls(net, (Round8, RoundBfloat16))):
        stand_in.add_submodule(str(node.target), _RoundNode(rounding))

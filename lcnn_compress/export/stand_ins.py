"""What torch's exporter cannot write, computed with what it can: put into the graph while a net is exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from lcnn_compress.net.layers import aten


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

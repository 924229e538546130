"""A finished net in bfloat16, rounded where it would be in 8 bits. It takes no data: bfloat16 has the range of float32."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d, RoundBfloat16
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import as_lookup, with_lookups
from lcnn_compress.net.layers import Captured
from lcnn_compress.quantisation.points import find_points, with_rounding


@torch.no_grad()
def in_bfloat16(captured: Captured, names: Collection[str], in_bytes: Collection[str] = ()) -> fx.GraphModule:
    """Return a copy of a finished net with the layers named in bfloat16.

    Args:
        captured: the net, batch norms folded, and its layers.
        names: layers that nothing stands against (``quantise.reason_against``).
        in_bytes: layers that will compute in 8 bits. What they read of those named is rounded to bfloat16 first: bytes are
            made of that in one step, and 8 bits hide the difference.
    """
    dense = [layer for layer in captured.layers if layer.name in names and not isinstance(layer.module, LookupConv2d)]
    net = with_lookups(captured, {layer.name: as_lookup(layer) for layer in dense})
    points = find_points(net, names, in_bytes)
    result, _ = with_rounding(net, {node: RoundBfloat16() for node in points.nodes}, "bfloat16")
    for name in names:
        result.add_submodule(name, Bfloat16Conv2d.of(_lookup(result, name)))
    result.recompile()
    return result


def _lookup(net: fx.GraphModule, name: str) -> LookupConv2d:
    found = net.get_submodule(name)
    assert isinstance(found, LookupConv2d), name
    return found

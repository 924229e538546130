"""Change a captured net: put layers in the place of others, fold batch norms, move it to a device."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import round_factors
from lcnn_compress.net.layers import FLATTENS, LAYER_TYPES, NARROW_TYPES, Captured, Layer, aten, calls, source_of


def replace_layer(net: fx.GraphModule, layer: Layer, lookup: LookupConv2d) -> None:
    """Put ``lookup`` in the place of a layer."""
    for node in [n for n in net.graph.nodes if n.op == "call_module" and n.target == layer.name]:
        if layer.is_linear:
            _call_on_planes(net, node, layer)
        else:
            node.args = (source_of(node, layer),)
    net.add_submodule(layer.name, lookup)
    net.graph.eliminate_dead_code()
    net.recompile()


def _call_on_planes(net: fx.GraphModule, node: fx.Node, layer: Layer) -> None:
    """Call a Linear on the tensor that was flattened for it, else on planes of one pixel, and flatten what comes out."""
    source, users = node.all_input_nodes[0], list(node.users)
    n_dims = len(source.meta["tensor_meta"].shape)
    with net.graph.inserting_before(node):
        if layer.geometry.taps > 1:
            source = planes = source.all_input_nodes[0]
        else:
            planes = net.graph.call_function(aten.reshape.default, (source, [-1, layer.in_channels, 1, 1]))
        # No size is -1, because an input of another size must fail, as it did in the Linear.
        sizes = [net.graph.call_function(aten.sym_size.int, (source, axis)) for axis in range(n_dims - 1)]
    node.args = (planes,)
    with net.graph.inserting_after(node):
        rows = net.graph.call_function(aten.reshape.default, (node, [*sizes, layer.out_channels]))
    rows.meta, node.meta = dict(node.meta), {}
    for user in users:
        user.replace_input_with(node, rows)


def move(net: nn.Module, device: torch.device) -> None:
    """Move a net to ``device``, with the tensors its graph makes: torch.export writes the device it ran on into their calls."""
    net.to(device)
    if isinstance(net, fx.GraphModule):
        for node in net.graph.nodes:
            args, kwargs = map_aggregate((node.args, node.kwargs), lambda a: device if isinstance(a, torch.device) else a)
            node.args, node.kwargs = args, kwargs
        net.recompile()


@torch.no_grad()
def fold_batch_norms(net: fx.GraphModule) -> None:
    """Fold every batch norm that follows one layer directly into that layer, and drop dropout.

    A per-output scale multiplies the filter (for a lookup convolution the coefficients, never the shared dictionary).
    """
    for node, _ in list(calls(net, (nn.Dropout, nn.Dropout2d))):
        node.replace_all_uses_with(node.all_input_nodes[0])
        net.graph.erase_node(node)
    for node, norm in list(calls(net, (nn.BatchNorm1d, nn.BatchNorm2d))):
        source = node.all_input_nodes[0]
        producer = source
        if producer.target in FLATTENS and len(producer.users) == 1:
            producer = producer.all_input_nodes[0]
        alone = producer.op == "call_module" and len(producer.users) == 1 and len(source.users) == 1
        if not alone or sum(n.target == producer.target for n in net.graph.nodes) != 1:
            continue
        layer = net.get_submodule(str(producer.target))
        if (
            isinstance(layer, LAYER_TYPES)
            and not isinstance(layer, NARROW_TYPES)
            and _keeps_channels(producer, source, isinstance(layer, nn.Linear))
        ):
            _fold(layer, norm)
            node.replace_all_uses_with(source)
            net.graph.erase_node(node)
    net.graph.eliminate_dead_code()
    net.delete_all_unused_submodules()
    net.recompile()


def _keeps_channels(layer: fx.Node, normalised: fx.Node, is_linear: bool) -> bool:
    """Tell whether axis 1, which a batch norm normalises, is that of a layer's outputs, perhaps behind a reshape."""
    given, taken = _shape(layer), _shape(normalised)
    if is_linear or not given:
        return len(taken) == 2  # rows of features; of (N, tokens, features) axis 1 counts tokens
    return given[:2] == taken[:2]


def _shape(node: fx.Node) -> tuple[str, ...]:
    """Return the sizes of what a node gives, symbols as text; nothing where planes of one pixel stand for a Linear's rows."""
    known = node.meta.get("tensor_meta", node.meta.get("val"))
    return () if known is None else tuple(str(size) for size in known.shape)


def _fold(layer: Any, norm: Any) -> None:
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.double())
    shift = 0 if norm.bias is None else norm.bias.double()
    kernel = layer.sparse_kernel if isinstance(layer, LookupConv2d) else layer.weight
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.double()
    kernel.copy_(kernel.double() * scale.view(-1, *[1] * (kernel.ndim - 1)))
    layer.bias = nn.Parameter(((bias - mean) * scale + shift).to(kernel.dtype))


def as_lookup(layer: Layer) -> LookupConv2d:
    """Return a dense layer as a lookup convolution: its dictionary is the identity, and every coefficient is there."""
    identity = torch.eye(layer.in_channels // layer.geometry.groups).repeat(layer.geometry.groups, 1)
    return LookupConv2d(identity, layer.weight(), layer.module.bias, layer.geometry)


def with_lookups(captured: Captured, lookups: Mapping[str, LookupConv2d]) -> fx.GraphModule:
    """Return a copy of a captured net, in eval mode, with copies of lookup convolutions in the place of the layers named."""
    net: fx.GraphModule = copy.deepcopy(captured.net)
    for layer in captured.layers:
        if layer.name in lookups:
            replace_layer(net, layer, copy.deepcopy(lookups[layer.name]))
    return net.eval()


def finished(net: fx.GraphModule, storage: str) -> fx.GraphModule:
    """Return a copy of a net as files hold it: batch norms folded, factors rounded to a type of ``storage.TYPES``."""
    done: fx.GraphModule = copy.deepcopy(net)
    fold_batch_norms(done)
    round_factors(done, storage)
    return done

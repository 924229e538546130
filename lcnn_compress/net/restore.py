"""Put the torch.nn modules that a captured program came from back in the place of its operators."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from lcnn_compress.errors import ModelError
from lcnn_compress.net.layers import aten
from lcnn_compress.operators.names import harmless


def restore_modules(net: fx.GraphModule) -> None:
    """Replace calls with weights by the torch.nn modules they came from."""
    for node in list(net.graph.nodes):
        module = _module_of(net, node)
        if module is None:
            continue
        n_dims = n_dims_of(node.all_input_nodes[0])
        if isinstance(module, nn.Conv2d) and n_dims != 4:
            raise ModelError(
                f"the model convolves a tensor of {n_dims} axes, as if it were given images one by one or a list of them; only "
                "nets of one tensor (N, C, H, W) are supported, so let it convolve batches"
            )
        name = _module_name(net, node, module)
        with net.graph.inserting_before(node):
            call = net.graph.call_module(name, (node.args[0],))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        inputs = node.all_input_nodes
        net.graph.erase_node(node)
        for tensor in inputs:
            if tensor.op == "get_attr" and not tensor.users:  # the attribute it reads may be gone by now
                net.graph.erase_node(tensor)
    net.graph.eliminate_dead_code()
    net.recompile()


def _module_of(net: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    if node.op != "call_function":
        return None
    rest: list[Any] = [tensor_of(net, a) if isinstance(a, fx.Node) and a.op == "get_attr" else a for a in node.args][1:]
    if any(isinstance(value, fx.Node) for value in rest):
        return None  # a weight that depends on the input
    match node.target:
        case aten.conv2d.default | aten.conv2d.padding:
            return _conv(*rest)
        case aten.convolution.default if rest[0].ndim == 4 and not rest[5]:
            return _conv(rest[0], rest[1], rest[2], rest[3], rest[4], rest[7])
        case aten.linear.default:
            return _linear(*rest)
        case aten.batch_norm.default if isinstance(rest[2], Tensor) and not rest[4] and n_dims_of(node.all_input_nodes[0]) <= 4:
            return _batch_norm(*rest, n_dims=n_dims_of(node.all_input_nodes[0]))
        case aten.dropout.default:
            return nn.Dropout(rest[0])
        case aten.feature_dropout.default:
            return nn.Dropout2d(rest[0])
    return None


def n_dims_of(node: fx.Node) -> int:
    """Return the number of axes of what a node of a captured program gives."""
    return int(node.meta["val"].ndim)


def _conv(
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    groups: int = 1,
) -> nn.Conv2d:
    out_channels, in_channels, *kernel = weight.shape
    pair = [tuple(v) * 2 if len(v) == 1 else tuple(v) for v in (stride, dilation)]
    padding = padding if isinstance(padding, str) else tuple(padding) * 2 if len(padding) == 1 else tuple(padding)
    conv: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d, in_channels * groups, out_channels, tuple(kernel), pair[0], padding, pair[1], groups, bias is not None
    )
    _set_weights(conv, weight, bias)
    return conv


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias is not None)
    _set_weights(linear, weight, bias)
    return linear


def _set_weights(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    module.weight = nn.Parameter(weight.detach())
    if bias is not None:
        module.bias = nn.Parameter(bias.detach())


def _batch_norm(weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, *rest: Any, n_dims: int) -> nn.Module:
    _, momentum, eps = rest[:3]
    kind = nn.BatchNorm2d if n_dims == 4 else nn.BatchNorm1d
    norm = kind(len(mean), eps, momentum, affine=weight is not None)
    if weight is not None:
        _set_weights(norm, weight, bias)
    norm.running_mean, norm.running_var = mean.detach(), var.detach()
    return norm


def tensor_of(net: fx.GraphModule, node: fx.Node) -> Tensor:
    owner, _, leaf = str(node.target).rpartition(".")
    tensor: Tensor = getattr(net.get_submodule(owner), leaf)
    return tensor


def _module_name(net: fx.GraphModule, node: fx.Node, module: nn.Module) -> str:
    """Name a module after the attribute that held its weight; add it unless it is there already."""
    weights = [a for a in node.args[1:] if isinstance(a, fx.Node) and a.op == "get_attr"]
    owner, _, leaf = str(weights[0].target if weights else "").rpartition(".")
    if owner and (net.get_submodule(owner)._modules or _holds_more(net, owner, node, module)):  # attention holds more
        stem = leaf.removesuffix("_weight")
        owner = f"{owner}.{stem if stem != leaf else type(module).__name__.lower()}"
    name = owner or node.meta.get("path") or harmless(node.name)
    if not owner and any(
        other.op in ("get_attr", "call_module") and str(other.target).startswith(f"{name}.")
        for other in net.graph.nodes
        if other not in node.all_input_nodes
    ):
        name = f"{name}.{type(module).__name__.lower()}"  # weights may be part of a larger one, as attention's
    suffix = 1
    tensors = {*dict(net.named_parameters()), *dict(net.named_buffers())}
    while True:
        candidate = name if suffix == 1 else f"{name}_{suffix}"
        known = dict(net.named_modules()).get(candidate)
        steps = candidate.split(".")
        if any(".".join(steps[:end]) in tensors for end in range(1, len(steps) + 1)):
            suffix += 1
            continue
        if known is None or type(known) is nn.Module:  # a bare container of the attributes
            net.add_submodule(candidate, module)
            return candidate
        if type(known) is type(module) and known.extra_repr() == module.extra_repr() and _same_weights(known, module):
            return candidate
        suffix += 1


def _holds_more(net: fx.GraphModule, owner: str, node: fx.Node, module: nn.Module) -> bool:
    """Tell whether others than ``node`` read tensors of ``owner`` that are not to be had from ``module``."""
    for read in net.graph.nodes:
        parent, _, leaf = str(read.target).rpartition(".")
        if read.op == "get_attr" and parent == owner and set(read.users) - {node}:
            kept = getattr(module, leaf, None)
            if kept is None or kept.data_ptr() != tensor_of(net, read).data_ptr():
                return True
    return False


def _same_weights(a: nn.Module, b: nn.Module) -> bool:
    mine, other = (dict(m.named_parameters()) for m in (a, b))
    return mine.keys() == other.keys() and all(mine[key].data_ptr() == other[key].data_ptr() for key in mine)

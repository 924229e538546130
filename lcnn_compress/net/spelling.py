"""One spelling for what programs write in several: before layers are looked for, and in operators that a file can hold."""

from __future__ import annotations

from operator import getitem
from typing import Any

from torch import fx

from lcnn_compress.net.layers import aten

_TRANSPOSES = {
    aten.t.default: ((),),
    aten.permute.default: (([1, 0],),),
    aten.transpose.int: ((0, 1), (1, 0), (-2, -1), (-1, -2)),
}
_REPEATS = (aten.view.default, aten.expand.default, aten.reshape.default, aten._unsafe_view.default)


def respell(net: fx.GraphModule) -> None:
    """Undo decompositions of linear layers and batch norms, and write out what is not what a torch.nn module does.

    Batch norms that use statistics of the batch are not torch.nn.BatchNorm2d in evaluation mode, which has stored ones and can
    be folded.
    """
    for node in list(net.graph.nodes):
        match node.target:
            case aten.addmm.default if not node.kwargs and (weight := _transposed(node.args[2])) is not None:
                _replace(net, node, aten.linear.default, (node.args[1], weight, node.args[0]))
            case aten.mm.default | aten.bmm.default if (weight := _transposed(node.args[1])) is not None:
                _replace(net, node, aten.linear.default, (node.args[0], weight))
            case aten._native_batch_norm_legit_no_training.default:
                for user in [user for user in node.users if user.target is getitem and user.args[1] == 0]:
                    _replace(net, user, aten.batch_norm.default, (*node.args[:5], False, *node.args[5:7], False))
            case aten.rrelu.default:  # in evaluation mode: programs that draw numbers are refused
                slopes = node.args[1:3] if len(node.args) > 2 else (1 / 8, 1 / 3)
                _replace(net, node, aten.leaky_relu.default, (node.args[0], sum(slopes) / 2))
            case aten.batch_norm.default if node.args[5]:
                _write_out(net, node)
    net.graph.eliminate_dead_code()


def _transposed(node: Any) -> fx.Node | None:
    """Return the tensor of the net that ``node`` transposes, and perhaps repeats for each image, or None."""
    while isinstance(node, fx.Node) and node.target in _REPEATS and isinstance(node.args[0], fx.Node):
        inner = node.args[0]
        if tuple(node.meta["val"].shape[-2:]) != tuple(inner.meta["val"].shape[-2:]):
            return None
        node = inner
    if not isinstance(node, fx.Node) or node.target not in _TRANSPOSES:
        return None
    source, *axes = node.args
    held = isinstance(source, fx.Node) and source.op == "get_attr" and source.meta["val"].ndim == 2
    return source if held and tuple(axes) in _TRANSPOSES[node.target] else None  # type: ignore[return-value]


def _replace(net: fx.GraphModule, node: fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    with net.graph.inserting_before(node):
        new = net.graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    net.graph.erase_node(node)


def _write_out(net: fx.GraphModule, node: fx.Node) -> None:
    """Replace a batch norm of the batch's own mean and variance (Ioffe and Szegedy 2015, algorithm 1)."""
    x, weight, bias, *_ = node.args
    eps = node.args[7]
    n_dims = node.meta["val"].ndim
    axes, shape = [0, *range(2, n_dims)], [1, -1, *[1] * (n_dims - 2)]

    def call(target: Any, *args: Any) -> fx.Node:
        return net.graph.call_function(target, args)

    with net.graph.inserting_before(node):
        centred = call(aten.sub.Tensor, x, call(aten.mean.dim, x, axes, True))
        variance = call(aten.mean.dim, call(aten.mul.Tensor, centred, centred), axes, True)
        result = call(aten.mul.Tensor, centred, call(aten.rsqrt.default, call(aten.add.Tensor, variance, eps)))
        if weight is not None:
            result = call(aten.mul.Tensor, result, call(aten.view.default, weight, shape))
        if bias is not None:
            result = call(aten.add.Tensor, result, call(aten.view.default, bias, shape))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)
    net.graph.erase_node(node)

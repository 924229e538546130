"""A net as a flat graph of named layers: captured with ``torch.export``, so every kind of input model takes one path.

The captured graph calls torch.nn modules for what has weights (under the model's own dotted names) and ATen operators for
everything else. It needs no source code of the model, trains like the original, and can be written as JSON (``graph_json.py``).
"""

from __future__ import annotations

import copy
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import getitem
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.fx.node import map_aggregate, map_arg
from torch.fx.passes.shape_prop import ShapeProp

from lcnn_compress.errors import ModelError
from lcnn_compress.geometry import ConvGeometry, dense_macs
from lcnn_compress.modules import LookupConv2d

log = logging.getLogger(__name__)
MOST_SECONDS = 30.0  # of the processor, for keeping heights and widths open
FEW_CHANNELS = 7  # vectors of so few numbers leave no room for a dictionary
aten = torch.ops.aten
_FLATTENS = (aten.flatten.using_ints, aten.view.default, aten.reshape.default)
_LAYERS = (
    aten.conv2d.default, aten.conv2d.padding, aten.convolution.default, aten.linear.default, aten.batch_norm.default,
)  # fmt: skip
_NOT_CONVERTED = {
    aten.conv1d.default: "Conv1d",
    aten.conv3d.default: "Conv3d",
    aten.conv_transpose2d.input: "ConvTranspose2d",
}


@dataclass(frozen=True)
class Layer:
    """One Conv2d or Linear of a captured net and where it is called.

    ``geometry`` includes zero padding done by a separate operator just before; ``sizes`` are the (height, width) of the inputs
    of every call, before that padding; ``obstacle`` says why the layer cannot become a lookup convolution, or is None.
    A Linear is a convolution whose kernel covers the plane that was flattened for it, else one of 1x1 on its features.
    """

    name: str
    module: nn.Conv2d | nn.Linear | LookupConv2d
    geometry: ConvGeometry
    sizes: tuple[tuple[int, int], ...]
    obstacle: str | None
    is_classifier: bool

    @property
    def in_channels(self) -> int:
        """Channels going in; features where a Linear is a 1x1 convolution."""
        if isinstance(self.module, nn.Linear):
            return self.module.in_features // self.geometry.taps
        return self.module.in_channels

    @property
    def out_channels(self) -> int:
        """Channels (features) coming out."""
        return self.module.out_features if isinstance(self.module, nn.Linear) else self.module.out_channels

    @property
    def dense_macs(self) -> int:
        """MACs of the dense layer for one image, all calls together."""
        return sum(dense_macs(self.in_channels, self.out_channels, self.geometry, size) for size in self.sizes)

    def weight(self) -> Tensor:
        """Return the dense weight as (C_out, C_in / groups, kH, kW)."""
        weight = self.module.weight() if isinstance(self.module, LookupConv2d) else self.module.weight
        return weight.unflatten(1, (-1, *self.geometry.kernel)) if weight.ndim == 2 else weight


def capture(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """Capture ``model`` (in eval mode) as a net with dynamic batch, height and width wherever the model allows.

    Height and width are open only if that takes no longer than ``MOST_SECONDS``: where a net computes with its sizes, formulas
    grow with every layer, and simplifying those of MobileViTv2 was not done after four minutes.

    Raises:
        ModelError: torch.export cannot capture it, or it does not map one tensor to tensors.
    """
    model.eval()
    auto = torch.export.Dim.AUTO
    two = example  # images at least: a batch of 1 would be taken for a constant
    if len(example) < 2:
        two = example.expand(2, *example.shape[1:]).contiguous()
    problem: Exception | None = None
    tries: tuple[tuple[tuple[int, ...], Tensor, bool], ...] = (
        ((0, 2, 3) if example.ndim == 4 else (0,), two, False), ((0,), two, False),
        ((0,), two, True),  # this tracer alone keeps len(x) open, but fails on more nets
        ((), example, False),
    )  # fmt: skip
    for axes, given, strict in tries:
        try:
            with torch.no_grad(), _attention_in_parts(), _limited(MOST_SECONDS if 2 in axes else 0.0):
                program = torch.export.export(model, (given,), dynamic_shapes=(dict.fromkeys(axes, auto),), strict=strict)
        except Exception as error:  # torch.export raises whatever the model's own code raises
            problem = problem or error
        else:
            net = from_program(program)
            taken = next(node for node in net.graph.nodes if node.op == "placeholder").meta["val"]
            if not (axes and is_concrete_int(taken.shape[0])):  # a batch that the model's own code fixes stays what it was
                return net
    first_line = str(problem).strip().splitlines()[0] if str(problem).strip() else ""
    raise ModelError(
        f"the model cannot be captured for an input of {tuple(example.shape)}: {type(problem).__name__}: {first_line}; "
        "torch.export must be able to trace it (check --input-shape, and avoid control flow that depends on values)"
    ) from problem


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Keep torch from fusing an encoder layer into one operator, which hides its linear layers and is unknown to ONNX."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when the process has computed for so long; 0 is no limit, nor is there one in a thread.

    It is raised every second until the block ends: where it comes in code that catches everything, it comes again.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():  # other threads get no signals
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise TimeoutError(f"not done after {seconds:g} s")

    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        finally:  # it may come just now, but not again within a second
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, previous or signal.SIG_DFL)


def from_program(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Turn an exported program into a net.

    Raises:
        ModelError: the program takes anything but one tensor.
    """
    captured = program.module(check_guards=False)
    net = fx.GraphModule(captured, copy.deepcopy(captured.graph))  # the program's own class refuses train() and eval()
    _simplify(net)
    _compute_weights(net)
    inputs = [node for node in net.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ModelError(f"the model takes {len(inputs)} inputs ({', '.join(n.name for n in inputs)}); only one is supported")
    _restore_modules(net)
    _drop_before_flattening(net)
    _prune_attributes(net)
    for tensor in [*net.parameters(), *net.buffers()]:
        tensor.data = tensor.data.clone()  # the caller's model keeps its own
    move(net, torch.device("cpu"))  # it may have been captured on a GPU
    return net.eval()


def _simplify(net: fx.GraphModule) -> None:
    """Drop guards and asserts, and return plain tensors instead of a pytree."""
    for node in list(net.graph.nodes):
        asserting = node.op == "call_function" and any(word in str(node.target) for word in ("_assert", "sym_constrain"))
        if asserting or node.name.startswith("_guards_fn"):
            net.graph.erase_node(node)
    net.graph.set_codegen(fx.graph.CodeGen())
    output = net.graph.output_node()
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(output.args[0]) if isinstance(leaf, fx.Node)]
    output.args = (leaves[0],) if len(leaves) == 1 else (tuple(leaves),)
    net.graph.eliminate_dead_code()
    net.recompile()


@torch.no_grad()
def _compute_weights(net: fx.GraphModule) -> None:
    """Compute the weights of layers that depend on no input, as those under a weight norm do, once and for all."""
    known: dict[fx.Node, Any] = {}
    for node in list(net.graph.nodes):
        if node.op == "get_attr":
            known[node] = _tensor(net, node)
        elif _is_pure(node) and node.all_input_nodes and all(source in known for source in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
        elif node.target in _LAYERS:
            for weight in node.all_input_nodes[1:]:
                if weight in known and weight.op != "get_attr":
                    name = f"_computed_{weight.name}"
                    net.register_buffer(name, known[weight].clone())
                    with net.graph.inserting_before(node):
                        node.replace_input_with(weight, net.graph.get_attr(name))
    net.graph.eliminate_dead_code()


def _is_pure(node: fx.Node) -> bool:
    if node.target is getitem:
        return True
    operator = node.target if isinstance(node.target, torch._ops.OpOverload) else None
    return operator is not None and not operator._schema.is_mutable and torch.Tag.nondeterministic_seeded not in operator.tags


def _restore_modules(net: fx.GraphModule) -> None:
    """Replace calls with weights by the torch.nn modules they came from."""
    for node in list(net.graph.nodes):
        module = _module_of(net, node)
        if module is None:
            continue
        name = _module_name(net, node, module)
        with net.graph.inserting_before(node):
            call = net.graph.call_module(name, (node.args[0],))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        inputs = node.all_input_nodes
        net.graph.erase_node(node)
        for tensor in inputs:
            if tensor.op == "get_attr" and not tensor.users:  # what it reads may be gone by now
                net.graph.erase_node(tensor)
    net.graph.eliminate_dead_code()
    net.recompile()


def _module_of(net: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    if node.op != "call_function":
        return None
    rest: list[Any] = [_tensor(net, a) if isinstance(a, fx.Node) and a.op == "get_attr" else a for a in node.args][1:]
    match node.target:
        case aten.conv2d.default | aten.conv2d.padding if isinstance(rest[0], Tensor):
            return _conv(*rest)
        case aten.convolution.default if isinstance(rest[0], Tensor) and rest[0].ndim == 4 and not rest[5]:
            return _conv(rest[0], rest[1], rest[2], rest[3], rest[4], rest[7])
        case aten.linear.default if isinstance(rest[0], Tensor):
            return _linear(*rest)
        case aten.batch_norm.default if isinstance(rest[2], Tensor) and isinstance(rest[3], Tensor):
            return _batch_norm(*rest, n_dims=node.all_input_nodes[0].meta["val"].ndim)
        case aten.dropout.default:
            return nn.Dropout(rest[0])
        case aten.feature_dropout.default:
            return nn.Dropout2d(rest[0])
    return None


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


def _tensor(net: fx.GraphModule, node: fx.Node) -> Tensor:
    owner, _, leaf = str(node.target).rpartition(".")
    tensor: Tensor = getattr(net.get_submodule(owner), leaf)
    return tensor


def _module_name(net: fx.GraphModule, node: fx.Node, module: nn.Module) -> str:
    """Name a module after the attribute that held its weight; add it unless it is there already."""
    weights = [a for a in node.args[1:] if isinstance(a, fx.Node) and a.op == "get_attr"]
    owner, _, leaf = str(weights[0].target if weights else "").rpartition(".")
    if owner and (net.get_submodule(owner)._modules or _holds_more(net, owner, node, module)):  # as attention does
        stem = leaf.removesuffix("_weight")
        owner = f"{owner}.{stem if stem != leaf else type(module).__name__.lower()}"
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    name = owner or (stack[-1][0] if stack and stack[-1][0] else node.name)
    if not owner and any(
        other.op in ("get_attr", "call_module") and str(other.target).startswith(f"{name}.")
        for other in net.graph.nodes
        if other not in node.all_input_nodes
    ):
        name = f"{name}.{type(module).__name__.lower()}"  # weights made of something larger, as attention's of two inputs are
    name, suffix = name.removeprefix("L__self__"), 1
    while True:
        candidate = name if suffix == 1 else f"{name}_{suffix}"
        known = dict(net.named_modules()).get(candidate)
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
            if kept is None or kept.data_ptr() != _tensor(net, read).data_ptr():
                return True
    return False


def _same_weights(a: nn.Module, b: nn.Module) -> bool:
    mine, other = (dict(m.named_parameters()) for m in (a, b))
    return mine.keys() == other.keys() and all(mine[key].data_ptr() == other[key].data_ptr() for key in mine)


def _drop_before_flattening(net: fx.GraphModule) -> None:
    """Let dropout come before a flatten instead of after it, which is the same: what the flatten feeds is then next to it."""
    for node, _ in calls(net, nn.Dropout):
        flatten = node.all_input_nodes[0]
        if flatten.target in _FLATTENS and len(flatten.users) == 1:
            node.replace_all_uses_with(flatten)
            node.args, flatten.args = flatten.args[:1], (node, *flatten.args[1:])
            node.append(flatten)


def _prune_attributes(net: fx.GraphModule) -> None:
    """Delete captured tensors that nothing reads, so that state_dict() holds the net and nothing else."""
    used = {str(node.target) for node in net.graph.nodes if node.op == "get_attr"}
    called = {str(node.target) for node in net.graph.nodes if node.op == "call_module"}
    for path, module in list(net.named_modules()):
        if path in called:
            continue
        for leaf in [*module._parameters, *module._buffers]:
            if f"{path}.{leaf}".lstrip(".") not in used:
                delattr(module, leaf)
    net.delete_all_unused_submodules()
    net.graph.lint()
    net.recompile()


def calls(net: fx.GraphModule, kind: Any) -> Iterator[tuple[fx.Node, Any]]:
    """Yield (node, module) for every call of a module of ``kind``, in execution order."""
    for node in net.graph.nodes:
        if node.op == "call_module" and isinstance(module := net.get_submodule(str(node.target)), kind):
            yield node, module


def layers(net: fx.GraphModule, example: Tensor) -> list[Layer]:
    """List every Conv2d, Linear and LookupConv2d of a net with its sizes for ``example``.

    Raises:
        ModelError: the net does not run on the example.
    """
    try:
        with torch.no_grad():
            ShapeProp(net).propagate(example)
    except RuntimeError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ModelError(
            f"the model does not run on an input of {tuple(example.shape)}: {reason}; check --input-shape"
        ) from error
    found: dict[str, Layer] = {}
    for node, module in calls(net, (nn.Conv2d, nn.Linear, LookupConv2d)):
        name = str(node.target)
        geometry, source = _effective_geometry(node, module)
        shape = source.meta["tensor_meta"].shape
        if isinstance(module, nn.Linear):
            # One pixel out for each row of features; attention and windows move the batch to another place.
            sizes = (geometry.kernel,) * (int(torch.Size(shape[:-1]).numel()) // len(example))
        else:
            sizes = ((int(shape[2]), int(shape[3])),)
        if name in found:
            known = found[name]
            obstacle = known.obstacle or (None if geometry == known.geometry else "called with different zero padding")
            found[name] = Layer(name, module, known.geometry, known.sizes + sizes, obstacle, known.is_classifier)
        else:
            last = isinstance(module, nn.Linear) and not _reaches_layer(net, node)
            found[name] = Layer(name, module, geometry, sizes, _obstacle(module), last)
    return list(found.values())


def unconverted(net: fx.GraphModule) -> list[tuple[str, str]]:
    """List (name, kind) of convolutions this tool leaves alone: 1-d, 3-d and transposed ones."""
    return [(node.name, _NOT_CONVERTED[node.target]) for node in net.graph.nodes if node.target in _NOT_CONVERTED]


def _effective_geometry(node: fx.Node, module: nn.Module) -> tuple[ConvGeometry, fx.Node]:
    """Return the geometry including a zero-padding operator right before the layer, and the tensor before that."""
    if isinstance(module, LookupConv2d):
        return module.geometry, node.all_input_nodes[0]
    if isinstance(module, nn.Linear):
        planes = {_flattened_plane(call) for call in node.graph.nodes if (call.op, call.target) == (node.op, node.target)}
        return ConvGeometry(planes.pop() if len(planes) == 1 else (1, 1)), node.all_input_nodes[0]
    assert isinstance(module, nn.Conv2d)
    kernel, stride, dilation = ((int(v[0]), int(v[1])) for v in (module.kernel_size, module.stride, module.dilation))
    top, left, bottom, right = _own_padding(module)
    source = node.all_input_nodes[0]
    if (pads := _zero_pads(source)) is not None:
        pad_left, pad_right, pad_top, pad_bottom = pads
        top, left, bottom, right = top + pad_top, left + pad_left, bottom + pad_bottom, right + pad_right
        source = source.all_input_nodes[0]
    return ConvGeometry(kernel, stride, (top, left, bottom, right), dilation, module.groups), source


def _flattened_plane(node: fx.Node) -> tuple[int, int]:
    """Return (H, W) if a Linear is called on a flattened (N, C, H, W) with C enough for a dictionary, else (1, 1).

    The paper codes AlexNet's first linear layer so, as a 6x6 convolution on 256 channels (Bagherinezhad et al. 2017).
    """
    flatten = node.all_input_nodes[0]
    if flatten.target in _FLATTENS:
        shape = flatten.all_input_nodes[0].meta["tensor_meta"].shape
        flat = (shape[0], torch.Size(shape[1:]).numel())
        if len(shape) == 4 and shape[1] > FEW_CHANNELS and flatten.meta["tensor_meta"].shape == flat:
            return int(shape[2]), int(shape[3])
    return 1, 1


def _own_padding(module: nn.Conv2d) -> tuple[int, int, int, int]:
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2
    if module.padding == "valid":
        return 0, 0, 0, 0
    height, width = (int(p) for p in module.padding)
    return height, width, height, width


def _zero_pads(node: fx.Node) -> list[int] | None:
    """Return [left, right, top, bottom] if ``node`` pads only height and width, with zeros and by no negative amount."""
    if node.target not in (aten.constant_pad_nd.default, aten.pad.default):
        return None
    rest = [*node.args[2:], *node.kwargs.values()]  # the mode, which constant_pad_nd lacks, and the value
    if any(value not in ("constant", None, 0) for value in rest):
        return None
    pads = [p for p in node.args[1] if isinstance(p, int)]  # type: ignore[union-attr]
    pads += [0] * (4 - len(pads))
    return pads if len(pads) == 4 and len(node.args[1]) in (2, 4) and min(pads) >= 0 else None  # type: ignore[arg-type]


def _obstacle(module: nn.Module) -> str | None:
    if isinstance(module, LookupConv2d):
        return "already a lookup convolution"
    if isinstance(module, nn.Linear):
        return None
    assert isinstance(module, nn.Conv2d)
    if module.in_channels == module.groups > 1:
        return "depthwise: each filter sees one channel, there is no channel vector to look up"
    return None


def _reaches_layer(net: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether any convolution or linear layer comes after ``node``."""
    seen, stack = {node}, list(node.users)
    while stack:
        user = stack.pop()
        if user.op == "call_module" and isinstance(net.get_submodule(str(user.target)), (nn.Conv2d, nn.Linear, LookupConv2d)):
            return True
        if user not in seen:
            seen.add(user)
            stack.extend(user.users)
    return False


def replace(net: fx.GraphModule, layer: Layer, lookup: LookupConv2d) -> None:
    """Put ``lookup`` in the place of a layer."""
    for node in [n for n in net.graph.nodes if n.op == "call_module" and n.target == layer.name]:
        if isinstance(layer.module, nn.Linear):
            _call_on_planes(net, node, layer)
        else:
            node.args = (_effective_geometry(node, layer.module)[1],)
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
        # No -1: an input of another size must fail, as it did in the Linear.
        sizes = [net.graph.call_function(aten.sym_size.int, (source, axis)) for axis in range(n_dims - 1)]
    node.args = (planes,)
    with net.graph.inserting_after(node):
        rows = net.graph.call_function(aten.reshape.default, (node, [*sizes, layer.out_channels]))
    rows.meta = dict(node.meta)
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
        if producer.target is aten.reshape.default and len(producer.users) == 1:
            producer = producer.all_input_nodes[0]
        alone = producer.op == "call_module" and len(producer.users) == 1 and len(source.users) == 1
        if not alone or sum(n.target == producer.target for n in net.graph.nodes) != 1:
            continue
        layer = net.get_submodule(str(producer.target))
        if isinstance(layer, (nn.Conv2d, nn.Linear, LookupConv2d)):
            _fold(layer, norm)
            node.replace_all_uses_with(source)
            net.graph.erase_node(node)
    net.graph.eliminate_dead_code()
    net.delete_all_unused_submodules()
    net.recompile()


def _fold(layer: nn.Conv2d | nn.Linear | LookupConv2d, norm: Any) -> None:
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.double())
    shift = 0 if norm.bias is None else norm.bias.double()
    kernel = layer.sparse_kernel if isinstance(layer, LookupConv2d) else layer.weight
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.double()
    kernel.copy_(kernel.double() * scale.view(-1, *[1] * (kernel.ndim - 1)))
    layer.bias = nn.Parameter(((bias - mean) * scale + shift).to(kernel.dtype))

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
from operator import getitem
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.fx.node import map_arg

from lcnn_compress.errors import ModelError
from lcnn_compress.net.edit import move
from lcnn_compress.net.layers import FLATTENS, aten, calls
from lcnn_compress.net.restore import restore_modules, tensor_of

log = logging.getLogger(__name__)
# A capture that keeps heights and widths open may take this many seconds of the processor.
MAX_SECONDS = 30.0
_LAYERS = (
    aten.conv2d.default, aten.conv2d.padding, aten.convolution.default, aten.linear.default, aten.batch_norm.default,
)  # fmt: skip


def capture(model: nn.Module, example: Tensor, max_seconds: float = MAX_SECONDS) -> fx.GraphModule:
    """Capture ``model`` as a net with dynamic batch, height and width wherever the model allows.

    It is captured in evaluation mode; each of its modules is left in the mode it was in.

    Height and width are open only if that takes no longer than ``max_seconds`` of the processor: where a net computes with its
    sizes, formulas grow with every layer, and simplifying those of MobileViTv2 was not done after four minutes.

    Raises:
        ModelError: torch.export cannot capture it, or it does not map one tensor to tensors.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        return _captured(model.eval(), example, max_seconds)
    finally:
        for module, training in modes.items():
            module.training = training


def _captured(model: nn.Module, example: Tensor, max_seconds: float) -> fx.GraphModule:
    auto = torch.export.Dim.AUTO
    two = example  # it has two images or more, because a batch of 1 would be taken for a constant
    if len(example) < 2:
        two = example.expand(2, *example.shape[1:]).contiguous()
    problem: Exception | None = None
    tries: tuple[tuple[tuple[int, ...], Tensor, bool], ...] = (
        ((0, 2, 3) if example.ndim == 4 else (0,), two, False), ((0,), two, False),
        ((0,), two, True),  # the strict tracer alone keeps len(x) open, but it fails on more nets
        ((), example, False),
    )  # fmt: skip
    for axes, given, strict in tries:
        try:
            with torch.no_grad(), _attention_in_parts(), _limited(max_seconds if 2 in axes else 0.0):
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
        "torch.export must be able to trace it (check `input_shape`, and avoid control flow that depends on values)"
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
    """Raise TimeoutError in the block once the process has computed for ``seconds``; 0 sets no limit, and threads have none.

    The error is raised every second until the block ends, because code that catches everything may swallow it.
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
        finally:  # the signal may come just now, but not again within a second
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
    restore_modules(net)
    _drop_before_flattening(net)
    _prune_attributes(net)
    for tensor in [*net.parameters(), *net.buffers()]:
        tensor.data = tensor.data.clone()  # the caller's model keeps its own
    move(net, torch.device("cpu"))  # the program may have been captured on a GPU
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
    """Compute weights of layers once and for all where they depend on no input, such as those under a weight norm."""
    known: dict[fx.Node, Any] = {}
    for node in list(net.graph.nodes):
        if node.op == "get_attr":
            known[node] = tensor_of(net, node)
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


def _drop_before_flattening(net: fx.GraphModule) -> None:
    """Move dropout from after a flatten to before it, which is the same, so that what the flatten feeds is next to it."""
    for node, _ in calls(net, nn.Dropout):
        flatten = node.all_input_nodes[0]
        if flatten.target in FLATTENS and len(flatten.users) == 1:
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

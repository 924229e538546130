"""A net as a flat graph of named layers: captured with ``torch.export``, so every kind of input model takes one path.

The captured graph calls torch.nn modules for what has weights (under the model's own dotted names) and ATen operators for
everything else. It needs no source code of the model, trains like the original, and can be written as JSON (``graph_json.py``).
Before anybody works with it, it is held against the model, which decides which sizes of its input are open (``agreement.py``).
"""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import getitem
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from lcnn_compress.errors import ModelError
from lcnn_compress.net.agreement import ROUNDED_TOLERANCE, Agreement, DisagreementError, Outputs, as_arrays
from lcnn_compress.net.edit import move
from lcnn_compress.net.guards import guards_of
from lcnn_compress.net.layers import FLATTENS, aten, calls
from lcnn_compress.net.program import Unlifted, bounds, unlifted
from lcnn_compress.net.restore import restore_modules, tensor_of
from lcnn_compress.net.spelling import respell
from lcnn_compress.operators.interface import interface_of, set_interface
from lcnn_compress.operators.names import harmless

# A capture that keeps heights and widths open may take this many seconds of the processor.
MAX_SECONDS = 30.0
_LAYERS = (
    aten.conv2d.default, aten.conv2d.padding, aten.convolution.default, aten.linear.default, aten.batch_norm.default,
)  # fmt: skip


class _OfOneTensor(nn.Module):
    """A model behind a plain signature: torch.export wants to know about every argument, and averaged models take ``*args``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


_PREFIX = "model."


def capture(model: nn.Module, example: Tensor, max_seconds: float = MAX_SECONDS) -> fx.GraphModule:
    """Capture ``model`` as a net with batch, height and width open wherever it then agrees with the model.

    It is captured in evaluation mode; its modules are left in the mode they were in, and its buffers as they were.

    Height and width are open only if that takes no longer than ``max_seconds`` of the processor: where a net computes with its
    sizes, formulas grow with every layer, and simplifying those of MobileViTv2 was not done after four minutes.

    Raises:
        ModelError: the model does not run on the example, torch.export cannot capture it, it does not map one tensor to
            tensors, or what was captured gives other results.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        return _Capture(model.eval(), example, max_seconds).best()
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def _run(model: nn.Module, x: Tensor) -> Any:
    """Run a model on a copy of ``x`` and give its buffers, which may count calls, the values back that they had."""
    held = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with _attention_in_parts():
            return model(x.clone())
    finally:
        for buffer, value in held:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


@dataclass(frozen=True)
class _Capture:
    model: nn.Module
    example: Tensor
    max_seconds: float

    def best(self) -> fx.GraphModule:
        """Return the net of the first way to capture the model that keeps the batch open, else the one with most open axes."""
        self._check_input()
        one = self.example
        two = one  # it has two images or more, because a batch of 1 would be taken for a constant
        if len(one) < 2:
            two = one.expand(2, *one.shape[1:]).contiguous()
        ways: list[tuple[tuple[int, ...], Tensor, bool]] = [((0,), two, False), ((0,), two, True), ((), one, False)]
        if one.ndim == 4:
            ways = [((0, 2, 3), two, False), *ways[:2], ((2, 3), one, False), ways[2]]
        found: list[fx.GraphModule] = []
        problem: Exception | None = None
        for axes, given, strict in ways:  # the strict tracer alone keeps len(x) open, but it fails on more nets
            try:
                program = self._exported(axes, given, strict)
            except Exception as error:  # torch.export raises whatever the model's own code raises
                problem = problem or error
                continue
            if len(given) != len(one) and 0 not in bounds(program):
                continue  # the model's own code fixed the batch, to ours of two
            try:
                net = self._net(program, tuple(one.shape))
            except DisagreementError as error:
                problem = error
                continue
            if 0 in (interface_of(net).open_axes or ()):
                return net
            found.append(net)
        if found:
            return max(found, key=lambda net: len(interface_of(net).open_axes or ()))  # the first of several
        raise self._refusal(problem) from problem

    def _exported(self, axes: tuple[int, ...], given: Tensor, strict: bool) -> torch.export.ExportedProgram:
        auto = torch.export.Dim.AUTO
        with torch.no_grad(), _attention_in_parts(), _limited(self.max_seconds if 2 in axes else 0.0):
            return torch.export.export(
                _OfOneTensor(self.model), (given.clone(),), dynamic_shapes=(dict.fromkeys(axes, auto),), strict=strict
            )

    def _net(self, program: torch.export.ExportedProgram, shape: tuple[int, ...]) -> fx.GraphModule:
        made = unlifted(program, _PREFIX)
        limits = bounds(program)

        def outputs(x: Tensor) -> Outputs:
            return as_arrays(_run(self.model, x), made.kept)

        return _held_against(made, Agreement(_restored(made.net), outputs, shape, limits, guards_of(program)))

    def _check_input(self) -> None:
        x = torch.rand(self.example.shape, generator=torch.Generator().manual_seed(0))
        try:
            results = torch.utils._pytree.tree_leaves(_run(self.model, x))
        except Exception as error:  # the model's own code may raise anything
            raise ModelError(
                f"the model does not run on one tensor of {tuple(self.example.shape)}, and only nets of one tensor are "
                f"supported: {_in_short(error)}; check `input_shape`"
            ) from error
        if any(isinstance(result, Tensor) and bool(result.isnan().any()) for result in results):
            raise ModelError(
                "the model's own outputs hold NaN for an input of random numbers between 0 and 1, so that nothing can be held "
                "against them; look at its weights"
            )

    def _refusal(self, problem: Exception | None) -> ModelError:
        shape = tuple(self.example.shape)
        if isinstance(problem, DisagreementError):
            return ModelError(
                f"what torch.export captures of the model is not the model: {problem}; it must compute the same from the same "
                "input every time, without state of its own"
            )
        return ModelError(
            f"the model cannot be captured for an input of {shape}: {_in_short(problem)}; torch.export must be able to "
            "trace it (avoid control flow that depends on values, and code outside torch)"
        )


def _in_short(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}".rstrip(": ")


def _held_against(made: Unlifted, agreement: Agreement) -> fx.GraphModule:
    """Return a net whose interface says on which axes it agrees with the model it came from."""
    if made.is_rounded:
        agreement.tolerance = ROUNDED_TOLERANCE
    axes, why = agreement.open_axes()
    notes = (*made.notes, *([f"files of this net have fixed sizes: {why}"] if why else []))
    net = agreement.net
    set_interface(net.graph, replace(interface_of(net), open_axes=axes, notes=notes, shape=agreement.shape))
    return net


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

    Its open axes are those that the program keeps open without a bound, and the batch where images do not depend on each other.

    Raises:
        ModelError: the program takes anything but one tensor, or cannot be kept.
    """
    made = unlifted(program)
    plain = copy.deepcopy(made.net)
    move(plain, torch.device("cpu"))
    given = next(node for node in made.net.graph.nodes if node.op == "placeholder").meta["val"]
    shape = tuple(size if isinstance(size, int) else size.node.hint for size in given.shape)
    limits, guards = bounds(program), [guard for guard in guards_of(program) if not guard.is_about_ones]

    def outputs(x: Tensor) -> Outputs:
        """Ask the program, which is the only word on its model: beyond its limits nothing is known."""
        if not all(guard.holds(tuple(x.shape)) for guard in guards):
            return []
        for axis, (lower, upper) in limits.items():
            if x.shape[axis] < lower > 2 or (upper is not None and x.shape[axis] > upper):
                return []
        with torch.no_grad():
            return as_arrays(plain(x)) if 0 in limits else _by_batches(plain, x, shape[0])

    net = _restored(made.net)
    try:
        return _held_against(made, Agreement(net, outputs, shape, {0: (1, None), **limits}, guards))
    except DisagreementError as error:
        raise ModelError(f"the program of torch.export cannot be kept: {error}") from error


def _by_batches(plain: fx.GraphModule, x: Tensor, size: int) -> Outputs:
    """Return what a program of a fixed batch gives for any number of images, if each image has a row of each output."""
    n_images = len(x)
    padded = torch.cat([x, x[-1:].expand(-n_images % size, *x.shape[1:])])
    parts = [as_arrays(plain(part.clone())) for part in padded.split(size)]
    if any(array.shape[:1] != (size,) for part in parts for array in part):
        return parts[0] if n_images == size else []
    return [np.concatenate(arrays)[:n_images] for arrays in zip(*parts, strict=True)]


def _restored(net: fx.GraphModule) -> fx.GraphModule:
    """Give a graph of operators its layers, and tensors of its own."""
    respell(net)
    _compute_weights(net)
    restore_modules(net)
    _separate_reads(net)
    _drop_before_flattening(net)
    _prune_attributes(net)
    for tensor in [*net.parameters(), *net.buffers()]:
        tensor.data = tensor.data.clone()  # the caller's model keeps its own
    move(net, torch.device("cpu"))  # the program may have been captured on a GPU
    return net.eval()


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


def _separate_reads(net: fx.GraphModule) -> None:
    """Let what reads the tensor of a layer beside the layer itself read a copy: the layer may become another."""
    called = {str(node.target) for node in net.graph.nodes if node.op == "call_module"}
    for node in net.graph.nodes:
        owner, _, leaf = str(node.target).rpartition(".")
        if node.op == "get_attr" and owner in called:
            name = harmless(f"{owner}.{leaf}".replace(".", "_"), {*net._modules, *net._buffers, *net._parameters})
            net.register_buffer(name, tensor_of(net, node).detach())
            node.target = name


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

"""A program of torch.export as a flat graph of our own: we make every name in it, and every operator is one a net may call.

No text of the program reaches generated source: parameters, buffers and constants get harmless names, sub-graphs that change no
value (autocast, no_grad, checkpointing) are written out in place, and nothing is computed before all operators are checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.node import map_aggregate, map_arg

from lcnn_compress.errors import ModelError
from lcnn_compress.net.layers import aten
from lcnn_compress.operators.aten import check_keywords, is_random, name_of
from lcnn_compress.operators.interface import Interface, output_names, set_interface
from lcnn_compress.operators.names import harmless

_HELD = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
# Higher-order operators that only say how to compute, with the place of the sub-graph among their arguments.
_WRITTEN_OUT = {"wrap_with_autocast": 4, "wrap_with_set_grad_enabled": 1, "tag_activation_checkpoint": 0}
_GUARDS = ("_assert", "sym_constrain")


@dataclass
class Unlifted:
    """A program as a graph of our own, its tensors, and what the user should know about it.

    Attributes:
        net: the graph; layers are operators that read their weights.
        notes: what was left out or changed.
        is_rounded: whether the program computes parts of itself in another type than float32, which the graph does not.
        kept: which of the program's results the graph gives.
    """

    net: fx.GraphModule
    notes: list[str]
    is_rounded: bool
    kept: list[int]


class _Unlift:
    """Copies a program into one graph."""

    def __init__(self, program: torch.export.ExportedProgram, prefix: str) -> None:
        self.program, self.prefix = program, prefix
        self.root, self.graph = nn.Module(), fx.Graph()
        self.notes: list[str] = []
        self.autocasts = False
        self.names: dict[tuple[str, ...], str] = {}  # the harmless name of each part, by the parts up to it

    def run(self) -> Unlifted:
        signature = self.program.graph_signature
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        given = _given(self.program)
        if len(given) != 1 or len(given) != sum(s.kind == InputKind.USER_INPUT for s in signature.input_specs):
            raise ModelError(f"the model takes {len(given)} inputs ({', '.join(given)}); only one tensor is supported")
        env: dict[fx.Node, Any] = {}
        for spec, node in zip(signature.input_specs, placeholders, strict=True):
            if spec.kind == InputKind.USER_INPUT:
                env[node] = self.graph.placeholder("x")
                env[node].meta = dict(node.meta)
        for spec, node in zip(signature.input_specs, placeholders, strict=True):
            if spec.kind in _HELD:
                env[node] = self._held(str(spec.target), trains=spec.kind == InputKind.PARAMETER)
                env[node].meta = dict(node.meta)
            elif spec.kind != InputKind.USER_INPUT:
                raise ModelError(f"the model holds {spec.target}, which is no tensor ({spec.kind.name}); it cannot be kept")
        results = self._copied(self.program.graph_module, env)
        own = [r for r, s in zip(results, signature.output_specs, strict=True) if s.kind == OutputKind.USER_OUTPUT]
        kept = self._end(own)
        if self.autocasts:
            self.notes.append("the net computes parts of itself under autocast; they are taken as float32")
        return Unlifted(fx.GraphModule(self.root, self.graph), self.notes, self.autocasts, kept)

    def _held(self, name: str, trains: bool) -> fx.Node:
        """Add a tensor of the program under a harmless name."""
        kept = self.program.state_dict.get(name)
        tensor = self.program.constants[name] if kept is None else kept
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{name}: is a {type(tensor).__name__}; only tensors can be kept")
        parts = name.removeprefix(self.prefix).split(".")
        owner = self.root
        path = tuple(parts)
        for end in range(1, len(parts)):
            part = self._part(path[:end], owner)
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        leaf = self._part(path, owner)
        if trains:
            owner.register_parameter(leaf, nn.Parameter(tensor.detach(), tensor.is_floating_point()))
        else:
            owner.register_buffer(leaf, tensor.detach())
        return self.graph.get_attr(".".join([*(self.names[path[:end]] for end in range(1, len(parts))), leaf]))

    def _part(self, path: tuple[str, ...], owner: nn.Module) -> str:
        if path not in self.names:
            made = harmless(path[-1], {**owner._modules, **owner._buffers, **owner._parameters})
            self.names[path] = made
            if made != path[-1]:
                self.notes.append(f"the name {path[-1]!r} in the model is {made} here")
        return self.names[path]

    def _copied(self, module: fx.GraphModule, env: dict[fx.Node, Any]) -> Any:
        """Copy the nodes of a graph, whose inputs are in ``env``, and return its results."""
        for node in module.graph.nodes:
            if node.op == "output":
                return map_arg(node.args[0], env.__getitem__)
            if node.op == "get_attr":
                env[node] = getattr(module, str(node.target), None)
                if not isinstance(env[node], fx.GraphModule):
                    raise ModelError(f"the model reads {node.target}, which is neither a tensor of it nor a part of it")
            elif node.op == "call_function":
                env[node] = self._called(node, env)
        raise AssertionError("a graph without an output")

    def _called(self, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
        target = node.target
        name = getattr(target, "__name__", str(target))
        if any(word in str(target) for word in _GUARDS):
            return None
        if isinstance(target, torch._ops.HigherOrderOperator):
            if name not in _WRITTEN_OUT:
                raise ModelError(
                    f"the model uses {name}, control flow that a net of layers cannot hold; write it without torch.{name}"
                )
            at = _WRITTEN_OUT[name]
            self.autocasts |= name == "wrap_with_autocast" and bool(node.args[2])
            part, operands = env[node.args[at]], node.args[at + 1 :]  # type: ignore[index]
            inputs = [inner for inner in part.graph.nodes if inner.op == "placeholder"]
            inner_env = {i: map_arg(o, env.__getitem__) for i, o in zip(inputs, operands, strict=True)}
            return self._copied(part, inner_env)
        if target is getitem and isinstance(env.get(node.args[0]), (tuple, list)):  # type: ignore[arg-type]
            return env[node.args[0]][node.args[1]]  # type: ignore[index]
        _check_operator(node)
        copied = self.graph.node_copy(node, env.__getitem__)
        if target is aten.detach_.default:  # its argument may be a constant, which is the net's own here
            copied.target = aten.detach.default
        copied.meta = {key: value for key, value in node.meta.items() if key == "val"} | {"path": self._path(node)}
        return copied

    def _path(self, node: fx.Node) -> str:
        """Return the harmless path of the module that calls an operator, or ""."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack else ""
        path = path.removeprefix("L['self']").removeprefix("L__self__").lstrip(".").removeprefix(self.prefix)
        return "" if f"{path}." == self.prefix or not path else harmless(path)

    def _end(self, results: list[Any]) -> list[int]:
        """Let the graph give what depends on the input, once each, named after the keys under which the model gives it."""
        paths = _paths(self.program.call_spec.out_spec)
        names = output_names(paths)
        outputs: list[fx.Node] = []
        kept: list[int] = []
        for at, (name, result) in enumerate(zip(names, results, strict=True)):
            value = result.meta.get("val") if isinstance(result, fx.Node) else result
            if isinstance(value, Tensor):
                fresh = result in outputs or result.op in ("placeholder", "get_attr")
                outputs.append(self.graph.call_function(aten.clone.default, (result,)) if fresh else result)
                outputs[-1].meta = dict(result.meta)
                kept.append(at)
            elif isinstance(result, fx.Node):
                whole = torch.int64 if isinstance(value, (int, torch.SymInt)) else torch.float32
                size = self.graph.call_function(aten.scalar_tensor.default, (result,), {"dtype": whole})
                outputs.append(size)
                kept.append(at)
            elif result is not None:
                self.notes.append(f"the model returns {result!r} as {name}, which is no tensor; a file does not hold it")
        if not outputs:
            raise ModelError("the model returns no tensor; it must return one or more")
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        set_interface(self.graph, Interface(None, output_names([paths[at] for at in kept])))
        return kept


def unlifted(program: torch.export.ExportedProgram, prefix: str = "") -> Unlifted:
    """Return a program as a graph of our own.

    Args:
        program: of torch.export, functional or not.
        prefix: what to leave out at the front of the names of its tensors.

    Raises:
        ModelError: the program takes anything but one tensor, or calls what a net may not call.
    """
    made = _Unlift(program, prefix).run()
    _as_float32(made)
    _protect(made.net)
    made.net.graph.eliminate_dead_code()
    made.net.recompile()
    return made


def _given(program: torch.export.ExportedProgram) -> list[str]:
    """Return the names of the inputs that a program is given, other than its own tensors."""
    specs = program.graph_signature.input_specs
    return [spec.arg.name for spec in specs if spec.kind == InputKind.USER_INPUT and hasattr(spec.arg, "name")]


def _check_operator(node: fx.Node) -> None:
    try:
        name = name_of(node.target)
        check_keywords(node.target, node.kwargs)  # type: ignore[arg-type]
    except ValueError as error:
        raise ModelError(f"{error}; the model cannot be kept with it") from error
    if is_random(node.target, node.args, node.kwargs):
        raise ModelError(
            f"operator '{name}' draws random numbers in evaluation mode too, so that no result is ever the same; pass it "
            "training=self.training"
        )


def _paths(spec: Any) -> list[tuple[str, ...]]:
    """Return the keys that lead to each result; those of lists and tuples are empty."""
    if spec.is_leaf():
        return [()]
    children = spec.children() if callable(getattr(spec, "children", None)) else spec.children_specs
    context = spec.context
    fields = getattr(context, "_fields", context)  # of a named tuple
    named = isinstance(fields, (list, tuple)) and len(fields) == len(children) and all(isinstance(f, str) for f in fields)
    keys = [str(key) for key in fields] if named else [""] * len(children)
    return [(key, *path) for key, child in zip(keys, children, strict=True) for path in _paths(child)]


def _as_float32(made: Unlifted) -> None:
    """Let a program of another floating type compute in float32."""
    net = made.net
    given = next(node for node in net.graph.nodes if node.op == "placeholder").meta["val"]
    if given.dtype not in (torch.float16, torch.bfloat16, torch.float64):
        return
    made.notes.append(f"the net is of {str(given.dtype).removeprefix('torch.')}; it is taken as float32")
    made.is_rounded = given.dtype != torch.float64
    net.float()

    def retyped(value: Any) -> Any:
        return torch.float32 if value is given.dtype else value

    for node in net.graph.nodes:
        node.args, node.kwargs = map_aggregate((node.args, node.kwargs), retyped)


def _protect(net: fx.GraphModule) -> None:
    """Copy the input, and tensors of the net, where an operator would write into them."""
    written = [node for node in net.graph.nodes if _writes(node)]
    bases = (_base(argument) for node in written for argument in _written(node))
    for base in dict.fromkeys(base for base in bases if base is not None):  # in order: the same net gives the same bytes
        with net.graph.inserting_after(base):
            copied = net.graph.call_function(aten.clone.default, (base,))
        copied.meta = {key: value for key, value in base.meta.items() if key == "val"}
        base.replace_all_uses_with(copied)
        copied.args = (base,)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _written(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the arguments that an operator writes."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    for argument, value in zip(arguments, node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, fx.Node):
            yield value


def _base(node: fx.Node) -> fx.Node | None:
    """Return the input or tensor of the net whose memory a node may share, or None."""
    while node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        shares = node.target is getitem or "dropout" in str(node.target)
        shares = shares or (schema is not None and any(r.alias_info is not None for r in schema.returns))
        if not shares or not node.args or not isinstance(node.args[0], fx.Node):
            return None
        node = node.args[0]
    return node


def bounds(program: torch.export.ExportedProgram) -> Mapping[int, tuple[int, int | None]]:
    """Return the axes of the input that a program keeps open, each by itself, with the smallest and largest size it takes.

    An axis whose size is tied to that of another, or to a multiple of something, is not open: a file could not say so.
    """
    (node,) = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in _given(program)]
    symbols = {axis: size.node.expr for axis, size in enumerate(node.meta["val"].shape) if isinstance(size, torch.SymInt)}
    found: dict[int, tuple[int, int | None]] = {}
    for axis, symbol in symbols.items():
        if not symbol.is_symbol or list(symbols.values()).count(symbol) != 1:
            continue
        limits = program.range_constraints.get(symbol)
        upper = None if limits is None or not limits.upper.is_Integer or limits.upper > 1 << 20 else int(limits.upper)
        lower = 1 if limits is None else int(limits.lower)
        found[axis] = (lower, upper)
    return found

"""A captured net as plain JSON plus tensors, so that an artefact needs neither pickle nor the model's source code.

Only torch.nn modules listed in ``_MODULES``, LookupConv2d, and operators that only compute (``operators/aten.py``) can appear.
torch writes names of nodes, modules, tensors and keyword arguments into the source it generates, so names that are not harmless
there (``operators/names.py``) are refused, as are keywords that an operator does not have: reading a file can not run anything.
"""

from __future__ import annotations

import keyword
import logging
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode

from lcnn_compress.artefact.report import Json
from lcnn_compress.errors import ArtefactError, ModelError
from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d, Bfloat16Factors, RoundBfloat16
from lcnn_compress.forms.int8 import Grid, Int8Conv2d, Int8Factors, Round8
from lcnn_compress.forms.kinds import FILTERS_PER_PATTERN, KINDS
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import StoredFactors
from lcnn_compress.operators.aten import check_keywords, name_of, operator_of
from lcnn_compress.operators.encoding import decode_positions
from lcnn_compress.operators.geometry import ConvGeometry, check_extents
from lcnn_compress.operators.interface import Interface, interface_of, n_outputs, set_interface
from lcnn_compress.operators.names import is_harmless

_CONV_FIELDS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_MODULES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Conv2d": (nn.Conv2d, _CONV_FIELDS),
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "BatchNorm1d": (nn.BatchNorm1d, ("num_features", "eps", "momentum", "affine")),
    "BatchNorm2d": (nn.BatchNorm2d, ("num_features", "eps", "momentum", "affine")),
    "Dropout": (nn.Dropout, ("p",)),
    "Dropout2d": (nn.Dropout2d, ("p",)),
}
# No net has tensors of so many values.
MAX_ELEMENTS = 1 << 33
_TORCH_CONSTANTS = (torch.dtype, torch.memory_format, torch.layout)


def to_json(net: fx.GraphModule, storage: str = "float32") -> tuple[Json, dict[str, Tensor]]:
    """Return the graph and its modules as JSON values, and every tensor by name.

    Raises:
        ModelError: the net calls something that cannot be written.
    """
    modules: dict[str, Json] = {}
    tensors: dict[str, Tensor] = {}
    for name in sorted({str(n.target) for n in net.graph.nodes if n.op == "call_module"}):
        modules[name] = _module_to_json(name, net.get_submodule(name), tensors, storage)
    for node in net.graph.nodes:
        if node.op == "get_attr":
            owner, _, leaf = str(node.target).rpartition(".")
            tensors[str(node.target)] = getattr(net.get_submodule(owner), leaf).detach().contiguous().clone()
    nodes = [_node_to_json(node) for node in net.graph.nodes]
    interface = interface_of(net)
    axes = {} if interface.open_axes is None else {"open_axes": list(interface.open_axes)}
    return {"nodes": nodes, "modules": modules, **axes, "outputs": list(interface.outputs)}, tensors


def from_json(
    graph: Json, tensors: dict[str, Tensor], source: str, patterns: Mapping[str, object] = MappingProxyType({})
) -> fx.GraphModule:
    """Invert ``to_json``.

    Args:
        graph: as ``to_json`` returned it, or anything that a damaged file holds.
        tensors: by name.
        source: names the file in messages.
        patterns: ``filters_per_pattern`` by layer, for graphs of 0.1.0, which do not hold it.

    Raises:
        ArtefactError: a tensor is missing or of the wrong shape, or the graph is not one this version writes.
    """
    try:
        root = nn.Module()
        for name, values in graph["modules"].items():
            _check_name(name)
            common = {"filters_per_pattern": patterns.get(name, 1)}
            _add_submodule(root, name, _module_from_json(name, {**common, **values}, tensors))
        built = fx.Graph()
        nodes: dict[str, fx.Node] = {}
        for values in graph["nodes"]:
            if values["op"] == "get_attr":
                _check_name(values["target"])
                _add_tensor(root, values["target"], _take(tensors, values["target"]))
            nodes[values["name"]] = _node_from_json(built, values, nodes)
        _check_graph(built, graph["modules"])
        net = fx.GraphModule(root, built)
        net.graph.lint()
        if (interface := _interface(graph, net)) is not None:
            set_interface(net.graph, interface)
    except (ModelError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, RecursionError) as error:
        raise ArtefactError(f"{source}: {error}; the artefact is damaged or was edited, make it again") from error
    return net.eval()


def problem_of(net: fx.GraphModule, input_shape: tuple[int, ...]) -> str | None:
    """Return what keeps a net from running on its input, found without computing anything, or None."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")  # it prints the stack of an operator that fails
    level = logger.level
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        try:
            logger.setLevel(logging.CRITICAL)
            _Sizes(net).run(mode.from_tensor(torch.zeros(1)).expand(input_shape))
        except Exception as error:  # operators raise whatever they like for arguments that do not fit
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            return f"the net does not run on an input of {input_shape} ({reason[:200]})"
        finally:
            logger.setLevel(level)
    return None


class _Sizes(fx.Interpreter):
    """Runs a net on tensors without values and refuses those that would be absurdly large."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.numel() > MAX_ELEMENTS:
            raise ValueError(f"node '{n.name}' gives {result.numel()} values, more than {MAX_ELEMENTS}")
        return result


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not is_harmless(name):
        raise ValueError(f"the name {str(name)[:60]!r} is not one that this version writes")


def _check_graph(graph: fx.Graph, modules: Json) -> None:
    """Refuse a graph that is not from one input through the modules of the file to one output."""
    kinds = [node.op for node in graph.nodes]
    if kinds.count("placeholder") != 1 or kinds.count("output") != 1 or kinds[-1] != "output":
        raise ValueError("the graph must have one input and end in one output")
    if missing := [str(n.target) for n in graph.nodes if n.op == "call_module" and n.target not in modules]:
        raise ValueError(f"the graph calls {missing[0][:60]!r}, which is not a module of it")


def _interface(graph: Json, net: fx.GraphModule) -> Interface | None:
    """Return the interface that a file states; 0.1.0 wrote none."""
    axes, outputs = graph.get("open_axes"), graph.get("outputs")
    if outputs is None:
        return None
    if axes is not None and not (isinstance(axes, list) and all(axis in (0, 2, 3) and axis is not False for axis in axes)):
        raise ValueError(f"open_axes is {str(axes)[:60]}; it must be a list of 0, 2 and 3")
    if (
        not isinstance(outputs, list)
        or len(outputs) != n_outputs(net)
        or len({*map(str, outputs), "input"}) != len(outputs) + 1  # "input" is the name of the input
    ):
        raise ValueError(f"outputs is {str(outputs)[:60]}; it must be a list of {n_outputs(net)} names")
    for name in outputs:
        _check_name(name)
    return Interface(None if axes is None else tuple(axes), tuple(outputs))


def _module_to_json(name: str, module: nn.Module, tensors: dict[str, Tensor], storage: str) -> Json:
    if isinstance(module, LookupConv2d):
        factors = StoredFactors.of(module, storage)
        tensors.update((f"{name}.{field.name}", getattr(factors, field.name)) for field in fields(factors))
        form = {"kind": module.kind.name, "filters_per_pattern": module.filters_per_pattern}
        shape = {"out_channels": module.out_channels, "dictionary_size": module.dictionary_size}
        return {"type": "LookupConv2d", **form, **shape, "geometry": module.geometry.to_json()}
    kind = type(module).__name__
    if isinstance(module, (Int8Conv2d, Bfloat16Conv2d, Round8, RoundBfloat16)):
        tensors.update((f"{name}.{key}", tensor.detach().contiguous().clone()) for key, tensor in module.state_dict().items())
        form = {} if isinstance(module, (Round8, RoundBfloat16)) else {"geometry": module.geometry.to_json()}
        return {"type": kind, **form}
    if kind not in _MODULES:
        raise ModelError(f"{name}: a module of type {kind} cannot be saved; expected one of {', '.join(_MODULES)}")
    for key, tensor in module.state_dict().items():
        tensors[f"{name}.{key}"] = tensor.detach().contiguous().clone()
    values = {field: getattr(module, field) for field in _MODULES[kind][1]}
    if kind in ("Conv2d", "Linear"):
        values["bias"] = module.bias is not None
    return {"type": kind, **{key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}}


def _module_from_json(name: str, values: Json, tensors: dict[str, Tensor]) -> nn.Module:
    values = dict(values)
    kind = values.pop("type")
    if kind == "LookupConv2d":
        return _lookup_from_json(name, values, tensors)
    if kind in ("Int8Conv2d", "Bfloat16Conv2d", "Round8", "RoundBfloat16"):
        return _narrow_from_json(kind, name, values, tensors)
    factory, arguments_of = _MODULES[kind]
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in (*arguments_of, "bias")}
    if kind.startswith("Dropout"):
        module: nn.Module = factory(**arguments)
        return module
    for field, least in (("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0)) if kind == "Conv2d" else ():
        if not isinstance(value := values[field], str):
            check_extents(f"{name}: {field}", value, least)
    module = factory(**arguments, device="meta")  # sizes are compared with the tensors before anything is allocated
    state = {key: _take(tensors, f"{name}.{key}") for key in module.state_dict()}
    for key, expected in module.state_dict().items():
        if state[key].shape != expected.shape:
            raise ValueError(f"{name}.{key} has the shape {tuple(state[key].shape)}, not {tuple(expected.shape)}")
    module.to_empty(device="cpu").load_state_dict(state)
    return module


def _lookup_from_json(name: str, values: Json, tensors: dict[str, Tensor]) -> LookupConv2d:
    geometry = ConvGeometry.from_json(values["geometry"])
    shape = (values["out_channels"], values["dictionary_size"], *geometry.kernel)
    gaps, coefficients = (_take(tensors, f"{name}.{key}") for key in ("gaps", "coefficients"))
    try:
        kernel = decode_positions(gaps.numpy(), coefficients.float().numpy(), shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    dictionary, bias = _take(tensors, f"{name}.dictionary").float(), _take(tensors, f"{name}.bias")
    if not all(bool(torch.isfinite(t).all()) for t in (dictionary, bias, coefficients)) or len(bias) != shape[0]:
        raise ValueError(f"{name}: dictionary, coefficients and bias must be finite, with {shape[0]} biases")
    common = values["filters_per_pattern"]
    if common not in FILTERS_PER_PATTERN:
        raise ValueError(f"{name}: filters_per_pattern is {common!r}; it must be one of {FILTERS_PER_PATTERN}")
    kind = KINDS[values["kind"]] if "kind" in values else None  # 0.1.0 did not write it: the factors tell
    if kind is not None and not kind.is_coded:
        raise ValueError(f"{name}: kind is {kind.name!r}, but the layer is a lookup convolution")
    return LookupConv2d(dictionary, torch.from_numpy(kernel), bias, geometry, kind=kind, filters_per_pattern=common)


def _narrow_from_json(kind: str, name: str, values: Json, tensors: dict[str, Tensor]) -> nn.Module:
    """Return a layer in 8 bits or bfloat16, or what rounds to these."""
    if kind == "RoundBfloat16":
        return RoundBfloat16()
    if kind == "Round8":
        return Round8(Grid.of(_take(tensors, f"{name}.scale"), _take(tensors, f"{name}.zero_point")))
    geometry, held = ConvGeometry.from_json(values["geometry"]), Int8Factors if kind == "Int8Conv2d" else Bfloat16Factors
    factors = held(**{field.name: _take(tensors, f"{name}.{field.name}") for field in fields(held)})
    try:
        factors.check(geometry)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if isinstance(factors, Bfloat16Factors):
        return Bfloat16Conv2d(factors, geometry)
    return Int8Conv2d(factors, geometry, Grid.of(_take(tensors, f"{name}.input_scale"), _take(tensors, f"{name}.zero_point")))


def _take(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"tensor '{name}' is missing")
    return tensors[name]


def _node_to_json(node: fx.Node) -> Json:
    target = str(node.target)
    if node.op == "call_function":
        try:
            target = name_of(node.target)
        except ValueError as error:
            raise ModelError(f"{error}; the net cannot be saved with it") from error
    values = {"op": node.op, "name": node.name, "target": target, "args": _encode(node.args)}
    kwargs = {key: _encode(value) for key, value in node.kwargs.items()}
    return values | ({"kwargs": {"dict": kwargs}} if kwargs else {})


def _node_from_json(graph: fx.Graph, values: Json, nodes: dict[str, fx.Node]) -> fx.Node:
    operation, target = values["op"], values["target"]
    if operation not in ("placeholder", "get_attr", "call_module", "call_function", "output"):
        raise ValueError(f"node '{values['name']}' has the unknown kind '{operation}'")
    name = values["name"]
    for given in (name, *([target] if operation == "placeholder" else [])):
        if not isinstance(given, str) or not given.isidentifier() or keyword.iskeyword(given):
            raise ValueError(f"the name {str(given)[:60]!r} of a node is not one that this version writes")
    args = _decode(values["args"], nodes)
    if operation == "output":
        args = [tuple(result) if isinstance(result, list) else result for result in args]  # several outputs are a tuple
    kwargs: dict[str, Any] = {}
    callee = target
    if operation == "call_function":
        callee = operator_of(target)
        if "kwargs" in values:
            kwargs = {key: _decode(value, nodes) for key, value in values["kwargs"]["dict"].items()}
        check_keywords(callee, kwargs)
        if "pool" in target:  # kernels, strides, padding, sizes: absurd ones hang or end ONNX Runtime
            for value in (value for value in args[1:] if isinstance(value, list)):
                check_extents(f"{name}: {target}", [size for size in value if not isinstance(size, fx.Node)], 0)
    return graph.create_node(operation, callee, tuple(args), kwargs, name=name)


def _encode(value: Any) -> Any:
    match value:
        case fx.Node():
            return {"node": value.name}
        case list() | tuple():
            return [_encode(v) for v in value]
        case float() if not np.isfinite(value):
            return {"float": str(value)}
        case torch.device():
            return {"device": str(value)}
        case _ if isinstance(value, _TORCH_CONSTANTS):
            return {"torch": str(value).removeprefix("torch.")}
        case None | bool() | int() | float() | str():
            return value
    raise ModelError(f"an argument of type {type(value).__name__} cannot be saved: {value!r}")


def _decode(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(v, nodes) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError(f"unknown value {value!r}")
    kind, content = next(iter(value.items()))
    return _decode_marked(str(kind), content, nodes)


def _decode_marked(kind: str, content: Any, nodes: dict[str, fx.Node]) -> Any:
    match kind:
        case "node":
            return nodes[content]
        case "float":
            return float(content)
        case "device" if content == "cpu":
            return torch.device("cpu")
        case "torch":
            constant = getattr(torch, content)
            if not isinstance(constant, _TORCH_CONSTANTS):
                raise ValueError(f"torch.{content} is not a constant")
            return constant
    raise ValueError(f"unknown kind of value '{kind}'")


def _add_submodule(root: nn.Module, path: str, module: nn.Module) -> None:
    owner = root
    *parents, leaf = path.split(".")
    for part in parents:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    owner.add_module(leaf, module)


def _add_tensor(root: nn.Module, path: str, tensor: Tensor) -> None:
    owner_path, _, leaf = path.rpartition(".")
    if owner_path and owner_path not in dict(root.named_modules()):
        _add_submodule(root, owner_path, nn.Module())
    root.get_submodule(owner_path).register_buffer(leaf, tensor)

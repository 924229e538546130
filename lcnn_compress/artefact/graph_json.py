"""A captured net as plain JSON plus tensors, so that an artefact needs neither pickle nor the model's source code.

Only torch.nn modules listed in ``_MODULES``, LookupConv2d, ATen operators and integer arithmetic on sizes can appear; reading a
file can therefore not run anything else.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from lcnn_compress.artefact.report import Json
from lcnn_compress.errors import ArtefactError, ModelError
from lcnn_compress.forms.kinds import FILTERS_PER_PATTERN, KINDS
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import StoredFactors
from lcnn_compress.operators.encoding import decode_positions
from lcnn_compress.operators.geometry import ConvGeometry

_CONV_FIELDS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_MODULES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Conv2d": (nn.Conv2d, _CONV_FIELDS),
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "BatchNorm1d": (nn.BatchNorm1d, ("num_features", "eps", "momentum", "affine")),
    "BatchNorm2d": (nn.BatchNorm2d, ("num_features", "eps", "momentum", "affine")),
    "Dropout": (nn.Dropout, ("p",)),
    "Dropout2d": (nn.Dropout2d, ("p",)),
}
_SIZE_ARITHMETIC = {
    f"operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem", "eq", "ne", "lt", "le", "gt", "ge", "pow")
}
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
    return {"nodes": nodes, "modules": modules}, tensors


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
            common = {"filters_per_pattern": patterns.get(name, 1)}
            _add_submodule(root, name, _module_from_json(name, {**common, **values}, tensors))
        built = fx.Graph()
        nodes: dict[str, fx.Node] = {}
        for values in graph["nodes"]:
            if values["op"] == "get_attr":
                _add_tensor(root, values["target"], _take(tensors, values["target"]))
            nodes[values["name"]] = _node_from_json(built, values, nodes)
        net = fx.GraphModule(root, built)
        net.graph.lint()
    except (ModelError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        raise ArtefactError(f"{source}: {error}; the artefact is damaged or was edited, make it again") from error
    return net.eval()


def _module_to_json(name: str, module: nn.Module, tensors: dict[str, Tensor], storage: str) -> Json:
    if isinstance(module, LookupConv2d):
        factors = StoredFactors.of(module, storage)
        tensors.update((f"{name}.{field.name}", getattr(factors, field.name)) for field in fields(factors))
        form = {"kind": module.kind.name, "filters_per_pattern": module.filters_per_pattern}
        shape = {"out_channels": module.out_channels, "dictionary_size": module.dictionary_size}
        return {"type": "LookupConv2d", **form, **shape, "geometry": module.geometry.to_json()}
    kind = type(module).__name__
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
    factory, arguments_of = _MODULES[kind]
    arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in (*arguments_of, "bias")}
    module: nn.Module = factory(**arguments) if kind.startswith("Dropout") else nn.utils.skip_init(factory, **arguments)
    state = {key: _take(tensors, f"{name}.{key}") for key in module.state_dict()}
    module.load_state_dict(state)
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


def _take(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"tensor '{name}' is missing")
    return tensors[name]


def _node_to_json(node: fx.Node) -> Json:
    target = str(node.target)
    if node.op == "call_function":
        target = f"operator.{node.target.__name__}" if getattr(node.target, "__module__", "") == "_operator" else target  # type: ignore[union-attr]
        _function(target)
    values = {"op": node.op, "name": node.name, "target": target, "args": _encode(node.args)}
    return values | ({"kwargs": _encode(node.kwargs)} if node.kwargs else {})


def _node_from_json(graph: fx.Graph, values: Json, nodes: dict[str, fx.Node]) -> fx.Node:
    operation, target = values["op"], values["target"]
    if operation not in ("placeholder", "get_attr", "call_module", "call_function", "output"):
        raise ValueError(f"node '{values['name']}' has the unknown kind '{operation}'")
    args = _decode(values["args"], nodes)
    if operation == "output":
        args = [tuple(result) if isinstance(result, list) else result for result in args]  # several outputs are a tuple
    kwargs = _decode(values["kwargs"], nodes) if "kwargs" in values else {}
    callee = _function(target) if operation == "call_function" else target
    return graph.create_node(operation, callee, tuple(args), kwargs, name=values["name"])


def _function(target: str) -> Any:
    """Look an operator up by name; nothing but ATen and size arithmetic is found."""
    if target in _SIZE_ARITHMETIC:
        return _SIZE_ARITHMETIC[target]
    namespace, *path = target.split(".")
    if namespace != "aten" or len(path) != 2 or not all(part.isidentifier() for part in path):
        raise ModelError(f"operator '{target}' cannot be saved; a net may call ATen operators and arithmetic on sizes only")
    return getattr(getattr(torch.ops.aten, path[0]), path[1])


def _encode(value: Any) -> Any:
    match value:
        case fx.Node():
            return {"node": value.name}
        case dict():
            return {"dict": {key: _encode(v) for key, v in value.items()}}
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
        case "dict":
            return {key: _decode(v, nodes) for key, v in content.items()}
        case "float":
            return float(content)
        case "device":
            return torch.device(content)
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

"""The layers of a captured net: what convolves, with which geometry, on which sizes, and what stands against coding it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from lcnn_compress.errors import ModelError
from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d
from lcnn_compress.forms.int8 import Int8Conv2d
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.operators.geometry import ConvGeometry, dense_macs

# Vectors of at most this many channels leave no room for a dictionary.
MAX_BARE_CHANNELS = 7
# A layer has one geometry in a file.
OTHER_PADDING = "called with different zero padding"
aten = torch.ops.aten
FLATTENS = (aten.flatten.using_ints, aten.view.default, aten.reshape.default)


@dataclass(frozen=True)
class Layer:
    """One Conv2d or Linear of a captured net and where it is called.

    ``geometry`` includes zero padding done by a separate operator just before; ``sizes`` are the (height, width) of the inputs
    of every call, before that padding; ``obstacle`` says why the layer cannot become a lookup convolution, or is None.
    A Linear is a convolution whose kernel covers the plane that was flattened for it, else one of 1x1 on its features.
    """

    name: str
    module: nn.Conv2d | nn.Linear | LookupConv2d | Int8Conv2d | Bfloat16Conv2d
    geometry: ConvGeometry
    sizes: tuple[tuple[int, int], ...]
    obstacle: str | None
    is_classifier: bool

    @property
    def is_linear(self) -> bool:
        """Whether the layer takes rows of features."""
        return _TYPES[type(self.module)].is_linear

    @property
    def in_channels(self) -> int:
        """Number of channels going in, or of features where a Linear is a 1x1 convolution."""
        return _TYPES[type(self.module)].channels(self.module)[0] // (self.geometry.taps if self.is_linear else 1)

    @property
    def out_channels(self) -> int:
        """Number of channels (features) coming out."""
        return _TYPES[type(self.module)].channels(self.module)[1]

    @property
    def dense_macs(self) -> int:
        """MACs of the dense layer for one image, all calls together."""
        return sum(dense_macs(self.in_channels, self.out_channels, self.geometry, size) for size in self.sizes)

    def weight(self) -> Tensor:
        """Return the dense weight as (C_out, C_in / groups, kH, kW)."""
        weight = _TYPES[type(self.module)].weight(self.module)
        return weight.unflatten(1, (-1, *self.geometry.kernel)) if weight.ndim == 2 else weight


@dataclass(frozen=True)
class Captured:
    """A captured net, batch norms not folded, with the shape (1, ...) it is planned and measured at, and its layers there."""

    net: fx.GraphModule
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, net: fx.GraphModule, input_shape: tuple[int, ...]) -> Captured:
        """List the layers of a net; raises ModelError where it does not run on the shape."""
        return cls(net, input_shape, tuple(layers(net, torch.zeros(input_shape))))


def calls(net: fx.GraphModule, kind: Any) -> Iterator[tuple[fx.Node, Any]]:
    """Yield (node, module) for every call of a module of ``kind``, in execution order."""
    for node in net.graph.nodes:
        if node.op == "call_module" and isinstance(module := net.get_submodule(str(node.target)), kind):
            yield node, module


def full_layers(net: fx.GraphModule) -> set[str]:
    """Return the names of lookup convolutions that look every row up, which files hold as two convolutions."""
    return {name for name, module in net.named_modules() if isinstance(module, LookupConv2d) and module.kind.is_full}


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
            f"the model does not run on an input of {tuple(example.shape)}: {reason}; check `input_shape`"
        ) from error
    found: dict[str, Layer] = {}
    for node, module in calls(net, LAYER_TYPES):
        name, kind = str(node.target), _TYPES[type(module)]
        geometry, source = kind.geometry(node, module)
        shape = source.meta["tensor_meta"].shape
        if kind.is_linear:
            # Each row of features gives one pixel; rows of all axes are counted, as attention and windows move the batch axis.
            sizes = (geometry.kernel,) * (int(torch.Size(shape[:-1]).numel()) // len(example))
        else:
            sizes = ((int(shape[2]), int(shape[3])),)
        if name in found:
            known = found[name]
            obstacle = known.obstacle or (None if geometry == known.geometry else OTHER_PADDING)
            found[name] = Layer(name, module, known.geometry, known.sizes + sizes, obstacle, known.is_classifier)
        else:
            last = kind.is_linear and not _reaches_layer(net, node)
            found[name] = Layer(name, module, geometry, sizes, kind.obstacle(module), last)
    return list(found.values())


def source_of(node: fx.Node, layer: Layer) -> fx.Node:
    """Return what a call of a layer reads, before a zero padding that its geometry includes."""
    return _TYPES[type(layer.module)].geometry(node, layer.module)[1]


def _conv_geometry(node: fx.Node, module: nn.Conv2d) -> tuple[ConvGeometry, fx.Node]:
    """Return the geometry including a zero-padding operator right before the layer, and the tensor before that."""
    kernel, stride, dilation = ((int(v[0]), int(v[1])) for v in (module.kernel_size, module.stride, module.dilation))
    top, left, bottom, right = _own_padding(module)
    source = node.all_input_nodes[0]
    if (pads := _zero_pads(source)) is not None:
        pad_left, pad_right, pad_top, pad_bottom = pads
        top, left, bottom, right = top + pad_top, left + pad_left, bottom + pad_bottom, right + pad_right
        source = source.all_input_nodes[0]
    return ConvGeometry(kernel, stride, (top, left, bottom, right), dilation, module.groups), source


def _linear_geometry(node: fx.Node, _: nn.Linear) -> tuple[ConvGeometry, fx.Node]:
    planes = {_flattened_plane(call) for call in node.graph.nodes if (call.op, call.target) == (node.op, node.target)}
    return ConvGeometry(planes.pop() if len(planes) == 1 else (1, 1)), node.all_input_nodes[0]


def _flattened_plane(node: fx.Node) -> tuple[int, int]:
    """Return (H, W) if a Linear is called on a flattened (N, C, H, W) with C enough for a dictionary, else (1, 1).

    The paper codes AlexNet's first linear layer so, as a 6x6 convolution on 256 channels (Bagherinezhad et al. 2017).
    """
    flatten = node.all_input_nodes[0]
    if flatten.target in FLATTENS:
        shape = flatten.all_input_nodes[0].meta["tensor_meta"].shape
        flat = (shape[0], torch.Size(shape[1:]).numel())
        if len(shape) == 4 and shape[1] > MAX_BARE_CHANNELS and flatten.meta["tensor_meta"].shape == flat:
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
    pads: list[Any] = [*node.args[1], 0, 0][:4]  # type: ignore[misc]
    # Other padding is computed from the sizes of the plane.
    known = len(node.args[1]) in (2, 4) and all(isinstance(p, int) and p >= 0 for p in pads)  # type: ignore[arg-type]
    return pads if known else None


def _conv_obstacle(module: nn.Conv2d) -> str | None:
    if module.in_channels == module.groups > 1:
        return "depthwise: each filter sees one channel, there is no channel vector to look up"
    return None


def _reaches_layer(net: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether any convolution or linear layer comes after ``node``."""
    seen, stack = {node}, list(node.users)
    while stack:
        user = stack.pop()
        if user.op == "call_module" and isinstance(net.get_submodule(str(user.target)), LAYER_TYPES):
            return True
        if user not in seen:
            seen.add(user)
            stack.extend(user.users)
    return False


@dataclass(frozen=True)
class _ModuleType:
    """How to ask a type of module: for a call's geometry and the tensor it reads, for channels (in, out), weight, obstacle."""

    geometry: Callable[[fx.Node, Any], tuple[ConvGeometry, fx.Node]]
    channels: Callable[[Any], tuple[int, int]]
    weight: Callable[[Any], Tensor]
    obstacle: Callable[[Any], str | None]
    is_linear: bool = False


_TYPES: dict[type[nn.Module], _ModuleType] = {
    nn.Conv2d: _ModuleType(_conv_geometry, lambda m: (m.in_channels, m.out_channels), lambda m: m.weight, _conv_obstacle),
    nn.Linear: _ModuleType(
        _linear_geometry, lambda m: (m.in_features, m.out_features), lambda m: m.weight, lambda _: None, is_linear=True
    ),
    LookupConv2d: _ModuleType(
        lambda node, m: (m.geometry, node.all_input_nodes[0]), lambda m: (m.in_channels, m.out_channels),
        lambda m: m.weight(), lambda _: "already a lookup convolution",
    ),
    Int8Conv2d: _ModuleType(
        lambda node, m: (m.geometry, node.all_input_nodes[0]), lambda m: (m.in_channels, m.out_channels),
        lambda m: m.dense_weight(), lambda _: "already in 8 bits",
    ),
    Bfloat16Conv2d: _ModuleType(
        lambda node, m: (m.geometry, node.all_input_nodes[0]), lambda m: (m.in_channels, m.out_channels),
        lambda m: m.dense_weight(), lambda _: "already in bfloat16",
    ),
}  # fmt: skip
LAYER_TYPES = tuple(_TYPES)
# Layers that take narrow numbers.
NARROW_TYPES = (Int8Conv2d, Bfloat16Conv2d)

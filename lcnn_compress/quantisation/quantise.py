"""A finished net in 8 bits: where it is rounded, how finely, and its layers in whole numbers.

The layers are made in the order of the net, each from what the layers before it give in 8 bits: weights are rounded for those
inputs, and a bias takes up what the mean of an output is off (Nagel et al. 2019, "Data-free quantization", section 4.2).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn import functional

from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.int8 import RESPONSE_ZERO, Grid, Int8Conv2d, Int8Factors, Round8
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.whole_weights import MAX_WEIGHT, row_scales
from lcnn_compress.net.edit import as_lookup, with_lookups
from lcnn_compress.net.layers import OTHER_PADDING, Captured, Layer, calls
from lcnn_compress.net.output_error import Outputs, affordable_images, some_images
from lcnn_compress.net.patches import patches, seeded_positions
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.progress import Progress, silent
from lcnn_compress.quantisation.points import find_points, with_rounding
from lcnn_compress.quantisation.ranges import METHODS, Histogram, grids, histograms
from lcnn_compress.quantisation.round_weights import MAX_FEATURES, round_weights

log = logging.getLogger(__name__)
# Second moments of a layer's inputs are those of about this many positions.
SAMPLES = 8192
# Parts of the largest response that S may leave out, of which the one with the least error is taken.
RESPONSE_PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
# Calibration inputs that the layers are made from take at most this many bytes in the widest place of the net.
MAX_BYTES = 1 << 29
# At least and at most this many are used, and as many as take the net about this many MACs: it is run a dozen times.
IMAGES, MAX_MACS = (8, 64), 5e11
# Ways to find ranges are told apart by so many of them.
TRIED_IMAGES = 16


def reason_against(captured: Captured, layer: Layer) -> str | None:
    """Return why a layer is not computed in 8 bits or bfloat16, or None."""
    if layer.obstacle == OTHER_PADDING:
        return layer.obstacle
    sources = [node.all_input_nodes[0] for node, module in calls(captured.net, nn.Linear) if module is layer.module]
    if any(len(source.meta["tensor_meta"].shape) != 2 for source in sources):
        return "a linear layer on tokens"
    return None


@torch.no_grad()
def quantise(
    captured: Captured, names: Collection[str], batches: Sequence[Tensor], progress: Progress = silent, *, rough: bool = False
) -> fx.GraphModule:
    """Return a copy of a finished net with the layers named in 8 bits.

    Args:
        captured: the net, batch norms folded, and its layers.
        names: layers that nothing stands against (``reason_against``).
        batches: calibration inputs, each (N, C, H, W) or (N, features).
        progress: gets ("calibrating", steps done, in total).
        rough: for a net that is only timed: the whole ranges, and weights rounded to the nearest, which takes seconds.

    Raises:
        SettingsError: no calibration inputs, or activations that are not finite.
    """
    few = _few_images(captured, batches)
    if not few:
        raise SettingsError("8-bit arithmetic needs the ranges of activations, and there is no calibration data; add `calib`")
    dense = [layer for layer in captured.layers if layer.name in names and not isinstance(layer.module, LookupConv2d)]
    net = with_lookups(captured, {layer.name: as_lookup(layer) for layer in dense})
    points = find_points(net, names)
    methods = dict(list(METHODS.items())[:1]) if rough else METHODS
    total = len(methods) + 2
    progress("calibrating", 0, total)
    seen = histograms(net, points.nodes, few)
    _check_finite(seen)
    judge = Outputs(net, some_images(few, TRIED_IMAGES))
    tried = []
    for done, (ranges, method) in enumerate(methods.items(), 1):
        progress("calibrating", done, total)
        chosen = grids(seen, points.shared, method)
        tried.append((judge.error(_with_rounding(net, chosen, points.shared)[0]), ranges, chosen))
    error, ranges, chosen = min(tried, key=lambda trial: trial[0])
    log.info("ranges of activations: %s; rounded to them, outputs are off by %.2g of their spread", ranges, error**0.5)
    progress("calibrating", total - 1, total)
    made = _Making(names, _with_rounding(net, chosen, points.shared), rough).run(few)
    progress("calibrating", total, total)
    return made


def _few_images(captured: Captured, batches: Sequence[Tensor]) -> list[Tensor]:
    """Return as many images as can be held and afforded, at least one."""
    given = [x for x in batches if len(x)]
    if not given:
        return []
    widest = _Widest(captured.net)
    widest.run(given[0][:1].clone())
    fit = some_images(given, max(1, MAX_BYTES // max(1, widest.n_bytes)))
    return affordable_images(captured.net, captured.layers, fit, MAX_MACS, IMAGES)


class _Widest(fx.Interpreter):
    """Runs a net and keeps the size of its largest tensor."""

    n_bytes = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.n_bytes = max(self.n_bytes, result.numel() * 4)
        return result


def _check_finite(seen: dict[fx.Node, Histogram]) -> None:
    for node, histogram in seen.items():
        if not -float("inf") < histogram.low <= histogram.high < float("inf"):
            raise SettingsError(f"activations behind '{node.name}' are not finite on the calibration data; check the data")


class _Making:
    """Makes the layers of a net in order, running the net in float32 and in 8 bits side by side."""

    def __init__(self, names: Collection[str], rounding: tuple[fx.GraphModule, dict[fx.Node, Grid]], rough: bool) -> None:
        self.names, self.rough = names, rough
        self.result, self.rounds = rounding
        self.made: dict[str, Int8Conv2d] = {}

    def run(self, batches: Sequence[Tensor]) -> fx.GraphModule:
        """Make all layers and return the net that has them."""
        graph = self.result.graph
        last_use = {user: node for node in graph.nodes for user in node.all_input_nodes}
        dead: dict[fx.Node, list[fx.Node]] = {}
        for value, user in last_use.items():
            dead.setdefault(user, []).append(value)
        env: dict[fx.Node, list[tuple[Any, Any]]] = {}
        for node in graph.nodes:
            if node.op == "output":
                break
            env[node] = self._call(node, env, batches)
            for value in dead.get(node, ()):
                env.pop(value, None)
        for name, layer in self.made.items():
            self.result.add_submodule(name, layer)
        self.result.recompile()
        return self.result

    def _call(
        self, node: fx.Node, env: dict[fx.Node, list[tuple[Any, Any]]], batches: Sequence[Tensor]
    ) -> list[tuple[Any, Any]]:
        """Return what a node gives for each batch in float32 and in 8 bits."""
        if node.op == "placeholder":
            return [(x.clone(), x.clone()) for x in batches]
        if node.op == "get_attr":
            owner, _, leaf = str(node.target).rpartition(".")
            value = getattr(self.result.get_submodule(owner), leaf)
            return [(value, value)] * len(batches)
        module = self.result.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node in self.rounds:
            assert module is not None
            return [(x, module(q)) for x, q in env[node.all_input_nodes[0]]]
        if module is not None and node.target in self.names:
            inputs = env[node.all_input_nodes[0]]
            outputs = [module(x) for x, _ in inputs]
            layer = self._layer(str(node.target), module, self._grid_of(node), [q for _, q in inputs], outputs)
            return [(y, layer(q)) for y, (_, q) in zip(outputs, inputs, strict=True)]
        callee: Any = module or node.target

        def result(batch: int, side: int) -> Any:
            args, kwargs = map_aggregate(
                (node.args, node.kwargs), lambda a: env[a][batch][side] if isinstance(a, fx.Node) else a
            )
            return callee(*args, **kwargs)

        return [(result(batch, 0), result(batch, 1)) for batch in range(len(batches))]

    def _grid_of(self, node: fx.Node) -> Grid:
        """Return the grid of a layer's input: of the rounding that it reads, perhaps behind what passes values on."""
        source = node.all_input_nodes[0]
        while source not in self.rounds:
            source = source.all_input_nodes[0]
        return self.rounds[source]

    def _layer(self, name: str, module: Any, grid: Grid, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Int8Conv2d:
        if name in self.made:
            return self.made[name]  # the layer is called again
        made = layer_in_bytes(module, grid, inputs, self.rough)
        total, count = torch.zeros(made.out_channels, dtype=torch.float64), 0
        for y, x in zip(outputs, inputs, strict=True):
            off = y - made(x)
            total += off.sum((0, 2, 3), dtype=torch.float64)
            count += off.numel() // made.out_channels
        made.bias += (total / count).to(made.bias.dtype)
        self.made[name] = made
        return made


def _with_rounding(
    net: fx.GraphModule, chosen: dict[fx.Node, Grid], shared: dict[fx.Node, fx.Node]
) -> tuple[fx.GraphModule, dict[fx.Node, Grid]]:
    """Return a copy of a net in which all users of some nodes read rounded results, and the nodes that round.

    The ``grid_of`` of such a node names the first that has the same grid: where grids are learnt they stay the same.
    """
    result, added = with_rounding(net, {node: Round8(grid) for node, grid in chosen.items()}, "round8")
    for node, rounding in added.items():
        rounding.meta["grid_of"] = shared[node].name
    return result, {added[node]: grid for node, grid in chosen.items()}


def layer_in_bytes(lookup: LookupConv2d, grid: Grid, inputs: Sequence[Tensor], rough: bool) -> Int8Conv2d:
    """Return a layer in 8 bits; its bias is that of the layer.

    Args:
        lookup: the layer.
        grid: of its inputs.
        inputs: calibration inputs of the layer, on that grid.
        rough: weights are rounded to the nearest.
    """
    geometry, groups = lookup.geometry, lookup.geometry.groups
    kernel, bias = (lookup.sparse_kernel * lookup.support).detach(), lookup.bias.detach().clone()
    rows, row_scale = torch.zeros(0, lookup.dictionary.shape[1], dtype=torch.int8), torch.zeros(0)
    if not lookup.is_identity:
        matrix = lookup.dictionary.detach()[:, :, None, None]
        first_stage = _dense(matrix, torch.zeros(len(matrix)), ConvGeometry((1, 1), groups=groups), grid)
        rows = _rounded_weight(first_stage, matrix, inputs, rough)[:, :, 0, 0]
        steps = _response_steps(rows, first_stage.weight_scale, groups, grid, inputs)
        row_scale = first_stage.weight_scale / steps
        kernel = kernel * steps.view(groups, 1, -1).expand(-1, len(kernel) // groups, -1).reshape(len(kernel), -1, 1, 1)
    empty = torch.zeros_like(kernel, dtype=torch.int8)
    factors = Int8Factors(empty, row_scales(kernel), bias, rows, row_scale)
    draft = Int8Conv2d(factors, geometry, grid)
    weight = _rounded_weight(draft, kernel, inputs, rough)
    return Int8Conv2d(replace(factors, weight=weight), geometry, grid)


def _dense(weight: Tensor, bias: Tensor, geometry: ConvGeometry, grid: Grid) -> Int8Conv2d:
    """Return a layer whose weights, (C_out, C_in / groups, kH, kW), are still to be rounded."""
    none = torch.zeros(0, weight.shape[1], dtype=torch.int8)
    factors = Int8Factors(torch.zeros_like(weight, dtype=torch.int8), row_scales(weight), bias, none, torch.zeros(0))
    return Int8Conv2d(factors, geometry, grid)


def _rounded_weight(draft: Int8Conv2d, weight: Tensor, inputs: Sequence[Tensor], rough: bool) -> Tensor:
    """Return the whole numbers (C_out, K, kH, kW) for the weights of a layer whose other factors ``draft`` has."""
    groups = draft.geometry.groups
    parts = weight.unflatten(0, (groups, -1))
    scales = draft.weight_scale.unflatten(0, (groups, -1))
    compensates = not rough and weight[0].numel() <= MAX_FEATURES
    moments = _moments(draft, inputs) if compensates else [None] * groups
    rounded = [round_weights(w, s, h) for w, s, h in zip(parts, scales, moments, strict=True)]
    return torch.cat(rounded)


def _moments(layer: Int8Conv2d, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """Return for each group the second moments (F, F) of what its weights are multiplied with, at some output positions."""
    geometry = layer.geometry
    top, left, bottom, right = geometry.padding
    per_image = -(-SAMPLES // sum(map(len, inputs)))
    total: Tensor | None = None
    for number, x in enumerate(inputs):
        positions = seeded_positions(geometry.output_size(x.shape[2], x.shape[3]), per_image, number)
        read = functional.pad(layer.responses(x), (left, right, top, bottom))
        features = patches(read, geometry, *positions).permute(1, 2, 4, 0, 3).flatten(3).flatten(1, 2)  # (groups, F, n)
        part = features @ features.mT
        total = part if total is None else total + part
    assert total is not None
    return list(total)


def _response_steps(rows: Tensor, row_scale: Tensor, groups: int, grid: Grid, inputs: Sequence[Tensor]) -> Tensor:
    """Return what a step of S stands for, for each entry: that which leaves the least squared error."""
    largest = torch.zeros(len(rows))
    sampled = []
    for x in inputs:
        responses = functional.conv2d((x / grid.scale).round(), rows.float()[:, :, None, None], groups=groups)
        responses *= (row_scale * grid.scale)[:, None, None]
        flat = responses.transpose(0, 1).flatten(1)
        largest = torch.maximum(largest, flat.abs().amax(1))
        sampled.append(flat[:, :: max(1, flat.shape[1] * len(inputs) // SAMPLES)])
    values = torch.cat(sampled, 1)
    largest = torch.where(largest > 0, largest, 1.0)
    tried = torch.stack([largest * part / MAX_WEIGHT for part in RESPONSE_PARTS])
    errors = []
    for steps in tried:
        whole = (values / steps[:, None]).round().clamp(-RESPONSE_ZERO, RESPONSE_ZERO - 1)
        errors.append((whole * steps[:, None] - values).square().sum(1))
    return tried.gather(0, torch.stack(errors).argmin(0, keepdim=True))[0]

"""Keep a net in 8 bits between its layers: what the exporter wrote with rounding in float32 becomes operators on bytes.

torch's exporter gives planes of float32, convolutions of whole numbers (``CONV_TO_FLOAT``, ``LOOKUP_TO_FLOAT``) and ``Round8``
nodes. Here a convolution takes over the sum, clip and rounding that follow it, and gives bytes in the order (N, H, W, C) to the
next one. Poolings and the like pass bytes on. What has no operator on bytes gets float32, which is made where it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn

from lcnn_compress.export.nodes import attribute_values
from lcnn_compress.export.pools import pool_values
from lcnn_compress.forms.int8 import Int8Conv2d, Round8
from lcnn_compress.net.layers import calls
from lcnn_compress.operators import int8_conv as ops
from lcnn_compress.operators.common import DOMAIN, NO_BOUND, OP_VERSION

ROUND = "Round8"


class _RoundNode(nn.Module):
    """Stands in for a Round8 while the net is exported."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, rounding: Round8) -> None:
        super().__init__()
        self.register_buffer("scale", rounding.scale.clone())
        self.register_buffer("zero_point", rounding.zero_point.clone())

    def forward(self, x: Tensor) -> Tensor:
        inputs = (x, self.scale, self.zero_point)
        return torch.onnx.ops.symbolic(f"{DOMAIN}::{ROUND}", inputs, {}, dtype=x.dtype, shape=x.shape, version=OP_VERSION)


class _ConvNode(nn.Module):
    """Stands in for an Int8Conv2d while the net is exported: an operator that takes bytes, for now given float32."""

    def __init__(self, layer: Int8Conv2d) -> None:
        super().__init__()
        self.geometry, self.out_channels = layer.geometry, layer.out_channels
        self.op_type = ops.LOOKUP_TO_FLOAT if layer.has_dictionary else ops.CONV_TO_FLOAT
        held = {
            "x_scale": layer.input_scale, "x_zero_point": layer.zero_point,
            "D": layer.dictionary, "d_scale": layer.dictionary_scale,
            "W": layer.weight.permute(0, 2, 3, 1).contiguous(), "w_scale": layer.weight_scale, "bias": layer.bias,
        }  # fmt: skip
        self.names = ops.INPUTS[self.op_type][1:]
        for name in self.names:
            # The name of its weight tells a layer.
            self.register_buffer("weight" if name == "W" else name, held[name].detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.geometry.output_size(x.shape[2], x.shape[3])
        inputs = (x, *(getattr(self, "weight" if name == "W" else name) for name in self.names))
        shape, attributes = (x.shape[0], self.out_channels, height, width), ops.int8_attributes(self.geometry)
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.op_type}", inputs, attributes, dtype=x.dtype, shape=shape, version=OP_VERSION
        )


def put_in_nodes(net: fx.GraphModule, stand_in: fx.GraphModule) -> None:
    """Let ``stand_in``, which has the graph of ``net``, export the parts of the net that are in 8 bits."""
    for node, layer in list(calls(net, Int8Conv2d)):
        stand_in.add_submodule(str(node.target), _ConvNode(layer))
    for node, rounding in list(calls(net, Round8)):
        stand_in.add_submodule(str(node.target), _RoundNode(rounding))


def to_bytes(model: onnx.ModelProto) -> None:
    """Rewrite a model in place; one without ``Round8`` nodes stays as it is."""
    if any(node.op_type == ROUND and node.domain == DOMAIN for node in model.graph.node):
        nodes = _Rewrite(model.graph).nodes()
        del model.graph.node[:]
        model.graph.node.extend(nodes)


@dataclass
class _Tail:
    """What one operator on bytes does: a convolution, sum or average with what follows it, up to the rounding."""

    head: onnx.NodeProto
    residual: str | None = None
    clip: tuple[float, float] = (-NO_BOUND, NO_BOUND)
    absorbed: list[onnx.NodeProto] = field(default_factory=list)
    rounding: onnx.NodeProto | None = None


class _Rewrite:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph, self.given = graph, list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in self.given:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        values = [*graph.value_info, *graph.input, *graph.output]
        self.shapes = {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in values}
        self.results = {value.name for value in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.given:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.grids: dict[str, tuple[str, str]] = {}
        self.bytes: dict[str, str] = {}
        self.rounded: dict[tuple[str, tuple[str, str]], str] = {}
        self.floats = {value.name for value in graph.input} | set(self.constants) | {""}
        self.out: list[onnx.NodeProto] = []

    def nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes of the rewritten graph, in order."""
        self._find_grids()
        tails = [tail for node in self.given if (tail := self._tail(node)) is not None]
        by_rounding = {tail.rounding.output[0]: tail for tail in tails if tail.rounding is not None}
        by_head = {tail.head.output[0]: tail for tail in tails if tail.rounding is None}
        absorbed = {node.output[0] for tail in tails for node in tail.absorbed}
        absorbed |= {tail.head.output[0] for tail in tails if tail.rounding is not None}
        for node in self.given:
            name = node.output[0]
            if name in by_rounding:
                self._emit_bytes(by_rounding[name])
            elif name in by_head:
                self._emit_float(by_head[name])
            elif name not in absorbed:
                self._emit(node)
        for name in self.results:
            self._as_float(name)
        return self.out

    def _find_grids(self) -> None:
        """Find the values that lie on grids: rounded ones, and those that only pass such on."""
        for node in self.given:
            if node.op_type == ROUND:
                self.grids[node.output[0]] = node.input[1], node.input[2]
            elif node.op_type in ("MaxPool", "Reshape") and node.input[0] in self.grids:
                if node.op_type == "MaxPool" or self._is_row(node) is not None or self._keeps_shape(node):
                    self.grids[node.output[0]] = self.grids[node.input[0]]
            elif node.op_type == "Concat" and attribute_values(node)["axis"] == 1 and self._rank(node.output[0]) == 4:
                found = [self.grids.get(name) for name in node.input]
                if all(grid is not None and found[0] is not None and self._equal(grid, found[0]) for grid in found):
                    assert found[0] is not None
                    self.grids[node.output[0]] = found[0]

    def _rank(self, name: str) -> int:
        return len(self.shapes.get(name, ()))

    def _is_row(self, node: onnx.NodeProto) -> int | None:
        """Return the channels of planes of one pixel that a Reshape makes rows of, or of rows that it makes planes of."""
        given, made = self.shapes.get(node.input[0], []), self.shapes.get(node.output[0], [])
        planes, rows = (given, made) if len(given) == 4 else (made, given)
        one_pixel = len(planes) == 4 and len(rows) == 2 and isinstance(rows[1], int) and rows[1] > 0
        return rows[1] if one_pixel and rows[1] == planes[1] else None

    def _keeps_shape(self, node: onnx.NodeProto) -> bool:
        """Tell whether a Reshape gives planes of one pixel as they are."""
        given, made = self.shapes.get(node.input[0], []), self.shapes.get(node.output[0], [])
        return given == made and given[2:] == [1, 1]

    def _equal(self, a: tuple[str, str], b: tuple[str, str]) -> bool:
        pairs = zip(a, b, strict=True)
        return all(x == y or np.array_equal(self._value(x), self._value(y)) for x, y in pairs)

    def _value(self, name: str) -> Any:
        return numpy_helper.to_array(self.constants[name])

    def _tail(self, head: onnx.NodeProto) -> _Tail | None:
        """Return what follows a node that an operator on bytes can do, as far as it goes."""
        tail = _Tail(head)
        is_conv = head.op_type in ops.TO_BYTES
        is_sum = head.op_type == "Add" and all(name in self.grids and self._rank(name) == 4 for name in head.input)
        if is_sum and self.shapes[head.input[0]] == self.shapes[head.input[1]]:
            tail.residual = head.input[1]
        elif not is_conv and not self._is_average(head):
            return None
        value, clipped, flattened = head.output[0], False, False
        while len(self.readers.get(value, ())) == 1 and value not in self.results:
            node = self.readers[value][0]
            if node.op_type == ROUND:
                tail.rounding = node
                return tail
            if node.op_type == "Add" and is_conv and not (tail.residual or clipped or flattened):
                other = node.input[1] if node.input[0] == value else node.input[0]
                if other not in self.grids or self.shapes.get(other) != self.shapes.get(value):
                    break
                tail.residual = other
            elif node.op_type in ("Relu", "Clip") and not clipped and (clip := self._clip(node)) is not None:
                tail.clip, clipped = clip, True
            elif node.op_type == "Reshape" and is_conv and not flattened and self._rank(node.output[0]) == 2:
                if self._is_row(node) is None:
                    break
                flattened = True
            else:
                break
            tail.absorbed.append(node)
            value = node.output[0]
        if not is_conv:
            return None
        # What gives float32 does no more than a clip that follows at once.
        direct = tail.absorbed[:1] if tail.absorbed and tail.absorbed[0].op_type in ("Relu", "Clip") else []
        return _Tail(head, None, tail.clip if direct else _Tail(head).clip, direct)

    def _clip(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        if node.op_type == "Relu":
            return 0.0, NO_BOUND
        names = [*node.input[1:], "", ""][:2]
        if any(name and name not in self.constants for name in names):
            return None
        low, high = (
            float(self._value(name)) if name else bound for name, bound in zip(names, (-NO_BOUND, NO_BOUND), strict=True)
        )
        return low, high

    def _is_average(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "GlobalAveragePool":
            return node.input[0] in self.grids
        if node.op_type != "ReduceMean" or node.input[0] not in self.grids or self._rank(node.input[0]) != 4:
            return False
        return len(node.input) == 2 and node.input[1] in self.constants and sorted(self._value(node.input[1]) % 4) == [2, 3]

    def _emit_bytes(self, tail: _Tail) -> None:
        """Write a head with its tail as one operator that gives bytes."""
        head, rounding = tail.head, tail.rounding
        assert rounding is not None
        result, grid = rounding.output[0], (rounding.input[1], rounding.input[2])
        made = f"{result}{ops.BYTES}"
        if head.op_type in ops.TO_BYTES:
            inputs = [self._as_bytes(head.input[0], (head.input[1], head.input[2])), *head.input[1:], *grid]
            inputs += self._residual(tail.residual, made)
            node = self._node(ops.TO_BYTES[head.op_type], inputs, made, attribute_values(head) | _bounds(tail.clip), head.name)
        elif head.op_type == "Add":
            pairs = [(self._as_bytes(name, self.grids[name]), *self.grids[name]) for name in head.input]
            node = self._node(ops.BYTE_ADD, [*pairs[0], *pairs[1], *grid], made, _bounds(tail.clip))
        else:
            own = self.grids[head.input[0]]
            node = self._node(ops.BYTE_AVERAGE, [self._as_bytes(head.input[0], own), *own, *grid], made, {})
        self.bytes[result] = made
        if self._rank(result) == 2:
            node.output[0] = f"{made}/planes"
            self._reshape(node.output[0], made, [-1, int(self.shapes[result][1])])

    def _residual(self, name: str | None, made: str) -> list[str]:
        if name is not None:
            grid = self.grids[name]
            return [self._as_bytes(name, grid), *grid]
        # ONNX Runtime 1.18 crashes where it folds what bodies of two nodes compute of the same constants.
        given = {"residual": np.zeros(1, np.uint8), "r_scale": np.ones((), np.float32), "r_zero": np.zeros((), np.uint8)}
        return [self._constant(f"{made}/no_{key}", value) for key, value in given.items()]

    def _constant(self, name: str, value: Any) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
            self.graph.initializer.append(self.constants[name])
        return name

    def _emit_float(self, tail: _Tail) -> None:
        """Write a convolution that gives float32."""
        head = tail.head
        result = tail.absorbed[0].output[0] if tail.absorbed else head.output[0]
        inputs = [self._as_bytes(head.input[0], (head.input[1], head.input[2])), *head.input[1:]]
        self._node(head.op_type, inputs, result, attribute_values(head) | _bounds(tail.clip), head.name)
        self.floats.add(result)

    def _emit(self, node: onnx.NodeProto) -> None:
        """Write any other node: on bytes where it only passes them on, else on float32."""
        result = node.output[0]
        if node.op_type == ROUND:
            self._as_bytes(node.input[0], (node.input[1], node.input[2]), result)
        elif result in self.grids and self._pass_on(node):
            return
        elif node.op_type == "Shape" and node.input[0] in self.bytes and attribute_values(node).get("end") == 1:
            # The first axis counts images in both orders.
            node.input[0] = self.bytes[node.input[0]]
            self._keep(node)
        else:
            for name in node.input:
                self._as_float(name)
            self._keep(node)

    def _keep(self, node: onnx.NodeProto) -> None:
        self.out.append(node)
        self.floats.update(node.output)

    def _pass_on(self, node: onnx.NodeProto) -> bool:
        """Write a node that passes bytes on, if all of its inputs are bytes and an operator does it."""
        result, made = node.output[0], f"{node.output[0]}{ops.BYTES}"
        given = list(node.input) if node.op_type == "Concat" else [node.input[0]]
        if any(name not in self.bytes for name in given):
            return False
        if node.op_type == "MaxPool":
            if (values := pool_values(node)) is None:
                return False
            self._node(ops.BYTE_MAX_POOL, [self.bytes[node.input[0]]], made, values)
        elif node.op_type == "Concat":
            self._node("Concat", [self.bytes[name] for name in given], made, {"axis": 3}, domain="")
        elif self._keeps_shape(node):
            made = self.bytes[node.input[0]]
        else:
            channels = self._is_row(node)
            assert channels is not None
            sizes = [-1, channels] if self._rank(result) == 2 else [-1, 1, 1, channels]
            self._reshape(self.bytes[node.input[0]], made, sizes)
        self.bytes[result] = made
        return True

    def _as_bytes(self, value: str, grid: tuple[str, str], result: str = "") -> str:
        """Return the name of a value as bytes on a grid; where ``result`` is given, that value has these bytes."""
        if value in self.bytes and self._equal(self.grids[value], grid):
            made = self.bytes[value]
        elif (value, grid) in self.rounded:
            made = self.rounded[value, grid]
        else:
            self._as_float(value)
            made = f"{result or f'{value}/{grid[0]}'}{ops.BYTES}"
            if self._rank(value) == 4:
                self._node(ops.QUANTIZE, [value, *grid], made, {})
            else:
                self._node("QuantizeLinear", [value, *grid], made, {}, domain="")
            self.rounded[value, grid] = made
        if result:
            self.bytes[result] = made
        return made

    def _as_float(self, value: str) -> None:
        """See to it that a value is there as float32, under its own name."""
        if value in self.floats or value not in self.bytes:
            return
        inputs = [self.bytes[value], *self.grids[value]]
        if self._rank(value) == 4:
            self._node(ops.DEQUANTIZE, inputs, value, {})
        else:
            self._node("DequantizeLinear", inputs, value, {}, domain="")
        self.floats.add(value)

    def _reshape(self, value: str, made: str, sizes: Sequence[int]) -> None:
        shape = self._constant(f"shape{'_'.join(map(str, sizes))}", np.array(sizes, np.int64))
        self._node("Reshape", [value, shape], made, {}, f"{made}/reshape", "")

    def _node(
        self, op_type: str, inputs: Sequence[str], output: str, attributes: dict[str, Any], name: str = "", domain: str = DOMAIN
    ) -> onnx.NodeProto:
        self.out.append(helper.make_node(op_type, list(inputs), [output], name=name or output, domain=domain, **attributes))
        return self.out[-1]


def _bounds(clip: tuple[float, float]) -> dict[str, float]:
    return {"clip_min": clip[0], "clip_max": clip[1]}

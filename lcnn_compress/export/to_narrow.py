"""Keep a net in 8 bits or bfloat16 between its layers: rounding in float32 becomes operators on these narrow numbers.

torch's exporter gives planes of float32, convolutions that take narrow numbers and give float32, and nodes that round. Here a
convolution takes over the sum, clip and rounding that follow it, and gives narrow numbers in the order (N, H, W, C) to the next
one; where that one reads bfloat16, a convolution of bytes gives it. Poolings and the like pass them on. A layer that reads
numbers of another type than its own gets its own made of them. What has no operator on them gets float32, which is made where
it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from lcnn_compress.export.nodes import attribute_values
from lcnn_compress.export.pools import pool_values
from lcnn_compress.operators.bfloat16_conv import bfloat16_tensor
from lcnn_compress.operators.common import DOMAIN, NO_BOUND
from lcnn_compress.operators.narrow import HALVES, KIND_OF, Narrow


def to_narrow(model: onnx.ModelProto) -> None:
    """Rewrite a model in place; one in float32 stays as it is."""
    if any(node.op_type in KIND_OF and node.domain == DOMAIN for node in model.graph.node):
        nodes = _Rewrite(model.graph).nodes()
        del model.graph.node[:]
        model.graph.node.extend(nodes)


@dataclass(frozen=True)
class _Form:
    """Which narrow numbers a value is in: their type, and the constants that say what they stand for."""

    kind: Narrow
    grid: tuple[str, ...]


@dataclass
class _Tail:
    """What one operator on narrow numbers does: a convolution, sum or average with what follows it, up to the rounding."""

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
        self.forms: dict[str, _Form] = {}
        self.narrow: dict[str, str] = {}
        self.rounded: dict[tuple[str, str, tuple[str, ...]], str] = {}
        self.floats = {value.name for value in graph.input} | set(self.constants) | {""}
        self.out: list[onnx.NodeProto] = []

    def nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes of the rewritten graph, in order."""
        self._find_forms()
        tails = [tail for node in self.given if (tail := self._tail(node)) is not None]
        by_rounding = {tail.rounding.output[0]: tail for tail in tails if tail.rounding is not None}
        by_head = {tail.head.output[0]: tail for tail in tails if tail.rounding is None}
        absorbed = {node.output[0] for tail in tails for node in tail.absorbed}
        absorbed |= {tail.head.output[0] for tail in tails if tail.rounding is not None}
        for node in self.given:
            name = node.output[0]
            if name in by_rounding:
                self._emit_narrow(by_rounding[name])
            elif name in by_head:
                self._emit_float(by_head[name])
            elif name not in absorbed:
                self._emit(node)
        for name in self.results:
            self._as_float(name)
        return self.out

    def _find_forms(self) -> None:
        """Find the values that are in narrow numbers: rounded ones, and those that only pass such on."""
        for node in self.given:
            if (form := self._rounds_to(node)) is not None:
                self.forms[node.output[0]] = form
            elif node.op_type in ("MaxPool", "Reshape") and node.input[0] in self.forms:
                if node.op_type == "MaxPool" or self._is_row(node) is not None or self._keeps_shape(node):
                    self.forms[node.output[0]] = self.forms[node.input[0]]
            elif node.op_type == "Concat" and attribute_values(node)["axis"] == 1 and self._rank(node.output[0]) == 4:
                found = [self.forms.get(name) for name in node.input]
                if all(form is not None and found[0] is not None and self._equal(form, found[0]) for form in found):
                    assert found[0] is not None
                    self.forms[node.output[0]] = found[0]

    @staticmethod
    def _rounds_to(node: onnx.NodeProto) -> _Form | None:
        """Return the form that a node rounds to, or None for any other node."""
        kind = KIND_OF.get(node.op_type)
        return _Form(kind, tuple(node.input[1:])) if kind is not None and node.op_type == kind.rounding else None

    @staticmethod
    def _read_by(conv: onnx.NodeProto) -> _Form:
        """Return the form that a convolution reads."""
        kind = KIND_OF[conv.op_type]
        return _Form(kind, tuple(conv.input[1 : 1 + kind.grid]))

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

    def _equal(self, a: _Form, b: _Form) -> bool:
        if a.kind is not b.kind:
            return False
        return all(x == y or np.array_equal(self._value(x), self._value(y)) for x, y in zip(a.grid, b.grid, strict=True))

    def _is(self, value: str, kind: Narrow) -> bool:
        return value in self.forms and self.forms[value].kind is kind

    def _value(self, name: str) -> Any:
        return numpy_helper.to_array(self.constants[name])

    def _tail(self, head: onnx.NodeProto) -> _Tail | None:
        """Return what follows a node that an operator on narrow numbers can do, as far as it goes."""
        tail, kind = _Tail(head), self._kind_of_head(head)
        if kind is None:
            return None
        is_conv = head.op_type in kind.inputs
        value, clipped, flattened = head.output[0], False, False
        while len(self.readers.get(value, ())) == 1 and value not in self.results:
            node = self.readers[value][0]
            if (form := self._rounds_to(node)) is not None:
                if form.kind is not kind and (tail.residual or form.kind is not HALVES or head.op_type not in kind.to_bfloat16):
                    break
                tail.rounding = node
                return tail
            if node.op_type == "Add" and is_conv and not (tail.residual or clipped or flattened):
                other = node.input[1] if node.input[0] == value else node.input[0]
                if not self._is(other, kind) or self.shapes.get(other) != self.shapes.get(value):
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

    def _kind_of_head(self, node: onnx.NodeProto) -> Narrow | None:
        """Return the numbers that an operator convolves, adds or averages in place of a node, or None."""
        if (kind := KIND_OF.get(node.op_type)) is not None:
            return kind if node.op_type in kind.inputs else None
        read = self.forms.get(node.input[0]) if node.input else None
        if read is None:
            return None
        if node.op_type == "Add":
            alike = all(self._is(name, read.kind) and self._rank(name) == 4 for name in node.input)
            return read.kind if alike and read.kind.add and self._same_shape(node.input) else None
        return read.kind if read.kind.average and self._is_average(node) else None

    def _same_shape(self, names: Sequence[str]) -> bool:
        return self.shapes[names[0]] == self.shapes[names[1]]

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
            return True
        if node.op_type != "ReduceMean" or self._rank(node.input[0]) != 4:
            return False
        return len(node.input) == 2 and node.input[1] in self.constants and sorted(self._value(node.input[1]) % 4) == [2, 3]

    def _emit_narrow(self, tail: _Tail) -> None:
        """Write a head with its tail as one operator that gives narrow numbers."""
        head, rounding = tail.head, tail.rounding
        assert rounding is not None
        form = self._rounds_to(rounding)
        assert form is not None
        kind, grid, result = form.kind, form.grid, rounding.output[0]
        made, own = f"{result}{kind.suffix}", KIND_OF.get(head.op_type)
        if own is not None:
            inputs = [self._as_narrow(head.input[0], self._read_by(head)), *head.input[1:]]
            if own is kind:
                inputs += [*grid, *self._residual(tail.residual, made, kind)]
            op_type = (own.narrowed if own is kind else own.to_bfloat16)[head.op_type]
            node = self._node(op_type, inputs, made, attribute_values(head) | _bounds(tail.clip), head.name)
        elif head.op_type == "Add":
            assert kind.add is not None
            pairs = [self._with_grid(name) for name in head.input]
            node = self._node(kind.add, [*pairs[0], *pairs[1], *grid], made, _bounds(tail.clip))
        else:
            assert kind.average is not None
            node = self._node(kind.average, [*self._with_grid(head.input[0]), *grid], made, {})
        self.narrow[result] = made
        if self._rank(result) == 2:
            node.output[0] = f"{made}/planes"
            self._reshape(node.output[0], made, [-1, int(self.shapes[result][1])])

    def _with_grid(self, value: str) -> list[str]:
        form = self.forms[value]
        return [self._as_narrow(value, form), *form.grid]

    def _residual(self, name: str | None, made: str, kind: Narrow) -> list[str]:
        if name is not None:
            return self._with_grid(name)
        # ONNX Runtime 1.18 crashes where it folds what bodies of two nodes compute of the same constants.
        if kind is HALVES:
            return [self._constant(bfloat16_tensor(f"{made}/no_residual", np.zeros(1)))]
        given: dict[str, NDArray[Any]] = {
            "residual": np.zeros(1, np.uint8),
            "r_scale": np.ones((), np.float32),
            "r_zero": np.zeros((), np.uint8),
        }
        return [self._constant(numpy_helper.from_array(value, f"{made}/no_{key}")) for key, value in given.items()]

    def _constant(self, tensor: onnx.TensorProto) -> str:
        if tensor.name not in self.constants:
            self.constants[tensor.name] = tensor
            self.graph.initializer.append(tensor)
        return str(tensor.name)

    def _emit_float(self, tail: _Tail) -> None:
        """Write a convolution that gives float32."""
        head = tail.head
        result = tail.absorbed[0].output[0] if tail.absorbed else head.output[0]
        inputs = [self._as_narrow(head.input[0], self._read_by(head)), *head.input[1:]]
        self._node(head.op_type, inputs, result, attribute_values(head) | _bounds(tail.clip), head.name)
        self.floats.add(result)

    def _emit(self, node: onnx.NodeProto) -> None:
        """Write any other node: on narrow numbers where it only passes them on, else on float32."""
        result = node.output[0]
        if (form := self._rounds_to(node)) is not None:
            self._as_narrow(node.input[0], form, result)
        elif result in self.forms and self._pass_on(node):
            return
        elif node.op_type == "Shape" and node.input[0] in self.narrow and attribute_values(node).get("end") == 1:
            # The first axis counts images in both orders.
            node.input[0] = self.narrow[node.input[0]]
            self._keep(node)
        else:
            for name in node.input:
                self._as_float(name)
            self._keep(node)

    def _keep(self, node: onnx.NodeProto) -> None:
        self.out.append(node)
        self.floats.update(node.output)

    def _pass_on(self, node: onnx.NodeProto) -> bool:
        """Write a node that passes narrow numbers on, if all of its inputs are there in them and an operator does it."""
        result, kind = node.output[0], self.forms[node.output[0]].kind
        made, given = f"{result}{kind.suffix}", list(node.input) if node.op_type == "Concat" else [node.input[0]]
        if any(name not in self.narrow for name in given):
            return False
        if node.op_type == "MaxPool":
            if (values := pool_values(node)) is None:
                return False
            self._node(kind.max_pool, [self.narrow[node.input[0]]], made, values)
        elif node.op_type == "Concat":
            self._node("Concat", [self.narrow[name] for name in given], made, {"axis": 3}, domain="")
        elif self._keeps_shape(node):
            made = self.narrow[node.input[0]]
        else:
            channels = self._is_row(node)
            assert channels is not None
            sizes = [-1, channels] if self._rank(result) == 2 else [-1, 1, 1, channels]
            self._reshape(self.narrow[node.input[0]], made, sizes)
        self.narrow[result] = made
        return True

    def _as_narrow(self, value: str, form: _Form, result: str = "") -> str:
        """Return the name of a value in narrow numbers; where ``result`` is given, that value has these numbers."""
        kind, key = form.kind, (value, form.kind.name, form.grid)
        if value in self.narrow and self._equal(self.forms[value], form):
            made = self.narrow[value]
        elif key in self.rounded:
            made = self.rounded[key]
        else:
            made = f"{result or '/'.join((value, *form.grid[:1]))}{kind.suffix}"
            if value in self.narrow and self.forms[value].kind is not kind:
                self._node(kind.from_other, [self.narrow[value], *self.forms[value].grid, *form.grid], made, {})
            elif self._rank(value) == 4:
                self._node(kind.from_float, [self._as_float(value), *form.grid], made, {})
            else:
                op_type, attributes = kind.rows_from_float
                self._node(op_type, [self._as_float(value), *form.grid], made, dict(attributes), domain="")
            self.rounded[key] = made
        if result:
            self.narrow[result] = made
        return made

    def _as_float(self, value: str) -> str:
        """See to it that a value is there as float32, under its own name, and return that."""
        if value in self.floats or value not in self.narrow:
            return value
        form = self.forms[value]
        inputs = [self.narrow[value], *form.grid]
        if self._rank(value) == 4:
            self._node(form.kind.to_float, inputs, value, {})
        else:
            op_type, attributes = form.kind.rows_to_float
            self._node(op_type, inputs, value, dict(attributes), domain="")
        self.floats.add(value)
        return value

    def _reshape(self, value: str, made: str, sizes: Sequence[int]) -> None:
        shape = self._constant(numpy_helper.from_array(np.array(sizes, np.int64), f"shape{'_'.join(map(str, sizes))}"))
        self._node("Reshape", [value, shape], made, {}, f"{made}/reshape", "")

    def _node(
        self, op_type: str, inputs: Sequence[str], output: str, attributes: dict[str, Any], name: str = "", domain: str = DOMAIN
    ) -> onnx.NodeProto:
        self.out.append(helper.make_node(op_type, list(inputs), [output], name=name or output, domain=domain, **attributes))
        return self.out[-1]


def _bounds(clip: tuple[float, float]) -> dict[str, float]:
    return {"clip_min": clip[0], "clip_max": clip[1]}

"""The forms a layer can have, as they are timed: a model in which all forms of one shape read the same input. No torch.

What a layer costs depends on how many rows and lookups it has and not on their values, so that factors are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress.export.rewrite import matrix_product, split_full
from lcnn_compress.forms.kinds import LOOKUP, SPARSE, settled
from lcnn_compress.operators.bfloat16_conv import bfloat16_tensor
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.geometry import ConvGeometry, lookup_macs
from lcnn_compress.operators.lookup_conv import OP_TYPE, node_attributes
from lcnn_compress.operators.narrow import BYTES, HALVES, KINDS, Narrow, bodies
from lcnn_compress.operators.nhwc import narrow_attributes

# ``Factors`` hold a model's constants by name.
Factors = dict[str, np.ndarray[Any, Any]]
# Grids of bytes: what they stand for makes no difference to how long anything takes.
_BYTE_CONSTANTS: Factors = {
    "scale": np.array(0.02, np.float32), "zero": np.array(128, np.uint8), "no_residual": np.full(1, 128, np.uint8),
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A layer as it is timed: its channels and geometry, the (height, width) of its input and the images of one call.

    A ``linear`` layer is a matrix product where it is not a lookup; its filters cover the plane.
    """

    in_channels: int
    out_channels: int
    geometry: ConvGeometry
    size: tuple[int, int]
    batch: int = 1
    linear: bool = False

    @property
    def weights(self) -> int:
        """The number of values in the ordinary convolution's weight."""
        return self.out_channels * self.in_channels // self.geometry.groups * self.geometry.taps

    @property
    def key(self) -> str:
        """The shape as text."""
        g = self.geometry
        convolution = (g.kernel, g.stride, g.padding, g.dilation, g.groups)
        parts = (self.in_channels, self.out_channels, *convolution, self.size, self.batch, int(self.linear))
        return " ".join(",".join(map(str, p)) if isinstance(p, tuple) else str(p) for p in parts)


@dataclass(frozen=True, order=True)
class LookupForm:
    """One way to code a layer: ``rows`` of the dictionary for each group, 0 for an identity; ``nonzeros`` of all filters.

    ``filters_per_pattern`` neighbouring filters have the same pattern.
    """

    rows: int
    nonzeros: int
    filters_per_pattern: int = 1

    @property
    def key(self) -> str:
        """The form as text."""
        return f"{self.rows} {self.nonzeros} {self.filters_per_pattern}"


@dataclass(frozen=True, order=True)
class NarrowForm:
    """A layer in 8 bits or bfloat16 with every coefficient: ``rows`` of the dictionary for each group, 0 without one."""

    arithmetic: str
    rows: int

    @property
    def key(self) -> str:
        """The form as text."""
        return f"{self.arithmetic} {self.rows}"


@dataclass(frozen=True, order=True)
class Rounding:
    """No form of a layer but the step that makes 8 bits or bfloat16 of its input."""

    arithmetic: str

    @property
    def key(self) -> str:
        """The step as text."""
        return f"{self.arithmetic} input"


class OrdinaryForm(Enum):
    """The form of a layer left as it is; the only value of an enum, so that ``is`` tells it from others."""

    # Files of times hold the ordinary form under this key, which no lookups can have.
    ORDINARY = "-1 0 1"

    @property
    def key(self) -> str:
        """The form as text."""
        return self.value


ORDINARY: Final = OrdinaryForm.ORDINARY
Form = LookupForm | NarrowForm | Rounding | OrdinaryForm
NARROW = {kind.name: kind for kind in KINDS}


def form_macs(shape: Shape, form: Form) -> int:
    """Return the MACs of a form for one image."""
    match form:
        case LookupForm(rows, nonzeros):
            pass
        case NarrowForm(_, rows):
            nonzeros = shape.out_channels * shape.geometry.taps * rows or shape.weights
        case _:
            rows, nonzeros = 0, shape.weights
    return lookup_macs(shape.in_channels, rows, nonzeros, shape.geometry, shape.size)


def forms_model(shape: Shape, forms: Sequence[Form]) -> onnx.ModelProto:
    """Return a model in which every form, with random factors, reads the same input; node i is forms[i].

    Forms in 8 bits or bfloat16 read what a node makes of that input, a ``Rounding`` if it is among the forms. Only the first
    value of what a form gives leaves the model, so that the next one writes to the same memory, as in a net.
    """
    nodes: list[onnx.NodeProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    constants: Factors = {
        "residual": np.zeros(1, np.float32), "bias": np.zeros(shape.out_channels, np.float32),
        **{f"start{n}": np.zeros(n, np.int64) for n in (2, 4)}, **{f"end{n}": np.ones(n, np.int64) for n in (2, 4)},
        "features": np.array([-1, shape.out_channels], np.int64), **_BYTE_CONSTANTS,
    }  # fmt: skip
    narrow_tensors: list[onnx.TensorProto] = [bfloat16_tensor("zero_half", np.zeros(1, np.float32))]
    for arithmetic in dict.fromkeys(form.arithmetic for form in forms if isinstance(form, NarrowForm)):
        if Rounding(arithmetic) not in forms:
            nodes.append(_rounding(arithmetic, f"rounding to {arithmetic}"))
    for i, form in enumerate(forms):
        n_dims, kind, result = 4, TensorProto.FLOAT, f"Y{i}"
        match form:
            case Rounding(arithmetic):
                nodes.append(_rounding(arithmetic, str(i)))
                kind, result = _TYPES[arithmetic], _input(arithmetic)
            case NarrowForm(arithmetic, rows):
                made, tensors = _narrow(shape, NARROW[arithmetic], rows, i)
                nodes.append(made)
                narrow_tensors += tensors
                kind = _TYPES[arithmetic]
            case _:
                parts, weights = _lookup(shape, form, i) if isinstance(form, LookupForm) else _ordinary(shape, i)
                nodes += parts
                constants |= weights
                if shape.linear:
                    nodes.append(helper.make_node("Reshape", [result, "features"], [f"features{i}"]))
                    n_dims, result = 2, f"features{i}"
        first = f"first{i}" if kind != TensorProto.BFLOAT16 else f"half{i}"
        nodes.append(helper.make_node("Slice", [result, f"start{n_dims}", f"end{n_dims}"], [first], name=first))
        if kind == TensorProto.BFLOAT16:  # numpy has no such type
            nodes.append(helper.make_node("Cast", [first], [f"first{i}"], to=TensorProto.FLOAT))
            kind = TensorProto.FLOAT
        outputs.append(helper.make_tensor_value_info(f"first{i}", kind, [1] * n_dims))
    entry = helper.make_tensor_value_info("X", TensorProto.FLOAT, (shape.batch, shape.in_channels, *shape.size))
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()] + narrow_tensors
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    graph = helper.make_graph(nodes, "forms", [entry], outputs, tensors)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    split_full(model, {str(i) for i, form in enumerate(forms) if isinstance(form, LookupForm) and _is_full(shape, form)})
    model.functions.extend(bodies(model))
    return model


_TYPES = {BYTES.name: TensorProto.UINT8, HALVES.name: TensorProto.BFLOAT16}


def _input(arithmetic: str) -> str:
    return f"X{NARROW[arithmetic].suffix}"


def _rounding(arithmetic: str, name: str) -> onnx.NodeProto:
    grid = ["scale", "zero"][: NARROW[arithmetic].grid]
    return helper.make_node(NARROW[arithmetic].from_float, ["X", *grid], [_input(arithmetic)], name=name, domain=DOMAIN)


def _narrow(shape: Shape, kind: Narrow, rows: int, i: int) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """Return the node and constants of a narrow layer with random factors, on one dictionary for each group or on none."""
    rng = np.random.default_rng(0)
    groups, m = shape.geometry.groups, shape.in_channels // shape.geometry.groups
    with_rows = {plain: op_type for op_type, plain in kind.without_dictionary.items()}
    plain = next(op_type for op_type in with_rows if op_type in kind.narrowed.values())
    op_type = with_rows[plain] if rows else plain
    sizes = {"W": (shape.out_channels, *shape.geometry.kernel, rows or m), "D": (groups * rows, m)}
    scales = {"w_scale": shape.out_channels, "d_scale": groups * rows}
    common = {
        "X": _input(kind.name), "x_scale": "scale", "x_zero_point": "zero", "bias": "bias", "y_scale": "scale",
        "y_zero_point": "zero", "residual": "no_residual" if kind is BYTES else "zero_half", "r_scale": "scale",
        "r_zero_point": "zero",
    }  # fmt: skip
    inputs = kind.inputs[op_type]
    tensors = [
        _random(f"{i}.{key}", sizes[key], kind, rng)
        if key in sizes
        else numpy_helper.from_array(np.full(scales[key], 1e-3, np.float32), f"{i}.{key}")
        for key in inputs
        if key not in common
    ]
    names = [common.get(key, f"{i}.{key}") for key in inputs]
    node = helper.make_node(op_type, names, [f"Y{i}"], name=str(i), domain=DOMAIN, **narrow_attributes(shape.geometry))
    return node, tensors


def _random(name: str, sizes: tuple[int, ...], kind: Narrow, rng: np.random.Generator) -> onnx.TensorProto:
    if kind is BYTES:
        # Neighbours are small enough together, as in nets (``forms.whole_weights``).
        return numpy_helper.from_array(rng.integers(-64, 65, sizes).astype(np.int8), name)
    return bfloat16_tensor(name, rng.standard_normal(sizes, np.float32))


def _is_full(shape: Shape, form: LookupForm) -> bool:
    slots = shape.out_channels * shape.geometry.taps * form.rows
    channels = shape.in_channels // shape.geometry.groups
    kind = SPARSE if form.rows == 0 else LOOKUP
    return settled(kind, nonzeros=form.nonzeros, slots=slots, dictionary_size=form.rows, channels=channels).is_full


def _ordinary(shape: Shape, i: int) -> tuple[list[onnx.NodeProto], Factors]:
    """Return the nodes and constants of the layer as it is, with a random weight."""
    size = (shape.out_channels, shape.in_channels // shape.geometry.groups, *shape.geometry.kernel)
    weight = np.random.default_rng(0).standard_normal(size, np.float32)
    inputs = ["X", f"{i}.weight", "bias"]
    if shape.linear:
        return matrix_product(inputs, f"Y{i}", str(i)), {f"{i}.weight": weight}
    attributes = node_attributes(shape.geometry)
    plain = {key: attributes[key] for key in ("kernel_shape", "strides", "pads", "dilations", "group")}
    return [helper.make_node("Conv", inputs, [f"Y{i}"], name=str(i), **plain)], {f"{i}.weight": weight}


def _lookup(shape: Shape, form: LookupForm, i: int) -> tuple[list[onnx.NodeProto], Factors]:
    """Return the node and constants of a lookup convolution with random factors."""
    names = [f"{i}.D", f"{i}.gaps", f"{i}.coefficients"]
    constants = dict(zip(names, _random_factors(shape, form), strict=True))
    inputs = ["X", *names, "bias", "residual"]
    node = helper.make_node(OP_TYPE, inputs, [f"Y{i}"], name=str(i), domain=DOMAIN, **node_attributes(shape.geometry))
    return [node], constants


def _random_factors(shape: Shape, form: LookupForm) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    groups, m = shape.geometry.groups, shape.in_channels // shape.geometry.groups
    size = form.rows or m
    dictionary = rng.standard_normal((groups * size, m)) if form.rows else np.tile(np.eye(m), (groups, 1))
    kernel = np.zeros((shape.out_channels, size, *shape.geometry.kernel), np.float32)
    blocks = -(-shape.out_channels // form.filters_per_pattern)
    used = np.zeros(blocks * (kernel.size // shape.out_channels), bool)
    used[rng.choice(used.size, min(used.size, -(-form.nonzeros // form.filters_per_pattern)), replace=False)] = True
    pattern = used.reshape(blocks, -1).repeat(form.filters_per_pattern, axis=0)[: shape.out_channels].reshape(kernel.shape)
    kernel[pattern] = rng.uniform(0.5, 1.5, pattern.sum()) * rng.choice((-1, 1), pattern.sum())
    gaps, coefficients = encode_positions(kernel)
    return dictionary.astype(np.float16), gaps, coefficients.astype(np.float16)

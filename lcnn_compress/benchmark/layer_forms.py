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
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.geometry import ConvGeometry, lookup_macs
from lcnn_compress.operators.int8_conv import INPUTS, QLINEAR_CONV, QLINEAR_LOOKUP, QUANTIZE, bodies, int8_attributes
from lcnn_compress.operators.lookup_conv import OP_TYPE, node_attributes

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
class ByteForm:
    """A layer in 8 bits with every coefficient: ``rows`` of the dictionary for each group, 0 without one."""

    rows: int

    @property
    def key(self) -> str:
        """The form as text."""
        return f"int8 {self.rows}"


class PlainForm(Enum):
    """Forms of a layer that have no numbers of their own; values of an enum, so that ``is`` tells them from others.

    ``ORDINARY`` is the layer left as it is. ``ROUNDING`` is no form of it but the step that makes 8 bits of its input.
    """

    # Files of times hold these keys, which no lookups can have.
    ORDINARY = "-1 0 1"
    ROUNDING = "-1 8 1"

    @property
    def key(self) -> str:
        """The form as text."""
        return self.value


ORDINARY: Final = PlainForm.ORDINARY
ROUNDING: Final = PlainForm.ROUNDING
Form = LookupForm | ByteForm | PlainForm


def form_macs(shape: Shape, form: Form) -> int:
    """Return the MACs of a form for one image."""
    match form:
        case LookupForm(rows, nonzeros):
            pass
        case ByteForm(rows):
            nonzeros = shape.out_channels * shape.geometry.taps * rows or shape.weights
        case _:
            rows, nonzeros = 0, shape.weights
    return lookup_macs(shape.in_channels, rows, nonzeros, shape.geometry, shape.size)


def forms_model(shape: Shape, forms: Sequence[Form]) -> onnx.ModelProto:
    """Return a model in which every form, with random factors, reads the same input; node i is forms[i].

    Forms in 8 bits read what a node makes of that input, ``ROUNDING`` if it is among them. Only the first value of what a form
    gives leaves the model, so that the next one writes to the same memory, as in a net.
    """
    nodes: list[onnx.NodeProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    constants: Factors = {
        "residual": np.zeros(1, np.float32), "bias": np.zeros(shape.out_channels, np.float32),
        **{f"start{n}": np.zeros(n, np.int64) for n in (2, 4)}, **{f"end{n}": np.ones(n, np.int64) for n in (2, 4)},
        "features": np.array([-1, shape.out_channels], np.int64), **_BYTE_CONSTANTS,
    }  # fmt: skip
    if ROUNDING not in forms and any(isinstance(form, ByteForm) for form in forms):
        nodes.append(_rounding("rounding"))
    for i, form in enumerate(forms):
        if form is ROUNDING:
            nodes.append(_rounding(str(i)))
            n_dims, kind, result = 4, TensorProto.UINT8, "X8"
        else:
            made, weights = _form_nodes(shape, form, i)
            nodes += made
            constants |= weights
            n_dims, kind, result = 4, TensorProto.UINT8 if isinstance(form, ByteForm) else TensorProto.FLOAT, f"Y{i}"
            if shape.linear and not isinstance(form, ByteForm):
                nodes.append(helper.make_node("Reshape", [result, "features"], [f"features{i}"]))
                n_dims, result = 2, f"features{i}"
        nodes.append(helper.make_node("Slice", [result, f"start{n_dims}", f"end{n_dims}"], [f"first{i}"], name=f"first{i}"))
        outputs.append(helper.make_tensor_value_info(f"first{i}", kind, [1] * n_dims))
    entry = helper.make_tensor_value_info("X", TensorProto.FLOAT, (shape.batch, shape.in_channels, *shape.size))
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    graph = helper.make_graph(nodes, "forms", [entry], outputs, tensors)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    split_full(model, {str(i) for i, form in enumerate(forms) if isinstance(form, LookupForm) and _is_full(shape, form)})
    model.functions.extend(bodies(model))
    return model


def _rounding(name: str) -> onnx.NodeProto:
    return helper.make_node(QUANTIZE, ["X", "scale", "zero"], ["X8"], name=name, domain=DOMAIN)


def _form_nodes(shape: Shape, form: Form, i: int) -> tuple[list[onnx.NodeProto], Factors]:
    match form:
        case LookupForm():
            return _lookup(shape, form, i)
        case ByteForm(rows):
            return _in_bytes(shape, rows, i)
        case _:
            return _ordinary(shape, i)


def _in_bytes(shape: Shape, rows: int, i: int) -> tuple[list[onnx.NodeProto], Factors]:
    """Return the node and constants of a layer in 8 bits with random factors, on one dictionary for each group or on none."""
    rng = np.random.default_rng(0)
    groups, m = shape.geometry.groups, shape.in_channels // shape.geometry.groups
    op_type = QLINEAR_LOOKUP if rows else QLINEAR_CONV

    def whole(*sizes: int) -> np.ndarray[Any, Any]:
        return rng.integers(-127, 128, sizes).astype(np.int8)

    own: Factors = {
        "W": whole(shape.out_channels, *shape.geometry.kernel, rows or m),
        "w_scale": np.full(shape.out_channels, 1e-3, np.float32),
    }
    if rows:
        own |= {"D": whole(groups * rows, m), "d_scale": np.full(groups * rows, 1e-3, np.float32)}
    common = {
        "X": "X8", "x_scale": "scale", "x_zero_point": "zero", "bias": "bias", "y_scale": "scale", "y_zero_point": "zero",
        "residual": "no_residual", "r_scale": "scale", "r_zero_point": "zero",
    }  # fmt: skip
    names = common | {key: f"{i}.{key}" for key in own}
    inputs = [names[key] for key in INPUTS[op_type]]
    node = helper.make_node(op_type, inputs, [f"Y{i}"], name=str(i), domain=DOMAIN, **int8_attributes(shape.geometry))
    return [node], {names[key]: value for key, value in own.items()}


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

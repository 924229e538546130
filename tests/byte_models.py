"""Operators on bytes as ONNX files, and their definition in plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress.forms.whole_weights import fitted
from lcnn_compress.operators import int8_conv as ops
from lcnn_compress.operators import narrow
from lcnn_compress.operators.common import DOMAIN, NO_BOUND, OP_VERSION, OPSET
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.operators.nhwc import narrow_attributes

_PADDED = ConvGeometry((3, 3), padding=(1, 1, 1, 1))


@dataclass(frozen=True)
class ByteCase:
    """A convolution of bytes: sizes, grids and how its constants are drawn."""

    name: str
    channels: int
    filters: int
    size: tuple[int, int]
    geometry: ConvGeometry = _PADDED
    rows: int = 0  # of the dictionary of a group
    batch: int = 1
    x_zero: int = 0
    y_zero: int = 0
    residual: bool = False
    clip: tuple[float, float] = (-NO_BOUND, NO_BOUND)
    density: float = 1.0
    y_scale: float = 0.1
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    def constants(self) -> dict[str, np.ndarray]:
        """Return the constants of the operator by the names of its inputs."""
        rng, groups = np.random.default_rng(self.seed), self.geometry.groups
        k = self.rows or self.channels // groups
        weight = rng.integers(-127, 128, (self.filters, *self.geometry.kernel, k)).astype(np.int8)
        weight[rng.random(weight.shape) >= self.density] = 0
        scalar = np.float32
        found = {
            "x_scale": scalar(0.05), "x_zero_point": np.uint8(self.x_zero),
            "W": weight, "w_scale": rng.uniform(1e-3, 2e-3, self.filters).astype(np.float32),
            "bias": rng.normal(0, 1, self.filters).astype(np.float32),
            "y_scale": scalar(self.y_scale), "y_zero_point": np.uint8(self.y_zero),
            "r_scale": scalar(0.07), "r_zero_point": np.uint8(11),
        }  # fmt: skip
        if self.rows:
            rows = rng.integers(-127, 128, (groups * self.rows, self.channels // groups)).astype(np.float32)
            # ONNX Runtime itself computes S in bytes, too: on AVX2 it adds two products in 16 bits, which only such rows fit.
            rows = fitted(torch.from_numpy(rows)).numpy().astype(np.int8)
            found |= {"D": rows, "d_scale": rng.uniform(5e-3, 1e-2, len(rows)).astype(np.float32)}
        return found | {name: np.asarray(value) for name, value in self.changes.items()}

    def inputs(self) -> dict[str, np.ndarray]:
        """Return X and, if there is one, the residual."""
        rng = np.random.default_rng(self.seed + 1)
        found = {"X": rng.integers(0, 256, (self.batch, *self.size, self.channels)).astype(np.uint8)}
        if self.residual:
            found["residual"] = rng.integers(0, 256, (self.batch, *self.geometry.output_size(*self.size), self.filters)).astype(
                np.uint8
            )
        return found

    def op_type(self, *, to_bytes: bool) -> str:
        if to_bytes:
            return ops.QLINEAR_LOOKUP if self.rows else ops.QLINEAR_CONV
        return ops.LOOKUP_TO_FLOAT if self.rows else ops.CONV_TO_FLOAT

    def model(self, *, to_bytes: bool) -> bytes:
        """Return the operator as a file."""
        op_type, held = self.op_type(to_bytes=to_bytes), self.constants()
        names = list(ops.INPUTS[op_type])
        if to_bytes and not self.residual:
            held.setdefault("residual", np.array([11], np.uint8))  # adds nothing
        attributes = narrow_attributes(self.geometry) | {"clip_min": self.clip[0], "clip_max": self.clip[1]}
        node = helper.make_node(op_type, names, ["Y"], name="the-conv", domain=DOMAIN, **attributes)
        given = ["X", *(["residual"] if to_bytes and self.residual else [])]
        return file_of(node, given, {name: held[name] for name in names if name not in given}, to_bytes=to_bytes)

    def expected(self, *, to_bytes: bool) -> np.ndarray:
        """Return the result by the definition: whole numbers, one rounding to float32 where it says so."""
        held, x = self.constants(), self.inputs()["X"].astype(np.int64) - self.x_zero
        groups = self.geometry.groups
        factor = held["x_scale"].astype(np.float64) * held["w_scale"].astype(np.float64)
        if self.rows:
            one = ConvGeometry((1, 1), groups=groups)
            sums = convolved(x, held["D"].reshape(len(held["D"]), 1, 1, -1), one)
            steps = (held["x_scale"].astype(np.float64) * held["d_scale"].astype(np.float64)).astype(np.float32)
            x = np.clip(np.rint(sums.astype(np.float32) * steps), -128, 127).astype(np.int64)
            factor = held["w_scale"].astype(np.float64)
        sums = convolved(x, held["W"], self.geometry)
        y_scale = held["y_scale"].astype(np.float64) if to_bytes else 1.0
        bias = (held["bias"].astype(np.float64) / y_scale).astype(np.float32)
        v = fused(sums.astype(np.float32), (factor / y_scale).astype(np.float32), bias)
        if to_bytes and self.residual:
            added = (self.inputs()["residual"].astype(np.int64) - held["r_zero_point"]).astype(np.float32)
            v = fused(added, np.float32(held["r_scale"].astype(np.float64) / y_scale), v)
        with np.errstate(over="ignore"):
            low, high = (np.float32(np.float64(bound) / y_scale) for bound in self.clip)
        v = np.minimum(np.maximum(v, low), high)
        if not to_bytes:
            return v.transpose(0, 3, 1, 2)
        return np.clip(np.rint(v.astype(np.float64)) + self.y_zero, 0, 255).astype(np.uint8)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return a * b + c with one rounding to float32: products of two float32 are exact in float64."""
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)


def convolved(x: np.ndarray, weight: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Convolve x (N, H, W, C) with weights (O, kH, kW, K) in whole numbers."""
    top, left, bottom, right = geometry.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    height = (x.shape[1] - (geometry.kernel[0] - 1) * geometry.dilation[0] - 1) // geometry.stride[0] + 1
    width = (x.shape[2] - (geometry.kernel[1] - 1) * geometry.dilation[1] - 1) // geometry.stride[1] + 1
    out = np.zeros((len(x), height, width, len(weight)), np.int64)
    m, filters = weight.shape[3], len(weight) // geometry.groups
    for g in range(geometry.groups):
        own, channels = slice(g * filters, (g + 1) * filters), slice(g * m, (g + 1) * m)
        for r in range(geometry.kernel[0]):
            for c in range(geometry.kernel[1]):
                first = r * geometry.dilation[0], c * geometry.dilation[1]
                rows = slice(first[0], first[0] + (height - 1) * geometry.stride[0] + 1, geometry.stride[0])
                columns = slice(first[1], first[1] + (width - 1) * geometry.stride[1] + 1, geometry.stride[1])
                out[..., own] += x[:, rows, columns, channels] @ weight[own, r, c].astype(np.int64).T
    return out


def file_of(
    node: Any, given: list[str], constants: dict[str, np.ndarray], *, to_bytes: bool = True, floats: bool = False
) -> bytes:
    """Return a file of one node whose other inputs are ``constants``."""
    kind = TensorProto.FLOAT if floats else TensorProto.UINT8
    out = TensorProto.UINT8 if to_bytes else TensorProto.FLOAT
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(name, kind, [f"{name}{i}" for i in range(4)]) for name in given],
        [helper.make_tensor_value_info("Y", out, [f"y{i}" for i in range(4)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model.functions.extend(narrow.bodies(model))
    return bytes(model.SerializeToString())


CASES = (
    ByteCase("3x3", 16, 32, (7, 9)),
    ByteCase("odd channels", 3, 5, (9, 8), ConvGeometry((7, 7), (2, 2), (3, 3, 3, 3))),
    ByteCase("64 filters and more", 8, 150, (6, 6), x_zero=7, y_zero=100),
    ByteCase("1x1", 12, 16, (5, 5), ConvGeometry((1, 1))),
    ByteCase("1x1 of odd channels", 7, 16, (5, 5), ConvGeometry((1, 1))),
    ByteCase("1x1 stride", 12, 16, (6, 5), ConvGeometry((1, 1), (2, 2))),
    ByteCase("dilation", 5, 7, (12, 11), ConvGeometry((3, 2), (1, 2), (2, 0, 1, 3), (2, 3))),
    ByteCase("groups", 12, 18, (6, 7), ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1), groups=3), x_zero=3),
    ByteCase("depthwise", 20, 20, (6, 7), ConvGeometry((3, 3), (2, 1), (1, 1, 1, 1), groups=20)),
    ByteCase("kernel as wide as the plane", 4, 9, (4, 4), ConvGeometry((4, 4))),
    ByteCase("plane smaller than its border", 4, 9, (1, 2), ConvGeometry((3, 3), padding=(3, 2, 3, 2))),
    ByteCase("residual", 16, 17, (7, 7), _PADDED, residual=True, batch=3, y_zero=9, clip=(0.0, NO_BOUND)),
    ByteCase("clip", 16, 16, (7, 7), _PADDED, clip=(-1.0, 6.0), y_zero=128),
    ByteCase("lookup", 16, 32, (7, 9), _PADDED, rows=5, x_zero=40),
    ByteCase("lookup stride", 16, 32, (8, 9), ConvGeometry((3, 3), (2, 2), (1, 1, 1, 1)), rows=8),
    ByteCase("lookup 1x1 stride", 16, 32, (8, 9), ConvGeometry((1, 1), (2, 2)), rows=8, batch=2),
    ByteCase("lookup groups", 16, 32, (6, 6), ConvGeometry((3, 3), (1, 1), (0, 1, 1, 0), groups=2), rows=3),
    ByteCase("lookup residual", 24, 70, (7, 7), _PADDED, rows=16, residual=True, batch=2, clip=(0.0, NO_BOUND)),
    ByteCase("few lookups", 32, 48, (9, 9), _PADDED, rows=32, density=0.05),
    ByteCase("no lookups", 8, 48, (5, 5), _PADDED, rows=4, density=0.0),
    ByteCase("many pixels", 16, 64, (90, 70), _PADDED, rows=8),
    ByteCase("saturated", 16, 32, (7, 9), _PADDED, y_scale=1e-4, y_zero=128),
    ByteCase("all in one step", 16, 32, (7, 9), _PADDED, y_scale=1e6, y_zero=128),
    ByteCase("no images", 16, 32, (7, 9), _PADDED, batch=0),
)  # fmt: skip


def with_constants(case: ByteCase, **changes: Any) -> ByteCase:
    """Return a case with other constants."""
    return replace(case, changes={**case.changes, **changes})

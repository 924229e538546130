"""Operators on bfloat16 as ONNX files, and their definition in plain NumPy on whole numbers, whose sums are exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from byte_models import convolved
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress.operators import bfloat16_conv as ops
from lcnn_compress.operators import narrow
from lcnn_compress.operators.common import DOMAIN, NO_BOUND, OP_VERSION, OPSET
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.operators.nhwc import narrow_attributes

_PADDED = ConvGeometry((3, 3), padding=(1, 1, 1, 1))


def rounded(x: np.ndarray) -> np.ndarray:
    """Return float32 rounded to bfloat16, to even between two, by its bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


@dataclass(frozen=True)
class HalfCase:
    """A convolution in bfloat16: sizes and how its constants are drawn."""

    name: str
    channels: int
    filters: int
    size: tuple[int, int]
    geometry: ConvGeometry = _PADDED
    rows: int = 0  # of the dictionary of a group
    batch: int = 1
    residual: bool = False
    clip: tuple[float, float] = (-NO_BOUND, NO_BOUND)
    density: float = 1.0

    def constants(self) -> dict[str, np.ndarray]:
        """Return W, bias and, of a lookup, D: whole numbers that bfloat16 holds, of float32."""
        rng, groups = np.random.default_rng(len(self.name)), self.geometry.groups
        k = self.rows or self.channels // groups
        weight = rng.integers(-8, 9, (self.filters, *self.geometry.kernel, k))
        weight[rng.random(weight.shape) >= self.density] = 0
        found = {"W": weight, "bias": rng.integers(-99, 100, self.filters)}
        if self.rows:
            found["D"] = rng.integers(-8, 9, (groups * self.rows, self.channels // groups))
        return {name: value.astype(np.float32) for name, value in found.items()}

    def input(self) -> np.ndarray:
        """Return X (N, C, H, W)."""
        shape = (self.batch, self.channels, *self.size)
        return np.random.default_rng(1).integers(-16, 17, shape).astype(np.float32)

    def added(self) -> np.ndarray:
        """Return the residual (N, H', W', O), or the one number for none."""
        shape = (self.batch, *self.geometry.output_size(*self.size), self.filters) if self.residual else (1,)
        return np.random.default_rng(2).integers(-9, 10, shape).astype(np.float32) * (1 if self.residual else 0)

    def model(self, *, to_bfloat16: bool, bodies: bool = True) -> bytes:
        """Return a file that turns X to bfloat16, convolves and, where the result is in bfloat16, turns it back."""
        op_type = ops.LOOKUP_TO_FLOAT if self.rows else ops.CONV_TO_FLOAT
        op_type = ops.TO_BFLOAT16[op_type] if to_bfloat16 else op_type
        names = ops.INPUTS[op_type]
        held = {name: ops.bfloat16_tensor(name, value) for name, value in self.constants().items() if name != "bias"}
        held |= {"bias": numpy_helper.from_array(self.constants()["bias"], "bias")}
        held |= {"residual": ops.bfloat16_tensor("residual", self.added())} if to_bfloat16 else {}
        attributes = narrow_attributes(self.geometry) | {"clip_min": self.clip[0], "clip_max": self.clip[1]}
        node = helper.make_node(
            op_type, ["H", *names[1:]], ["Z" if to_bfloat16 else "Y"], "the-conv", domain=DOMAIN, **attributes
        )
        nodes = [helper.make_node(ops.FROM_FLOAT, ["X"], ["H"], domain=DOMAIN), node]
        if to_bfloat16:
            nodes.append(helper.make_node(ops.TO_FLOAT, ["Z"], ["Y"], domain=DOMAIN))
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, list("nchw"))],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [f"y{i}" for i in range(4)])],
            [held[name] for name in names[1:]],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        model.functions.extend(narrow.bodies(model) if bodies else [])
        return bytes(model.SerializeToString())

    def expected(self, *, to_bfloat16: bool) -> np.ndarray:
        """Return Y (N, O, H', W') by the definition; sums are below 2**24."""
        held, x = self.constants(), rounded(self.input()).transpose(0, 2, 3, 1).astype(np.int64)
        if self.rows:
            one = ConvGeometry((1, 1), groups=self.geometry.groups)
            sums = convolved(x, held["D"].reshape(len(held["D"]), 1, 1, -1), one)
            x = rounded(sums.astype(np.float32)).astype(np.int64)
        sums = convolved(x, held["W"], self.geometry) + held["bias"].astype(np.int64)
        if to_bfloat16:
            sums = sums + self.added().astype(np.int64)
        assert np.abs(sums).max() < 2**24
        y = np.clip(sums.astype(np.float32), *self.clip).astype(np.float32)
        return (rounded(y) if to_bfloat16 else y).transpose(0, 3, 1, 2)


HALF_CASES = (
    HalfCase("3x3", 16, 32, (7, 9)),
    HalfCase("odd channels", 3, 5, (9, 8), ConvGeometry((7, 7), (2, 2), (3, 3, 3, 3))),
    HalfCase("64 filters and more", 8, 150, (6, 6), clip=(0.0, 600.0)),
    HalfCase("1x1 stride", 12, 16, (6, 5), ConvGeometry((1, 1), (2, 2))),
    HalfCase("dilation", 5, 7, (12, 11), ConvGeometry((3, 2), (1, 2), (2, 0, 1, 3), (2, 3))),
    HalfCase("groups", 12, 18, (6, 7), ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1), groups=3)),
    HalfCase("depthwise", 20, 20, (6, 7), ConvGeometry((3, 3), (2, 1), (1, 1, 1, 1), groups=20)),
    HalfCase("residual", 16, 17, (7, 7), residual=True, batch=3, clip=(0.0, NO_BOUND)),
    HalfCase("lookup", 16, 32, (7, 9), rows=5),
    HalfCase("lookup stride", 16, 32, (8, 9), ConvGeometry((3, 3), (2, 2), (1, 1, 1, 1)), rows=8, batch=2),
    HalfCase("lookup groups", 16, 32, (6, 6), ConvGeometry((3, 3), (1, 1), (0, 1, 1, 0), groups=2), rows=3),
    HalfCase("lookup residual", 24, 70, (7, 7), rows=16, residual=True, batch=2, clip=(-3000.0, 6000.0)),
    HalfCase("few lookups", 32, 48, (9, 9), rows=32, density=0.05),
)  # fmt: skip

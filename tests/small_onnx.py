"""A small net as an ONNX file, dense and with LookupConv nodes, written node by node so that no exporter stands between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.operators.lookup_conv import OP_TYPE, function_body, node_attributes

SAME = ConvGeometry((3, 3), (1, 1), (1, 1, 1, 1))
LAYERS = ["stem", "block.conv1", "block.conv2", "fc"]
LOOKUPS = ["block.conv1", "block.conv2"]

# 8x8 pixels, 16 channels, 9 taps; k = 4 and 32 non-zeros for a lookup layer.
STEM_MACS, DENSE_MACS, LOOKUP_MACS, FC_MACS = 64 * 3 * 16 * 9, 64 * 16 * 16 * 9, 64 * (4 * 16 + 32), 16 * 10
STEM_BYTES, FC_BYTES = 4 * (16 * 3 * 9 + 16), 4 * (10 * 16 + 10)
DENSE_BYTES = 4 * (16 * 16 * 9 + 16)
LOOKUP_BYTES = 4 * 4 * 16 + 32 * (1 + 2) + 4 * 16  # dictionary float32, gaps uint8 and coefficients float16, bias


def row(name: str, lookup: bool) -> dict[str, Any]:
    if name in ("stem", "fc"):
        macs = STEM_MACS if name == "stem" else FC_MACS
        return {"name": name, "kind": "dense", "reason": "kept", "macs_dense": macs, "macs": macs}
    kind = "lookup" if lookup else "dense"
    return {"name": name, "kind": kind, "reason": "", "macs_dense": DENSE_MACS, "macs": LOOKUP_MACS if lookup else DENSE_MACS}


class NetWriter:
    """Writes stem - (conv1 - conv2 + shortcut) - mean - fc, dense or with LookupConv nodes in the block."""

    def __init__(self, lookup: bool, fused: bool) -> None:
        self.lookup, self.fused = lookup, fused
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}

    def tensor(self, name: str, *shape: int) -> str:
        self.tensors[name] = (self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        return name

    def node(self, kind: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name or f"{kind}_{output}", **attributes))
        return output

    def conv(self, name: str, x: str, channels: int, relu: bool, residual: str | None = None) -> str:
        if not self.lookup or name == "stem":
            inputs = [x, self.tensor(f"{name}.weight", 16, channels, 3, 3), self.tensor(f"{name}.bias", 16)]
            y = self.node("Conv", inputs, f"{name}_conv", name, pads=[1] * 4)
            y = self.node("Add", [y, residual], f"{name}_sum") if residual else y
            return self.node("Relu", [y], f"{name}_relu") if relu else y
        flat = np.zeros(16 * 9 * 4, np.float32)
        flat[::18] = self.rng.standard_normal(32)
        gaps, coefficients = encode_positions(flat.reshape(16, 3, 3, 4).transpose(0, 3, 1, 2))
        self.tensors |= {f"{name}.gaps": gaps, f"{name}.coefficients": coefficients.astype(np.float16)}
        self.tensors["none"] = np.zeros(1, np.float32)
        attributes = node_attributes(SAME)
        inputs = [
            x, self.tensor(f"{name}.dictionary", 4, 16), f"{name}.gaps", f"{name}.coefficients",
            self.tensor(f"{name}.bias", 16), residual if residual and self.fused else "none",
        ]  # fmt: skip
        if self.fused:
            attributes["clip_min"] = 0.0
            return self.node(OP_TYPE, inputs, f"{name}_relu", name, domain=DOMAIN, **attributes)
        y = self.node(OP_TYPE, inputs, f"{name}_conv", name, domain=DOMAIN, **attributes)
        y = self.node("Add", [y, residual], f"{name}_sum") if residual else y
        return self.node("Relu", [y], f"{name}_relu")

    def model(self, batch: int | str) -> onnx.ModelProto:
        x = self.conv("stem", "x", 3, relu=True)
        y = self.conv("block.conv2", self.conv("block.conv1", x, 16, relu=True), 16, relu=True, residual=x)
        pooled = self.node("Flatten", [self.node("GlobalAveragePool", [y], "mean")], "flat")
        self.node("Gemm", [pooled, self.tensor("fc.weight", 10, 16), self.tensor("fc.bias", 10)], "y", "fc", transB=1)
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET)] + [helper.make_opsetid(DOMAIN, OP_VERSION)] * self.lookup
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        model.functions.extend([function_body()] * self.lookup)
        rows = [row(name, self.lookup) for name in LAYERS]
        helper.set_model_props(model, {"lcnn.layers": json.dumps(rows), "lcnn.input_shape": json.dumps([1, 3, 8, 8])})
        onnx.checker.check_model(model)
        return model


def write(folder: Path, *, lookup: bool, fused: bool = True, batch: int | str = "n") -> Path:
    path = folder / f"{'lookup' if lookup else 'dense'}{'' if fused else '_plain'}{batch}.onnx"
    onnx.save(NetWriter(lookup, fused).model(batch), path)
    return path

"""Small surgery on ONNX graphs that several rewrites need."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from lcnn_compress.operators.common import DOMAIN


def drop_unread(graph: onnx.GraphProto) -> None:
    """Delete nodes and initialisers nothing reads (the exporter leaves the size arithmetic of custom operators behind)."""
    read = {v.name for v in graph.output}
    needed = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            read.update(node.input)
            needed.append(node)
    tensors = [t for t in graph.initializer if t.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(needed))
    graph.initializer.extend(tensors)


def drop_domain(model: onnx.ModelProto) -> None:
    """Delete bodies and opset of our operators, which nothing uses any more."""
    del model.functions[:]
    for entry in [o for o in model.opset_import if o.domain == DOMAIN]:
        model.opset_import.remove(entry)


def constants_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return initialisers by name; what is only converted or flattened counts as its source."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Cast", "Flatten") and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return constants


def attribute_values(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}

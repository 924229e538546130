"""What an ONNX file or an artefact is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lcnn_compress import runtime
from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.artefact.report import Json
from lcnn_compress.errors import ArtefactError
from lcnn_compress.export.metadata import StoredLayer, stored_layers
from lcnn_compress.export.nodes import constants_of
from lcnn_compress.operators.common import FIRST_STAGE
from lcnn_compress.operators.lookup_conv import LAYER_OPS, OP_TYPE
from lcnn_compress.operators.narrow import INPUTS, KIND_OF


@dataclass(frozen=True)
class Description:
    """Facts by name, a row for each layer, and what the user should know about how it was read."""

    facts: dict[str, object]
    layers: Sequence[Json]
    notes: tuple[str, ...] = ()


def describe_artefact(artefact: Artefact, path: Path) -> Description:
    """Return what the report of an artefact, read from ``path``, says."""
    report = artefact.report
    facts = {"artefact": str(path), "input": list(artefact.input_shape), "model": report.model, **report.totals.to_json()}
    return Description(facts, [row.to_json() for row in report.layers])


def describe_onnx(path: Path) -> Description:
    """Return the facts and layers an ONNX file tells about itself.

    Raises:
        ArtefactError: the file is damaged, or its metadata or nodes are not as lcnn writes them.
        FileError: the file is missing.
    """
    runtime.session(path)  # a damaged file is refused here, with its name
    model = onnx.load(path)
    kinds = Counter(f"{node.domain}::{node.op_type}".removeprefix("::") for node in model.graph.node)
    stored, shape = stored_layers(model, path)
    rows = stored or []
    facts: dict[str, object] = {
        "file": str(path), "bytes": path.stat().st_size, "input": shape,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "operators": dict(kinds.most_common()), "body for other runtimes": bool(model.functions),
    }  # fmt: skip
    nodes = {node.name: node for node in model.graph.node if node.op_type in LAYER_OPS and len(node.input) > 1}
    constants = constants_of(model.graph)
    found = [row for row in rows if row.name in nodes and nodes[row.name].input[1] in constants]
    if missing := [row.name for row in rows if row not in found]:
        facts["layers without a node of their name"] = ", ".join(missing)
    return Description(facts, [_onnx_row(row, nodes, constants, path) for row in found])


def _onnx_row(row: StoredLayer, nodes: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto], path: Path) -> Json:
    """Complete a stored row with the shapes found in the file."""
    try:
        return {**asdict(row), **_shapes(nodes[row.name], nodes.get(row.name + FIRST_STAGE), constants)}
    except (ArithmeticError, LookupError, ValueError) as error:
        raise ArtefactError(
            f"{path}: node '{row.name}' is not one that lcnn writes ({type(error).__name__}: {error}); the file was edited"
        ) from error


def _narrow_shapes(node: onnx.NodeProto, groups: int, constants: dict[str, onnx.TensorProto]) -> Json:
    """Return the shape of a layer in 8 bits or bfloat16."""
    names = dict(zip(INPUTS[node.op_type], node.input, strict=True))
    filters, height, width, size = constants[names["W"]].dims
    shape = {"out_channels": filters, "kernel": [height, width], "arithmetic": KIND_OF[node.op_type].name}
    if "D" not in names:
        return {**shape, "in_channels": size * groups}
    nonzeros = int(np.count_nonzero(numpy_helper.to_array(constants[names["W"]])))
    lookups = {"dictionary_size": size, "lookups_per_position": nonzeros / (filters * height * width)}
    return {**shape, "in_channels": constants[names["D"]].dims[1] * groups, **lookups}


def _shapes(node: onnx.NodeProto, first: onnx.NodeProto | None, constants: dict[str, onnx.TensorProto]) -> Json:
    """Return the shape of the layer that a node computes, with the node before it where two do; any other node may fail."""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type in INPUTS:
        return _narrow_shapes(node, groups, constants)
    dims = list(constants[node.input[1]].dims)
    if first is not None:
        channels, size = constants[first.input[1]].dims[1] * groups, dims[1]
        shape = {"in_channels": channels, "out_channels": dims[0], "kernel": dims[2:]}
        return {**shape, "dictionary_size": size, "lookups_per_position": float(size)}
    kernel = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [1, 1])
    if node.op_type != OP_TYPE:
        outputs, inputs = reversed(dims[:2]) if node.op_type == "MatMul" else dims[:2]
        return {"in_channels": inputs * groups, "out_channels": outputs, "kernel": kernel}
    filters, entries = constants[node.input[4]].dims[0], constants[node.input[2]].dims[0]
    return {
        "in_channels": dims[1] * groups, "out_channels": filters, "kernel": kernel,
        "dictionary_size": dims[0] // groups, "lookups_per_position": entries / (filters * kernel[0] * kernel[1]),
    }  # fmt: skip

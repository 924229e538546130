"""Choose which operator pools: the lookup convolution before it, our MaxPool or the standard one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx
from onnx import helper

from lcnn_compress.export.nodes import attribute_values, constants_of
from lcnn_compress.operators import narrow
from lcnn_compress.operators.common import DOMAIN
from lcnn_compress.operators.lookup_conv import NO_POOL, OP_TYPE, function_body
from lcnn_compress.operators.max_pool import POOL_TYPE, pool_body

# The runtime pools over kernels up to this size in each direction.
MAX_POOL_KERNEL = 256


def choose_pools(model: onnx.ModelProto) -> None:
    """Let a lookup convolution pool its result where only a MaxPool reads it; our MaxPool pools all else that we compute.

    May be called again when nodes have changed.
    """
    graph = model.graph
    reads = Counter(name for node in graph.node for name in node.input) + Counter(value.name for value in graph.output)
    constants = constants_of(graph)
    lookups = {node.output[0]: node for node in graph.node if node.op_type == OP_TYPE}
    own: set[str] = set()
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in graph.value_info}
    for node in list(graph.node):
        if node.op_type == POOL_TYPE:
            lookup = lookups.get(node.input[0])
            values = pool_values(node) if node.input[0] in own and ranks.get(node.input[0], 4) == 4 else None
            if values is not None and lookup is not None and reads[node.input[0]] == 1 and _can_pool(lookup, constants):
                _set_pool(lookup, {f"pool_{name}": values[name] for name in ("kernel_shape", "strides", "pads")})
                lookup.output[0] = node.output[0]
                graph.node.remove(node)
                own.update(lookup.output)
                continue
            node.domain = DOMAIN if values is not None else ""
            if values is not None:
                del node.attribute[:]
                node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())
        if node.domain == DOMAIN:
            own.update(node.output)
    if model.functions:
        set_bodies(model)


def set_bodies(model: onnx.ModelProto) -> None:
    """Write the bodies that the nodes of a file need."""
    lookups = [node for node in model.graph.node if node.op_type == OP_TYPE]
    pooled = any(does_pool(attribute_values(node)) for node in lookups)
    for node in lookups:
        values = attribute_values(node)
        _set_pool(node, {name: values.get(name, NO_POOL[name]) for name in NO_POOL} if pooled else {})
    del model.functions[:]
    if lookups:
        swished = any(attribute_values(node).get("hard_swish") for node in lookups)
        model.functions.append(function_body(hard_swish=swished, pooled=pooled))
    if any(node.op_type == POOL_TYPE and node.domain == DOMAIN for node in model.graph.node):
        model.functions.append(pool_body())
    model.functions.extend(narrow.bodies(model))


def _can_pool(lookup: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    return lookup.input[5] in constants and not does_pool(attribute_values(lookup))


def does_pool(values: dict[str, Any]) -> bool:
    return any(values.get(f"pool_{name}", [1, 1]) != [1, 1] for name in ("kernel_shape", "strides"))


def _set_pool(lookup: onnx.NodeProto, values: dict[str, list[int]]) -> None:
    kept = [attribute for attribute in lookup.attribute if attribute.name not in NO_POOL]
    del lookup.attribute[:]
    lookup.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])


def pool_values(node: onnx.NodeProto) -> dict[str, list[int]] | None:
    """Return the attributes of our MaxPool for a standard one, or None where it cannot do the same."""
    given = attribute_values(node)
    kernel = list(given["kernel_shape"])
    values = {"kernel_shape": kernel, "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
    values |= {name: list(given[name]) for name in values if name in given}
    plain = given.get("auto_pad", b"NOTSET") == b"NOTSET" and not given.get("ceil_mode", 0) and len(node.output) == 1
    small = len(kernel) == 2 and max(kernel) <= MAX_POOL_KERNEL
    covered = all(pad < size for pad, size in zip(values["pads"], kernel * 2, strict=False))
    return values if plain and small and covered and values["dilations"] == [1, 1] else None

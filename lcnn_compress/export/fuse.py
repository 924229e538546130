"""Let LookupConv nodes do what follows them: residual sums and activations."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from lcnn_compress.operators.common import NO_BOUND
from lcnn_compress.operators.lookup_conv import OP_TYPE


def fuse(model: onnx.ModelProto) -> None:
    """Let each LookupConv do the Add, Relu, Clip or HardSwish that alone reads its result, but no Add behind a Reshape."""
    graph = model.graph
    shapes = {v.name: str(v.type.tensor_type.shape) for v in [*graph.value_info, *graph.input, *graph.output]}
    constants = {t.name: t for t in graph.initializer}
    constants |= {
        n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"
    }
    outputs = {v.name for v in graph.output}
    for name in [n.output[0] for n in graph.node if n.op_type == OP_TYPE]:
        lookup = next(n for n in graph.node if n.output[0] == name)
        while (tail := _single_reader(graph, lookup.output[0], outputs)) is not None and _absorb(
            lookup, tail, shapes, constants
        ):
            # The residual may be computed after the lookup's old place, so the fused node moves to the place of its tail.
            graph.node.remove(lookup)
            lookup = _put_in_place_of(graph, tail, lookup)
        if tail is not None and tail.op_type == "Reshape":
            after = _single_reader(graph, tail.output[0], outputs)
            if after is not None and after.op_type != "Add" and _absorb(lookup, after, shapes, constants):
                tail.output[0] = after.output[0]
                graph.node.remove(after)


def _single_reader(graph: onnx.GraphProto, value: str, outputs: set[str]) -> onnx.NodeProto | None:
    readers = [n for n in graph.node for name in n.input if name == value]
    return readers[0] if len(readers) == 1 and value not in outputs else None


def _absorb(
    lookup: onnx.NodeProto, tail: onnx.NodeProto, shapes: dict[str, str], constants: dict[str, onnx.TensorProto]
) -> bool:
    """Fold ``tail`` into ``lookup`` if it computes what the epilogue can; return whether it did."""
    epilogue = {a.name: a for a in lookup.attribute if a.name in ("clip_min", "clip_max", "hard_swish")}
    if epilogue["clip_min"].f > -NO_BOUND or epilogue["clip_max"].f < NO_BOUND or epilogue["hard_swish"].i:
        return False  # nothing comes after an activation
    own = lookup.output[0]
    if tail.op_type == "Add" and lookup.input[5] in constants:
        other = tail.input[1] if tail.input[0] == own else tail.input[0]
        if other in constants or own not in shapes or shapes.get(other) != shapes[own]:
            return False
        lookup.input[5] = other
        return True
    if tail.op_type in ("Relu", "HardSwish"):
        if tail.op_type == "Relu":
            epilogue["clip_min"].f = 0
        else:
            epilogue["hard_swish"].i = 1
        return True
    if tail.op_type == "Clip" and all(name in constants or not name for name in tail.input[1:]):
        for key, name in zip(("clip_min", "clip_max"), tail.input[1:], strict=False):
            if name:
                epilogue[key].f = float(numpy_helper.to_array(constants[name]))
        return True
    return False


def _put_in_place_of(graph: onnx.GraphProto, tail: onnx.NodeProto, lookup: onnx.NodeProto) -> onnx.NodeProto:
    position = list(graph.node).index(tail)
    fused = onnx.NodeProto()
    fused.CopyFrom(lookup)
    fused.output[0] = tail.output[0]
    place: onnx.NodeProto = graph.node[position]
    place.CopyFrom(fused)
    return place

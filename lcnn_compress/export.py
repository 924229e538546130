"""A net as an ONNX file: LookupConv nodes with bias, activation and residual, and a body that runs them anywhere.

Layers keep their names as node names, and ``lcnn.layers`` / ``lcnn.input_shape`` in the file's metadata say what was done to
each, so that a file can be measured and inspected without the artefact or torch.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn

from lcnn_compress import runtime
from lcnn_compress.errors import ModelError
from lcnn_compress.files import write_atomically
from lcnn_compress.graph import calls
from lcnn_compress.modules import LookupConv2d
from lcnn_compress.node_layers import LAYER_OPS
from lcnn_compress.op import (
    CALL,
    DOMAIN,
    NO_BOUND,
    OP_TYPE,
    OP_VERSION,
    OPSET,
    encode_positions,
    layer_name,
    node_attributes,
)
from lcnn_compress.ordinary import constants_of, dense_form, drop_domain, drop_unread, set_bodies, split_low_rank
from lcnn_compress.stored import check_type, coefficient_type, dictionary_type

log = logging.getLogger(__name__)
IR_VERSION = 10
MOST_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class ExportSettings:
    """How to write an ONNX file."""

    coefficients: str = "float16"  # one of stored.TYPES; of dictionaries too
    fallback: bool = True  # write the function body
    dense: bool = False  # write ordinary Conv nodes instead of LookupConv
    tolerance: float = MOST_DIFFERENCE  # largest difference to torch, relative to the largest output (at least 1)

    def __post_init__(self) -> None:
        check_type(self.coefficients)


def only_timed(coefficients: str) -> ExportSettings:
    """Return settings for a net nobody reads results of: it may magnify rounding, but must still be the net."""
    return ExportSettings(coefficients, tolerance=0.1)


class _LookupConvNode(nn.Module):
    """Stands in for a LookupConv2d while the net is exported: its tensors become initialisers, its call one node."""

    dictionary: Tensor
    gaps: Tensor
    coefficients: Tensor
    bias: Tensor
    residual: Tensor

    def __init__(self, lookup: LookupConv2d, stored: str) -> None:
        super().__init__()
        self.geometry, self.out_channels = lookup.geometry, lookup.out_channels
        gaps, coefficients = encode_positions((lookup.sparse_kernel * lookup.support).detach().numpy())
        self.register_buffer("dictionary", lookup.dictionary.detach().to(dictionary_type(stored, lookup.dictionary)))
        self.register_buffer("gaps", torch.from_numpy(gaps))
        self.register_buffer("coefficients", torch.from_numpy(coefficients).to(coefficient_type(stored)))
        self.register_buffer("bias", lookup.bias.detach())
        self.register_buffer("residual", torch.zeros(1))  # adds nothing until fusion finds a residual

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.geometry.output_size(x.shape[2], x.shape[3])
        inputs = (x, self.dictionary, self.gaps, self.coefficients, self.bias, self.residual)
        shape = (x.shape[0], self.out_channels, height, width)
        attributes = node_attributes(self.geometry)
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OP_TYPE}", inputs, attributes, dtype=x.dtype, shape=shape, version=OP_VERSION
        )


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **options: Any
) -> Tensor:
    """Attention of tensors (..., L, E) of any rank as one of (N, heads, L, E), which is all that torch's exporter takes."""
    attend = nn.functional.scaled_dot_product_attention
    if query.ndim == 4:
        return attend(query, key, value, attn_mask, *args, **options)
    q, k, v = (_four_dimensional(x, query.shape[:-2]) for x in (query, key, value))
    if attn_mask is not None and attn_mask.ndim > 2:
        attn_mask = _four_dimensional(attn_mask, query.shape[:-2])
    return attend(q, k, v, attn_mask, *args, **options).reshape(*query.shape[:-1], value.shape[-1])


def _four_dimensional(x: Tensor, leading: torch.Size) -> Tensor:
    """Return (*leading, L, E), or what is broadcast to that, as (N, heads, L, E)."""
    x = x.expand(*leading, -1, -1)
    return x.unsqueeze(-3).flatten(0, -4) if len(leading) < 2 else x.flatten(0, -4)


def to_onnx(
    net: fx.GraphModule, input_shape: tuple[int, ...], settings: ExportSettings, metadata: dict[str, Any]
) -> onnx.ModelProto:
    """Return ``net`` as ONNX, dynamic in batch, height and width where the net allows it.

    Raises:
        ModelError: torch's exporter fails on the net.
    """
    stand_in = fx.GraphModule(net, copy.deepcopy(net.graph))
    for node, lookup in list(calls(net, LookupConv2d)):
        stand_in.add_submodule(str(node.target), _LookupConvNode(lookup, settings.coefficients))
    for node in stand_in.graph.nodes:
        if node.target is torch.ops.aten.scaled_dot_product_attention.default:
            node.target = _attention
    stand_in.recompile()
    model = _trace(net, stand_in, input_shape, settings.tolerance)
    if settings.dense:
        model = dense_form(model)
    else:
        split_low_rank(model)
    for key, value in {**metadata, "input_shape": list(input_shape)}.items():
        model.metadata_props.append(onnx.StringStringEntryProto(key=f"lcnn.{key}", value=json.dumps(value)))
    if not settings.fallback:
        del model.functions[:]
    onnx.checker.check_model(model)
    return model


def export_onnx(
    net: fx.GraphModule,
    path: Path,
    input_shape: tuple[int, ...],
    settings: ExportSettings = ExportSettings(),
    metadata: dict[str, Any] | None = None,
) -> float:
    """Write ``net`` to ``path`` and return its largest difference to torch, checked before anything is written.

    Raises:
        ModelError: ONNX Runtime's result differs from torch's by more than the tolerance, or the exporter fails.
        FileError: the file cannot be written.
    """
    model = to_onnx(net, input_shape, settings, metadata or {})
    data = model.SerializeToString(deterministic=True)
    difference = verify(net, data, input_shape, settings.tolerance)
    write_atomically(path, data)
    return difference


def verify(net: fx.GraphModule, data: bytes, input_shape: tuple[int, ...], tolerance: float) -> float:
    """Return the largest difference between ONNX Runtime and torch, relative to max(1, |torch|), native and fallback alike.

    Raises:
        ModelError: it exceeds ``tolerance`` or is not a number.
        MissingError: the file has no function body and the native library is not there.
    """
    model = onnx.load_from_string(data)
    first = model.graph.input[0]
    ways = {runtime.library_path() is not None, False}
    if any(node.domain == DOMAIN for node in model.graph.node) and not model.functions:
        runtime.require_library()
        ways = {True}
    dynamic_batch = not first.type.tensor_type.shape.dim[0].HasField("dim_value")
    size = (2 if dynamic_batch else input_shape[0], *input_shape[1:])
    worst = 0.0
    for native in ways:
        worst = max(worst, _difference(net, data, size, native=native))
        if not worst <= tolerance:
            way = "the native library" if native else "standard operators"
            raise ModelError(
                f"the exported net differs from torch by {worst:.2e} of the largest output with {way}, more than "
                f"{tolerance:.0e}; nothing was written (raise --tolerance if this is acceptable)"
            )
    return worst


def _difference(net: fx.GraphModule, data: bytes, size: tuple[int, ...], *, native: bool) -> float:
    x = torch.rand(size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(x)
    session = runtime.session(data, native=native)
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    worst = 0.0
    for got, want in zip(outputs, expected if isinstance(expected, tuple) else (expected,), strict=True):
        if got.shape != tuple(want.shape):
            return float("inf")
        scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        difference = float(np.abs(got - want.numpy()).max(initial=0)) / scale
        worst = difference if not difference <= worst else worst  # a NaN stays
    return worst


def with_factors(model: onnx.ModelProto, net: fx.GraphModule, coefficients: str) -> onnx.ModelProto:
    """Return a copy of an exported net whose LookupConv nodes hold what their layers are in ``net``: a twin of that net.

    A layer that is dense in ``net`` becomes an ordinary Conv or Gemm with its weight. Biases stay.

    Args:
        model: the net with some lookup convolution in each of these layers.
        net: of the same layers, batch norms folded.
        coefficients: one of ``stored.TYPES``.
    """
    lookups = [node for node in model.graph.node if node.op_type == OP_TYPE]
    modules = {node.name: net.get_submodule(layer_name(node)) for node in lookups}
    dense = {layer_name(node) for node in lookups if not isinstance(modules[node.name], LookupConv2d)}
    model = dense_form(model, dense)
    graph = model.graph
    constants = constants_of(graph)
    for node in graph.node:
        module = modules.get(node.name)
        if isinstance(module, LookupConv2d):
            gaps, listed = encode_positions((module.sparse_kernel * module.support).detach().numpy())
            rows = module.dictionary.detach().to(dictionary_type(coefficients, module.dictionary)).numpy()
            values = (rows, gaps, torch.from_numpy(listed).to(coefficient_type(coefficients)).numpy())
            # The exporter lets layers share equal lists: each gets its own.
            names = [f"{node.name}.own_{leaf}" for leaf in ("dictionary", "gaps", "coefficients")]
            graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in zip(names, values, strict=True))
            node.input[1:4] = names
        elif module is not None:
            tensor = constants[node.input[1]]
            weight = module.weight
            assert isinstance(weight, Tensor)
            values_of = weight.detach().numpy().reshape(tuple(tensor.dims))
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values_of), tensor.name))
    drop_unread(graph)
    split_low_rank(model)
    return model


def _trace(net: fx.GraphModule, stand_in: fx.GraphModule, input_shape: tuple[int, ...], tolerance: float) -> onnx.ModelProto:
    """Export with as many dynamic axes as hold what they promise: each choice is tried on an input of another size.

    (torch's exporter marks height and width dynamic even where it has fixed an adaptive pooling to the traced size.)
    """
    auto = torch.export.Dim.AUTO
    problem: Exception | None = None
    rest = input_shape[1:]
    two, other = (2, *rest), (3, *rest)
    axes_of_all: tuple[int, ...] = (0,)
    if len(rest) == 3:  # a quarter to a half larger, by multiples of 32 because many nets need those
        axes_of_all, other = (0, 2, 3), (1, rest[0], rest[1] + 32 * -(-rest[1] // 128), rest[2] + 64 * -(-rest[2] // 128))
    for axes, traced, size in ((axes_of_all, two, other), ((0,), two, (3, *rest)), ((), input_shape, input_shape)):
        shapes = (dict.fromkeys(axes, auto),) if axes else None
        try:
            with _quiet_exporter(), torch.no_grad():
                stand_in(torch.zeros(size))  # the exporter takes minutes to find out what the net does not take
                program = torch.onnx.export(
                    stand_in, (torch.zeros(traced),), dynamo=True, dynamic_shapes=shapes, opset_version=OPSET, verbose=False,
                    input_names=["input"],
                )  # fmt: skip
                assert program is not None
                model = _finish(program.model_proto, net)
                difference = _difference(net, model.SerializeToString(), size, native=False)
                # A looser tolerance is for nets that magnify rounding, not for axes that do not hold what they promise.
                allowed = min(tolerance, MOST_DIFFERENCE) if axes else tolerance
                if difference <= allowed:
                    return model
                raise ModelError(
                    f"its outputs differ from torch's by {difference:.2e} of the largest, more than {allowed:.0e} (raise "
                    "--tolerance if this is acceptable)"
                )
        except Exception as error:  # the exporter wraps whatever went wrong in its own and other classes
            problem = error  # of the last try, which asks for least
    cause: BaseException | None = problem
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__  # the exporter's own words are pages about where it was
    lines = str(cause).strip().splitlines()
    raise ModelError(f"torch.onnx cannot export the net: {type(cause).__name__}: {lines[-1] if lines else ''}") from problem


def _finish(model: onnx.ModelProto, net: fx.GraphModule) -> onnx.ModelProto:
    _clean(model)
    _name_layers(model, net)
    _keep_zero_pads(model.graph)
    _fuse(model)
    drop_unread(model.graph)
    if any(node.domain == DOMAIN for node in model.graph.node):
        set_bodies(model)
    else:
        drop_domain(model)
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns about packages we do not need (torchvision), its own deprecations and sizes it cannot solve."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def _clean(model: onnx.ModelProto) -> None:
    """Drop stack traces and source paths the exporter leaves; name the dynamic axes; use our IR version."""
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "lcnn", ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        del value.metadata_props[:]
    axes = model.graph.input[0].type.tensor_type.shape.dim
    names = {d.dim_param: n for d, n in zip(axes, ("batch", "", "height", "width"), strict=False) if d.dim_param and n}
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _keep_zero_pads(graph: onnx.GraphProto) -> None:
    """Keep ONNX Runtime (1.31) from moving zeros padded before a max pooling into the pooling, which pads with -inf."""
    padded = {node.output[0] for node in graph.node if node.op_type == "Pad"}
    for node in graph.node:
        if node.op_type == "MaxPool" and node.input[0] in padded:
            kept = [a for a in node.attribute if a.name not in ("auto_pad", "pads")]
            if not any(any(a.ints) for a in node.attribute if a.name == "pads"):
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute("auto_pad", "VALID")])  # the same, but not fused


def _name_layers(model: onnx.ModelProto, net: fx.GraphModule) -> None:
    """Give every node that reads a layer's weights the layer's name, and a number where it is not the first.

    Other products, such as those of attention, lose theirs: a name says that a node is a layer.
    """
    reads = Counter(name for node in model.graph.node for name in node.input)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    linears = {str(call.target): linear.weight.detach().numpy() for call, linear in calls(net, nn.Linear)}
    calls_of = Counter[str]()
    for node in model.graph.node:
        if node.op_type not in LAYER_OPS:
            continue
        layer = layer_of(node, reads) or _transposed(node, tensors, linears)
        node.name = ""
        if layer is not None:
            calls_of[layer] += 1
            node.name = layer if calls_of[layer] == 1 else f"{layer}{CALL}{calls_of[layer]}"


def layer_of(node: onnx.NodeProto, reads: Mapping[str, int]) -> str | None:
    """Return the layer whose weights the node reads, or None.

    The exporter keeps one of equal tensors, such as the identities of sparse layers: a tensor that no other node reads tells.

    Args:
        reads: how many nodes read each tensor.
    """
    leaves = (".dictionary", ".gaps", ".coefficients") if node.op_type == OP_TYPE else (".weight",)
    if node.op_type not in LAYER_OPS:
        return None
    names = [name for name, leaf in zip(node.input[1:], leaves, strict=False) if name.endswith(leaf)]
    return next((n.rpartition(".")[0] for n in sorted(names, key=lambda name: reads[name])), None)


def _transposed(
    node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto], linears: Mapping[str, NDArray[np.float32]]
) -> str | None:
    """Return the Linear whose weight a product has: on tokens the exporter transposes it and names it anew."""
    if node.op_type != "MatMul" or node.input[1] not in tensors:
        return None
    weight = numpy_helper.to_array(tensors[node.input[1]])
    return next((name for name, own in linears.items() if np.array_equal(own.T, weight)), None)


def _fuse(model: onnx.ModelProto) -> None:
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

"""A net as an ONNX file: LookupConv nodes with bias, activation and residual, and a body that runs them anywhere.

Layers keep their names as node names, and ``lcnn.layers`` / ``lcnn.input_shape`` in the file's metadata say what was done to
each, so that a file can be measured and inspected without the artefact or torch.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from lcnn_compress.errors import ModelError
from lcnn_compress.export.clean import finish
from lcnn_compress.export.export_settings import MAX_DIFFERENCE, ExportSettings
from lcnn_compress.export.rewrite import dense_form, split_full
from lcnn_compress.export.stand_ins import put_in, put_in_narrow
from lcnn_compress.export.verify import ANOTHER_NET, allowed_difference, largest_difference, sizes_of, verify
from lcnn_compress.files import write_atomically
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import StoredFactors
from lcnn_compress.net.layers import calls, full_layers
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.interface import interface_of
from lcnn_compress.operators.lookup_conv import OP_TYPE, node_attributes

log = logging.getLogger(__name__)


def only_timed(storage: str) -> ExportSettings:
    """Return settings for a net whose results nobody reads: it may magnify rounding, but must still be the same net."""
    return ExportSettings(storage, tolerance=0.1)


class _LookupConvNode(nn.Module):
    """Stands in for a LookupConv2d while the net is exported: its tensors become initialisers, its call one node."""

    dictionary: Tensor
    gaps: Tensor
    coefficients: Tensor
    bias: Tensor
    residual: Tensor

    def __init__(self, lookup: LookupConv2d, storage: str) -> None:
        super().__init__()
        self.geometry, self.out_channels = lookup.geometry, lookup.out_channels
        factors = StoredFactors.of(lookup, storage)
        for field in fields(factors):
            self.register_buffer(field.name, getattr(factors, field.name))
        self.register_buffer("residual", torch.zeros(1))  # it adds nothing until fusion finds a residual

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.geometry.output_size(x.shape[2], x.shape[3])
        inputs = (x, self.dictionary, self.gaps, self.coefficients, self.bias, self.residual)
        shape = (x.shape[0], self.out_channels, height, width)
        attributes = node_attributes(self.geometry)
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OP_TYPE}", inputs, attributes, dtype=x.dtype, shape=shape, version=OP_VERSION
        )


def to_onnx(
    net: fx.GraphModule, input_shape: tuple[int, ...], settings: ExportSettings, metadata: dict[str, Any]
) -> onnx.ModelProto:
    """Return ``net`` as ONNX, dynamic in batch, height and width where the net allows it.

    Raises:
        ModelError: torch's exporter fails on the net.
    """
    model = _trace(net, input_shape, settings.storage, settings.tolerance)
    if settings.dense:
        model = dense_form(model)
    else:
        split_full(model, full_layers(net))
    for key, value in {**metadata, "input_shape": list(input_shape)}.items():
        model.metadata_props.append(onnx.StringStringEntryProto(key=f"lcnn.{key}", value=json.dumps(value)))
    if not settings.fallback:
        del model.functions[:]
    onnx.checker.check_model(model)
    return model


def for_timing(net: fx.GraphModule, input_shape: tuple[int, ...], storage: str) -> onnx.ModelProto:
    """Return ``net`` as ONNX for inputs of that shape alone, not held against torch: files that are written are.

    Raises:
        ModelError: torch's exporter fails on the net.
    """
    model = _trace(net, input_shape, storage, None)
    split_full(model, full_layers(net))
    model.metadata_props.append(onnx.StringStringEntryProto(key="lcnn.input_shape", value=json.dumps(list(input_shape))))
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


def _trace(net: fx.GraphModule, input_shape: tuple[int, ...], storage: str, tolerance: float | None) -> onnx.ModelProto:
    """Export with the axes open that the net has, as far as the file holds what they promise at other sizes.

    (torch's exporter marks height and width dynamic even where it has fixed an adaptive pooling to the traced size.) Without
    a tolerance no axis is open and nothing is compared.
    """
    stand_in = fx.GraphModule(net, copy.deepcopy(net.graph))
    for node, lookup in list(calls(net, LookupConv2d)):
        stand_in.add_submodule(str(node.target), _LookupConvNode(lookup, storage))
    put_in_narrow(net, stand_in)
    put_in(stand_in)
    interface = interface_of(net)
    given = () if tolerance is None else interface.open_axes
    wanted = ((0, 2, 3) if len(input_shape) == 4 else (0,)) if given is None else given
    problem: Exception | None = None
    for axes in dict.fromkeys((wanted, tuple(a for a in wanted if a == 0), tuple(a for a in wanted if a), ())):
        sizes = sizes_of(net, input_shape, axes)
        if any(all(size[axis] == input_shape[axis] for size in sizes) for axis in axes) or not sizes:
            continue  # the exporter takes minutes to find out what the net does not take
        try:
            model = _traced(net, stand_in, (2, *input_shape[1:]) if 0 in axes else input_shape, axes)
            if tolerance is None:
                return model
            found = largest_difference(net, model.SerializeToString(), sizes, native=False)
        except Exception as error:  # the exporter wraps whatever went wrong in its own and other classes
            problem = error  # the last try, which asks for least, says what is wrong
            continue
        # A looser tolerance is for nets that magnify rounding, not for axes that do not hold what they promise.
        allowed = allowed_difference(net, min(tolerance, MAX_DIFFERENCE) if axes else tolerance)
        if found <= allowed:
            if given is not None and axes != given:
                log.warning("the file has fixed sizes that the net leaves open: torch.onnx does not keep them open")
            return model
        out = "raise `tolerance` if this is acceptable" if found < ANOTHER_NET else "please report this net"
        problem = ModelError(f"its outputs differ from torch's by {found:.2e} of their spread, more than {allowed:.0e} ({out})")
    cause: BaseException | None = problem
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__  # the exporter's own words are pages about where it was
    lines = str(cause).strip().splitlines()
    raise ModelError(f"torch.onnx cannot export the net: {type(cause).__name__}: {lines[-1] if lines else ''}") from problem


def _traced(net: fx.GraphModule, stand_in: fx.GraphModule, shape: tuple[int, ...], axes: tuple[int, ...]) -> onnx.ModelProto:
    auto = torch.export.Dim.AUTO
    shapes = (dict.fromkeys(axes, auto),) if axes else None
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            stand_in, (torch.zeros(shape),), dynamo=True, dynamic_shapes=shapes, opset_version=OPSET, verbose=False,
            input_names=["input"], output_names=list(interface_of(net).outputs),
        )  # fmt: skip
    assert program is not None
    return finish(program.model_proto, net)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter: it warns of packages we do not need (torchvision), its own deprecations and unsolved sizes."""
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

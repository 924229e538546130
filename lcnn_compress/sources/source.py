"""A dense net as everything else takes it: loaded, captured, with its input shape and how to find it again."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, fx, nn

from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.artefact.graph_json import from_json, problem_of, to_json
from lcnn_compress.artefact.report import Json
from lcnn_compress.errors import ArtefactError, LcnnError, ModelError, SettingsError
from lcnn_compress.files import sha256_of
from lcnn_compress.forms.kinds import DENSE
from lcnn_compress.net.agreement import TOLERANCE, as_arrays, difference
from lcnn_compress.net.capture import capture, from_program
from lcnn_compress.net.edit import fold_batch_norms
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.net.ordinary import ordinary
from lcnn_compress.operators.interface import interface_of
from lcnn_compress.sources.input_shape import infer_input_shape
from lcnn_compress.sources.load_model import load_model
from lcnn_compress.sources.model import LoadedModel, check_supported_module, example_shape, unwrapped
from lcnn_compress.sources.tensor_check import check_finite

# The kind of origin of a net whose factory, or file, gave its layers but not its weights.
SCRATCH = "scratch"
# Factories of our own, which an artefact may name.
_OURS = re.compile(r"lcnn_compress\.zoo:\w+")


@dataclass(frozen=True)
class Origin:
    """How to find a net again.

    Attributes:
        spec: the path or factory it was loaded from.
        kind: "module", "state_dict", "pt2", "factory", "memory" or SCRATCH.
        arch: the factory of a state_dict.
        sha256: hash of its file, or of its weights where there was no file.
    """

    spec: str
    kind: str
    arch: str | None
    sha256: str


@dataclass(frozen=True)
class Source:
    """A dense net as captured, its input shape (1, ...), how to find it again, and what the user should know about it."""

    net: fx.GraphModule
    input_shape: tuple[int, ...]
    origin: Origin
    notes: tuple[str, ...] = ()

    @cached_property
    def captured(self) -> Captured:
        """The net with its layers, listed once."""
        return Captured.of(self.net, self.input_shape)


def open_source(
    model: nn.Module | torch.export.ExportedProgram | str | Path,
    input_shape: tuple[int, ...] | None = None,
    *,
    arch: str | None = None,
    trust_pickle: bool = False,
    image_size: Callable[[], tuple[int, int] | None] | None = None,
) -> Source:
    """Load and capture a dense net; ``model`` itself is not changed.

    Args:
        model: a module, a program of torch.export, a file of either, or ``pkg.mod:factory``.
        input_shape: (N, C, H, W); without it the shape is found out where that is possible.
        arch: factory for a state_dict, ``pkg.mod:fn`` or ``file.py:fn``.
        trust_pickle: let a pickled model run code.
        image_size: see ``infer_input_shape``.

    Raises:
        ModelError, FileError, SettingsError: the model cannot be read or captured, or its input shape cannot be known.
    """
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        check_supported_module(model, type(model).__name__)
        loaded = LoadedModel(model, "memory", type(model).__name__)
    elif isinstance(model, torch.export.ExportedProgram):
        loaded = LoadedModel(model, "memory", type(model).__name__, input_shape=example_shape(model))
    else:
        loaded = load_model(str(model), arch=arch, trust_pickle=trust_pickle)
    notes = list(loaded.notes)
    shape = input_shape or loaded.input_shape
    if isinstance(loaded.model, nn.Module):
        module, note = _float32_on_cpu(loaded.model)
        notes += [note] if note else []
        if shape is None:
            shape, note = infer_input_shape(module, image_size)
            notes += [note] if note else []
        net = capture(module, torch.zeros(shape))
    else:
        net = from_program(loaded.model)
    if shape is None:
        raise SettingsError(f"{loaded.source}: the input shape is not known; give `input_shape`, for example 1,3,224,224")
    check_finite({**dict(net.named_parameters()), **dict(net.named_buffers())}, loaded.source)
    shape = (1, *shape[1:]) if 0 in (interface_of(net).open_axes or ()) else tuple(shape)
    _check_kept(net, shape, loaded.source)
    notes += interface_of(net).notes
    origin = Origin(loaded.source, loaded.kind, arch, loaded.sha256 or _weights_sha256(net))
    return Source(net, shape, origin, tuple(notes))


@torch.no_grad()
def _check_kept(net: fx.GraphModule, shape: tuple[int, ...], name: str) -> None:
    """Refuse a net that an artefact would not keep, before any work: it is written, read and run once in memory.

    Raises:
        ModelError: something in the net cannot be written, or what is read is not the same net.
    """
    graph, tensors = to_json(net)
    try:
        twin = from_json(json.loads(json.dumps(graph)), load(save(tensors)), name)
    except (ArtefactError, KeyError) as error:  # safetensors raises the type it does not know as a KeyError
        raise ModelError(f"{name}: an artefact would not keep the net: {error.__cause__ or error}") from error
    if (problem := problem_of(twin, shape)) is not None:
        raise ModelError(f"{name}: an artefact would not keep the net: {problem}; check `input_shape`")
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        wanted = as_arrays(net(x.clone()))
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(f"{name}: does not run on an input of {shape}: {reason}; check `input_shape`") from error
    off = difference(as_arrays(twin(x)), wanted)
    if not off <= TOLERANCE:
        raise ModelError(f"{name}: an artefact would not keep the net: its outputs would be {off:.1%} off")


def _float32_on_cpu(model: nn.Module) -> tuple[nn.Module, str | None]:
    """Return a model of other floating types, or on a GPU, as a copy in float32 on the CPU, with a note if types change."""
    tensors = [*model.parameters(), *model.buffers()]
    types = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    if not types and all(t.device.type == "cpu" for t in tensors):
        return model, None
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
    return copy.deepcopy(model).float().cpu(), f"the net holds {names}; it is taken as float32" if types else None


def identified(artefact: Artefact, source: Source) -> Artefact:
    """Return an artefact that says which net it was made from."""
    # Where the model lies decides nothing, so it is in the report only: the configuration has the same bytes anywhere.
    identity = {key: value for key, value in asdict(source.origin).items() if key != "spec"}
    config = {**artefact.config, "model": identity, "input_shape": list(source.input_shape)}
    report = replace(artefact.report, model=source.origin.spec, settings=config, notes=source.notes)
    return replace(artefact, config=config, report=report)


@ordinary
def find_dense(artefact: Artefact, path: Path, trust_pickle: bool = False) -> Source | str:
    """Return the dense net that an artefact at ``path`` was made from, or why it cannot be had."""
    origin, spec = artefact.config.get("model", {}), artefact.report.model
    if spec is None or origin.get("kind") in (None, "memory"):
        return "the net was compressed from memory"
    if origin["kind"] == SCRATCH:
        return "the net was trained from scratch, so that there is no dense one that it was made from"
    by_code = spec if origin["kind"] == "factory" else origin.get("arch")
    if by_code and not trust_pickle and not _OURS.fullmatch(str(by_code)):
        return f"it is made by the code {by_code}, which an artefact may name but only `trust_pickle` runs"
    beside = path.resolve().parent / spec
    if origin["kind"] != "factory":
        if not beside.is_file():
            return f"{spec}: no such file beside the artefact"
        spec = os.path.relpath(beside)
        if sha256_of(beside) != origin.get("sha256"):
            return f"{spec}: has changed since it was compressed"
    try:
        source = open_source(spec, artefact.input_shape, arch=origin.get("arch"), trust_pickle=trust_pickle)
    except LcnnError as error:
        return str(error)
    if source.origin.sha256 != origin.get("sha256"):
        return f"{spec}: has changed since it was compressed"
    return source


def folded(net: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of a net with its batch norms folded into the layers before them."""
    net = copy.deepcopy(net)
    fold_batch_norms(net)
    return net


@ordinary
def dense_rows(net: fx.GraphModule, input_shape: tuple[int, ...]) -> list[Json]:
    """Return a row for each layer of a dense net: names, shapes, MACs and what stands against compressing it."""
    return [
        {
            "name": layer.name, "type": type(layer.module).__name__, "kind": DENSE.name, "reason": layer.obstacle or "",
            "in_channels": layer.in_channels, "out_channels": layer.out_channels, "kernel": list(layer.geometry.kernel),
            "macs_dense": layer.dense_macs, "macs": layer.dense_macs,
        }
        for layer in layers(net, torch.zeros(input_shape))
    ]  # fmt: skip


def _weights_sha256(net: fx.GraphModule) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode(errors="backslashreplace") + _bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    if not tensor.ndim:
        return str(tensor.item()).encode()
    # The tensor is flattened first: an axis of length 1 may have any stride even in one that calls itself contiguous.
    return tensor.detach().flatten().view(torch.uint8).numpy().tobytes()

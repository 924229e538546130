"""The Python interface: what the command line does, as functions."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from lcnn_compress import runtime
from lcnn_compress.artefact.artefact import Artefact, load_artefact, save_artefact
from lcnn_compress.artefact.report import Report
from lcnn_compress.bench.compare import BenchSettings, compare
from lcnn_compress.compress.pipeline import compress_net
from lcnn_compress.compress.plan import LayerPlan
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.data.examples import Examples
from lcnn_compress.data.score import Score, onnx_runner, score, torch_runner
from lcnn_compress.errors import DataError, LcnnError, SettingsError
from lcnn_compress.export.nodes import constants_of
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.export.to_onnx import export_onnx as export_net
from lcnn_compress.files import write_atomically
from lcnn_compress.net.capture import capture, from_program
from lcnn_compress.net.edit import fold_batch_norms
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.operators.common import FIRST_STAGE
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search import search
from lcnn_compress.search.sensitivity import SensitivitySettings
from lcnn_compress.search.sensitivity import sensitivity as layer_sensitivity
from lcnn_compress.search.target import Target
from lcnn_compress.sources.input_shape import infer_input_shape
from lcnn_compress.sources.load_model import load_model
from lcnn_compress.sources.model import LoadedModel, unwrapped


@dataclass(frozen=True)
class Source:
    """A dense net as captured, its input shape (1, ...), and how to find it again."""

    net: fx.GraphModule
    input_shape: tuple[int, ...]
    origin: dict[str, Any]
    notes: tuple[str, ...] = ()

    @cached_property
    def captured(self) -> Captured:
        """The net with its layers, listed once."""
        return Captured.of(self.net, self.input_shape)


def open_model(
    model: nn.Module | str | Path,
    input_shape: tuple[int, ...] | None = None,
    *,
    arch: str | None = None,
    trust_pickle: bool = False,
) -> Source:
    """Load and capture a dense net.

    Args:
        model: a module, or whatever ``lcnn compress`` takes: a path or ``pkg.mod:factory``.
        input_shape: (N, C, H, W); found out where that is possible.
        arch: factory for a state_dict, ``pkg.mod:fn`` or ``file.py:fn``.
        trust_pickle: let a pickled model run code.

    Raises:
        ModelError, FileError, SettingsError: it cannot be read or captured, or its input shape cannot be known.
    """
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        loaded = LoadedModel(model, "memory", type(model).__name__, None, None, None, ())
    else:
        loaded = load_model(str(model), arch=arch, trust_pickle=trust_pickle)
    notes = list(loaded.notes)
    shape = input_shape or loaded.input_shape
    if isinstance(loaded.model, nn.Module):
        module, note = _float32_on_cpu(loaded.model)
        notes += [note] if note else []
        if shape is None:
            shape, note = infer_input_shape(module)
            notes += [note] if note else []
        net = capture(module, torch.zeros(shape))
    else:
        net = from_program(loaded.model)
    if shape is None:
        raise SettingsError(f"{loaded.source}: the input shape is not known; give --input-shape, for example 1,3,224,224")
    sha256 = loaded.sha256 or _weights_sha256(net)
    origin = {"spec": loaded.source, "kind": loaded.kind, "arch": arch, "sha256": sha256}
    return Source(net, (1, *shape[1:]), origin, tuple(notes))


def _float32_on_cpu(model: nn.Module) -> tuple[nn.Module, str | None]:
    """Return a model of other floating types, or on a GPU, as a copy in float32 on the CPU, with a note if types change."""
    tensors = [*model.parameters(), *model.buffers()]
    types = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    if not types and all(t.device.type == "cpu" for t in tensors):
        return model, None
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
    return copy.deepcopy(model).float().cpu(), f"the net holds {names}; it is taken as float32" if types else None


def compress(
    model: nn.Module | str | Path | Source,
    dictionary: str | int | float | None = None,
    *,
    lookups: int | float | None = None,
    input_shape: tuple[int, ...] | None = None,
    settings: CompressSettings = CompressSettings(),
    data: TrainingData = TrainingData(),
    progress: Progress = silent,
) -> Artefact:
    """Compress a net: ``compress(model, 30)``. ``dictionary`` and ``lookups`` take precedence over ``settings.plan``.

    Raises:
        LcnnError: the model, an option or the data cannot be used; the message says which and what to do.
    """
    plan = settings.plan
    if dictionary is not None:
        plan = replace(plan, dictionary=str(dictionary))
    if lookups is not None:
        plan = replace(plan, lookups=lookups)
    source = model if isinstance(model, Source) else open_model(model, input_shape)
    return compress_source(source, replace(settings, plan=plan), data, progress=progress)


def compress_source(
    source: Source,
    settings: CompressSettings,
    data: TrainingData = TrainingData(),
    plans: Sequence[LayerPlan] | None = None,
    progress: Progress = silent,
) -> Artefact:
    """Compress a loaded model; with the ``plans`` of an earlier run its decisions are repeated and nothing is measured."""
    return _identified(compress_net(source.captured, settings, _fitting(data, source), plans, progress), source)


def compress_to_target(
    source: Source, settings: CompressSettings, target: Target, data: TrainingData = TrainingData(), progress: Progress = silent
) -> Artefact:
    """Compress a loaded model to a speed-up, latency, file size or largest drop; see ``budget_run.compress_to_target``."""
    artefact = search.compress_to_target(source.captured, settings, target, _fitting(data, source), progress=progress)
    return _identified(artefact, source)


def forecast(
    source: Source, settings: CompressSettings, target: Target, data: TrainingData = TrainingData(), progress: Progress = silent
) -> dict[str, Any]:
    """Return the plan for a target and what it is expected to give; nothing is built."""
    return search.forecast(source.captured, settings, target, _fitting(data, source), progress=progress)


def sensitivity(
    source: Source, settings: SensitivitySettings, data: TrainingData, progress: Progress = silent
) -> dict[str, Any]:
    """Return what compressing one layer alone costs; see ``sensitivity.sensitivity``."""
    return layer_sensitivity(source.captured, settings, _fitting(data, source), progress)


def _fitting(data: TrainingData, source: Source) -> TrainingData:
    """Return the data if the net takes two of its inputs at once."""
    x = data.calibration[0][:2] if data.calibration else None
    if x is None and data.examples is not None:
        x = data.examples.batch(torch.arange(min(2, len(data.examples))))[0]
    if x is not None:
        try:
            with torch.no_grad():
                source.net.eval()(x)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"the net does not take a batch of {tuple(x.shape)} of the data: {reason}; compress it without data if its own "
                "code fixes how many images it takes"
            ) from error
    return data


def _identified(artefact: Artefact, source: Source) -> Artefact:
    # Where the model lies decides nothing, so it is in the report only: the configuration has the same bytes anywhere.
    identity = {key: source.origin[key] for key in ("kind", "arch", "sha256")}
    config = {**artefact.config, "model": identity, "input_shape": list(source.input_shape)}
    report = replace(artefact.report, model=source.origin["spec"], settings=config, notes=source.notes)
    return replace(artefact, config=config, report=report)


def save(artefact: Artefact, path: str | Path) -> None:
    """Write an artefact directory; see ``artefact.save_artefact``."""
    path = Path(path)
    kind, spec = artefact.config.get("model", {}).get("kind"), artefact.report.model
    if spec is not None and kind not in (None, "memory", "factory") and Path(spec).exists():
        # Relative to the artefact, so that both can be moved together.
        relative = os.path.relpath(Path(spec).resolve(), path.resolve().parent)
        artefact = replace(artefact, report=replace(artefact.report, model=relative))
    save_artefact(artefact, path)


def load(path: str | Path) -> Artefact:
    """Read an artefact directory; ``load(path).net`` is a torch module. Raises ArtefactError or FileError."""
    return load_artefact(Path(path))


def export_onnx(artefact: Artefact, path: str | Path, settings: ExportSettings | None = None) -> float:
    """Write an artefact as ONNX after checking it against torch; return the largest relative difference.

    Raises:
        ModelError: the check failed; nothing was written.
        SettingsError: 8 bits are asked for, and the artefact was not rounded to them.
    """
    made = artefact.config["coefficients"]
    settings = settings or ExportSettings(storage=made)
    if settings.storage == "int8" != made:
        raise SettingsError(
            f"--coefficients is 'int8', but the artefact was made with --coefficients {made}, and dictionaries are rounded to "
            "8 bits when it is made: compress it with --coefficients int8"
        )
    return export_net(artefact.net, Path(path), artefact.input_shape, settings, {"layers": layer_rows(artefact.report)})


def bench(lookup: str | Path, dense: str | Path | None = None, settings: BenchSettings | None = None) -> dict[str, Any]:
    """Compare an exported ONNX file with a dense one (by default its own dense form); the object of ``lcnn bench --json``."""
    settings = settings or BenchSettings()
    if dense is not None:
        return asdict(compare(Path(dense), Path(lookup), settings))
    with tempfile.TemporaryDirectory(prefix="lcnn-") as folder:
        path = Path(folder) / "dense.onnx"
        write_dense_form(Path(lookup), path)
        return asdict(compare(path, Path(lookup), settings)) | {"dense_source": "dense form of the same file"}


def write_dense_form(lookup: Path, path: Path) -> None:
    """Write the dense form of an exported ONNX file."""
    runtime.session(lookup)  # a damaged file is refused here, with its name
    model = dense_form(onnx.load(lookup))
    write_atomically(path, model.SerializeToString())


def export_dense(source: Source, path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the dense net a model file holds as ONNX, batch norms folded."""
    net = source.net
    fold_batch_norms(net)
    model = to_onnx(net, source.input_shape, ExportSettings(), {"layers": rows})
    write_atomically(path, model.SerializeToString())


def find_dense(artefact: Artefact, path: Path, trust_pickle: bool = False) -> Source | str:
    """Return the dense net an artefact was made from, or why it cannot be had."""
    origin, spec = artefact.config.get("model", {}), artefact.report.model
    if spec is None or origin.get("kind") in (None, "memory"):
        return "the net was compressed from memory"
    beside = path.resolve().parent / spec
    if origin["kind"] != "factory" and beside.exists():
        spec = os.path.relpath(beside)
    try:
        source = open_model(spec, artefact.input_shape, arch=origin["arch"], trust_pickle=trust_pickle)
    except LcnnError as error:
        return str(error)
    if source.origin["sha256"] != origin["sha256"]:
        return f"{spec}: has changed since it was compressed"
    return source


def describe_onnx(path: Path) -> dict[str, Any]:
    """Return the facts and layers an ONNX file tells about itself."""
    runtime.session(path)  # a damaged file is refused here, with its name
    model = onnx.load(path)
    kinds = Counter(f"{node.domain}::{node.op_type}".removeprefix("::") for node in model.graph.node)
    stored = {entry.key: json.loads(entry.value) for entry in model.metadata_props if entry.key.startswith("lcnn.")}
    facts = {
        "file": str(path), "bytes": path.stat().st_size, "input": stored.get("lcnn.input_shape"),
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "operators": dict(kinds.most_common()), "body for other runtimes": bool(model.functions),
    }  # fmt: skip
    nodes = {node.name: node for node in model.graph.node}
    constants, rows = constants_of(model.graph), stored.get("lcnn.layers", [])
    found = [row for row in rows if row["name"] in nodes and nodes[row["name"]].input[1] in constants]
    if missing := [row["name"] for row in rows if row not in found]:
        facts["layers without a node of their name"] = ", ".join(missing)
    return {"facts": facts, "layers": [_onnx_row(row, nodes, constants) for row in found]}


def _onnx_row(row: dict[str, Any], nodes: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> dict[str, Any]:
    """Complete a stored row with the shapes found in the file."""
    node, first = nodes[row["name"]], nodes.get(row["name"] + FIRST_STAGE)
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    dims = list(constants[node.input[1]].dims)
    if first is not None:
        channels, size = constants[first.input[1]].dims[1] * groups, dims[1]
        shape = {"in_channels": channels, "out_channels": dims[0], "kernel": dims[2:]}
        return row | shape | {"dictionary_size": size, "lookups_per_position": float(size)}
    kernel = next((list(a.ints) for a in node.attribute if a.name == "kernel_shape"), [1, 1])
    if row["kind"] == "dense":
        flipped = node.op_type == "MatMul"
        return row | {
            "in_channels": dims[0 if flipped else 1] * groups,
            "out_channels": dims[1 if flipped else 0],
            "kernel": kernel,
        }
    filters, entries = constants[node.input[4]].dims[0], constants[node.input[2]].dims[0]
    return row | {
        "in_channels": dims[1] * groups, "out_channels": filters, "kernel": kernel, "dictionary_size": dims[0] // groups,
        "lookups_per_position": entries / (filters * kernel[0] * kernel[1]),
    }  # fmt: skip


def evaluate(model: fx.GraphModule | str | Path, examples: Examples, progress: Progress = silent) -> Score:
    """Score a captured net, or an ONNX file by its path. Raises DataError where the examples do not fit."""
    run = torch_runner(model) if isinstance(model, fx.GraphModule) else onnx_runner(runtime.session(Path(model)))
    return score(run, examples, progress)


def dense_rows(net: fx.GraphModule, input_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the rows of ``lcnn inspect`` for a dense net: names, shapes, MACs and what stands against compressing it."""
    return [
        {
            "name": layer.name, "type": type(layer.module).__name__, "kind": "dense", "reason": layer.obstacle or "",
            "in_channels": layer.in_channels, "out_channels": layer.out_channels, "kernel": list(layer.geometry.kernel),
            "macs_dense": layer.dense_macs, "macs": layer.dense_macs,
        }
        for layer in layers(net, torch.zeros(input_shape))
    ]  # fmt: skip


def layer_rows(report: Report) -> list[dict[str, Any]]:
    """Return what an exported file says about each layer."""
    return [{key: getattr(row, key) for key in ("name", "kind", "reason", "macs_dense", "macs")} for row in report.layers]


def _weights_sha256(net: fx.GraphModule) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode() + _bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    if not tensor.ndim:
        return str(tensor.item()).encode()
    # Flat first: an axis of length 1 may have any stride in a tensor that calls itself contiguous.
    return tensor.detach().flatten().view(torch.uint8).numpy().tobytes()

"""The Python interface: everything the command line can do, as functions.

The path of a model is what ``lcnn compress`` takes: model.pt, .pt2, a state_dict (with ``arch``), or a factory ``pkg.mod:fn``.
Functions that take ``progress`` call it with the stage of the work, the steps done, and the steps in total. A call leaves the
state of torch and the modes of modules as they were (``net/ordinary.py``); calls of several threads take turns.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from lcnn_compress import runtime
from lcnn_compress.artefact.artefact import Artefact, load_artefact, save_artefact
from lcnn_compress.artefact.artefact import check_place as check_artefact_place
from lcnn_compress.artefact.report import Report
from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.benchmark.compare import compare
from lcnn_compress.benchmark.suite import run_suite
from lcnn_compress.benchmark.suite_cases import SUITES
from lcnn_compress.compression.checkpoint_folder import CheckpointFolder
from lcnn_compress.compression.configuration import Configuration, read_configuration
from lcnn_compress.compression.pipeline import compress_net
from lcnn_compress.compression.settings import CompressSettings, LayerPlan, PlanSettings, TrainingData
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.data.evaluate import Evaluation, evaluate, evaluate_file
from lcnn_compress.data.examples import Examples, Preprocessing
from lcnn_compress.data.load_data import image_size, load_parts
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.data.score import Score
from lcnn_compress.errors import DataError, LcnnError, SettingsError
from lcnn_compress.export.describe import Description, describe_artefact, describe_onnx
from lcnn_compress.export.export_settings import ExportSettings
from lcnn_compress.export.rewrite import dense_form
from lcnn_compress.export.to_onnx import export_onnx as export_net
from lcnn_compress.export.to_onnx import to_onnx
from lcnn_compress.files import temporary_folder, write_atomically
from lcnn_compress.net.ordinary import of_ordinary_tensors, ordinary
from lcnn_compress.operators.interface import interface_of
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search import search
from lcnn_compress.search.sensitivity import picture as sensitivity_picture
from lcnn_compress.search.sensitivity import sensitivity as layer_sensitivity
from lcnn_compress.search.target import SensitivitySettings, Target
from lcnn_compress.self_test import check as doctor
from lcnn_compress.sources.source import Origin, Source, dense_rows, find_dense, folded, identified, open_source
from lcnn_compress.train.recipe import FinetuneSettings

__all__ = [
    "Artefact", "BenchSettings", "CompressSettings", "Configuration", "DataSettings", "Description", "Evaluation", "Examples",
    "ExportSettings", "FinetuneSettings", "LayerPlan", "LcnnError", "Origin", "PlanSettings", "Preprocessing", "Score",
    "SensitivitySettings", "Source", "Target", "TrainingData", "bench", "check_place", "compress", "compress_and_save",
    "compress_source", "compress_to_target", "dense_rows", "describe_onnx", "doctor", "evaluate", "evaluate_file",
    "export_dense", "export_onnx", "find_dense", "forecast", "inspect", "layer_rows", "load", "load_data", "load_examples",
    "open_model", "read_configuration", "save", "sensitivity", "sensitivity_picture", "suite", "write_dense_form",
]  # fmt: skip


@ordinary
def open_model(
    model: nn.Module | str | Path,
    input_shape: tuple[int, ...] | None = None,
    *,
    arch: str | None = None,
    trust_pickle: bool = False,
    data: DataSettings | None = None,
) -> Source:
    """Load and capture a dense net; a module that is given is not changed.

    Args:
        model: a module, or a path or factory.
        input_shape: (N, C, H, W) or (N, features); without it the shape is found out where that is possible.
        arch: factory for a state_dict, ``pkg.mod:fn`` or ``file.py:fn``.
        trust_pickle: let a pickled model run code.
        data: if the net takes images of several sizes and all images of this data have one size, the input has that size.

    Raises:
        ModelError, FileError, SettingsError: the model cannot be read or captured, or its input shape cannot be known.
    """
    size = None if data is None else lambda: image_size(data)
    return open_source(of_ordinary_tensors(model), input_shape, arch=arch, trust_pickle=trust_pickle, image_size=size)


@ordinary
def load_data(data: DataSettings, input_shape: tuple[int, ...], *, seed: int = 0, limit: int | None = None) -> TrainingData:
    """Load what may improve a compressed net; with training data alone, ``data.samples`` of its examples calibrate.

    Args:
        data: where the data lies and how it is prepared.
        input_shape: (N, C, H, W) or (N, features) of the net, ``open_model(...).input_shape``.
        seed: decides which examples are drawn.
        limit: use at most so many training examples.

    Raises:
        DataError, FileError, SettingsError: the data cannot be used, or does not fit the net.
    """
    parts = load_parts(data, input_shape, seed=seed, limit=limit)
    made = TrainingData(parts.calibration, parts.examples, parts.held_out, origin=data.recorded(), task=data.task)
    return made.calibrated(data.samples)


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

    Args:
        input_shape: (N, C, H, W) or (N, features); needed where the shape cannot be found out.
        data: from ``load_data``, or made from tensors.

    Raises:
        LcnnError: the model, a setting or the data cannot be used; the message says which and what to do.
    """
    plan = settings.plan
    if dictionary is not None:
        plan = replace(plan, dictionary=str(dictionary))
    if lookups is not None:
        plan = replace(plan, lookups=lookups)
    source = model if isinstance(model, Source) else open_model(model, input_shape)
    return compress_source(source, replace(settings, plan=plan), data, progress=progress)


@ordinary
def compress_source(
    source: Source,
    settings: CompressSettings,
    data: TrainingData = TrainingData(),
    plans: Sequence[LayerPlan] | None = None,
    progress: Progress = silent,
) -> Artefact:
    """Compress an opened model; with the ``plans`` of an earlier run its decisions are repeated and nothing is measured.

    Raises:
        LcnnError: a setting or the data does not fit the net.
    """
    made = compress_net(source.captured, settings, _fitting(data, source), plans, progress)
    return identified(made, source)


@ordinary
def compress_to_target(
    source: Source, settings: CompressSettings, target: Target, data: TrainingData = TrainingData(), progress: Progress = silent
) -> Artefact:
    """Compress an opened model to a speed-up, a latency (ms), a file size (MB of 10**6 bytes) or a largest drop.

    ``settings.plan`` says which layers may be compressed; its dictionary plays no part. A largest drop is judged on
    ``data.held_out``: ``load_data(DataSettings(data=..., held_out=0.3), ...)``.

    Raises:
        SettingsError: the target cannot be reached, or settings or data do not go with it.
        MissingError: the native library is not there.
    """
    artefact = search.compress_to_target(source.captured, settings, target, _fitting(data, source), progress=progress)
    return identified(artefact, source)


def check_place(path: str | Path, *, trains: bool = False, resume: bool = False) -> None:
    """Refuse a place for an artefact, or for its checkpoint, before any work is done.

    Args:
        path: where the artefact is to be written.
        trains: whether the compression fine-tunes and so keeps a checkpoint beside it.
        resume: whether the compression continues an interrupted one.

    Raises:
        SettingsError: something else is there, or a checkpoint that does not go with ``resume``.
        ArtefactError: the checkpoint is damaged.
        FileError: the folder of ``path`` is not there or may not be written.
    """
    check_artefact_place(Path(path))
    CheckpointFolder(Path(path)).earlier_plans(trains, resume)


def compress_and_save(
    source: Source,
    path: str | Path,
    configuration: Configuration,
    data: TrainingData = TrainingData(),
    *,
    target: Target | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Artefact:
    """Compress an opened model and write the artefact. A fine-tuning that is interrupted can be resumed.

    Args:
        path: where the artefact is written; the folder ``PATH.checkpoint`` keeps the training until then.
        configuration: holds the settings, and from ``read_configuration`` perhaps plans, which are repeated.
        data: from ``load_data(configuration.data, source.input_shape, seed=configuration.settings.seed)``.
        target: what is asked for instead of ``configuration.settings.plan.dictionary``.
        resume: continue the fine-tuning that an interrupt left; everything else must be as in the first run.

    Raises:
        LcnnError: as ``check_place``, ``compress_source`` and ``compress_to_target``.
        KeyboardInterrupt: on ctrl-C, with a message where the work was kept.
    """
    path, settings = Path(path), configuration.settings
    trains = settings.finetune is not None
    check_artefact_place(path)
    checkpoint = CheckpointFolder(path)
    plans = checkpoint.earlier_plans(trains, resume) or configuration.plans
    with checkpoint.keeping(data, resume) if trains else nullcontext(data) as kept:
        if target is None or plans is not None:
            artefact = compress_source(source, settings, kept, plans, progress)
        else:
            artefact = compress_to_target(source, settings, target, kept, progress)
        save(artefact, path)
    return artefact


@ordinary
def forecast(
    source: Source, settings: CompressSettings, target: Target, data: TrainingData = TrainingData(), progress: Progress = silent
) -> dict[str, Any]:
    """Return the plan for a target and what it is expected to give, the object of ``--dry-run --json``; nothing is built.

    Raises LcnnError as ``compress_to_target``.
    """
    return search.forecast(source.captured, settings, target, _fitting(data, source), progress=progress)


@ordinary
def sensitivity(
    source: Source, settings: SensitivitySettings, data: TrainingData, progress: Progress = silent
) -> dict[str, Any]:
    """Return what compressing one layer alone costs, the object of ``lcnn sensitivity --json``.

    Raises:
        DataError: there is no data to calibrate with, or it does not fit the net.
        SettingsError: no layer can be compressed.
    """
    return layer_sensitivity(source.captured, settings, _fitting(data, source), progress)


def _fitting(data: TrainingData, source: Source) -> TrainingData:
    """Return the data, or raise DataError where the net does not take two of its inputs at once."""
    x = data.calibration[0][:2] if data.calibration else None
    if x is None and data.examples is not None:
        x = data.examples.batch(torch.arange(min(2, len(data.examples))))[0]
    if x is not None:
        reason = interface_of(source.net).misfit(x.shape)
        try:
            with torch.no_grad():
                source.net(x.clone())
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
        if reason is not None:
            way_out = "compress it without data if its own code fixes how many images it takes"
            raise DataError(f"the net does not take a batch of {tuple(x.shape)} of the data: {reason}; {way_out}")
    return data


@ordinary
def save(artefact: Artefact, path: str | Path) -> None:
    """Write an artefact directory; one already there is replaced only once the new one is complete. Raises FileError."""
    path = Path(path)
    kind, spec = artefact.config.get("model", {}).get("kind"), artefact.report.model
    if spec is not None and kind not in (None, "memory", "factory") and Path(spec).exists():
        # The path is relative to the artefact, so that both can be moved together.
        relative = os.path.relpath(Path(spec).resolve(), path.resolve().parent)
        artefact = replace(artefact, report=replace(artefact.report, model=relative))
    save_artefact(artefact, path)


@ordinary
def load(path: str | Path) -> Artefact:
    """Read an artefact directory; ``load(path).net`` is a torch module. Raises ArtefactError or FileError."""
    return load_artefact(Path(path))


@ordinary
def export_onnx(artefact: Artefact, path: str | Path, settings: ExportSettings | None = None) -> float:
    """Write an artefact as ONNX after checking it against torch; return the largest relative difference.

    Without ``settings`` factors are stored in the type that the artefact was made with.

    Raises:
        ModelError: the check failed; nothing was written.
        SettingsError: 8 bits are asked for, and the artefact was not rounded to them.
        FileError: the file cannot be written.
    """
    made = artefact.config["coefficients"]
    settings = settings or ExportSettings(storage=made)
    if settings.storage == "int8" != made:
        raise SettingsError(
            f"`storage` is 'int8', but the artefact was made with `storage` {made}, and dictionaries are rounded to "
            "8 bits when it is made: compress it with `storage` int8"
        )
    return export_net(artefact.net, Path(path), artefact.input_shape, settings, {"layers": layer_rows(artefact.report)})


def layer_rows(report: Report) -> list[dict[str, Any]]:
    """Return what an exported file says about each layer."""
    return [{key: getattr(row, key) for key in ("name", "kind", "reason", "macs_dense", "macs")} for row in report.layers]


@ordinary
def export_dense(source: Source, path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write an opened dense net as ONNX, batch norms folded; ``rows`` are the ``layer_rows`` of the net it is compared with.

    Raises:
        ModelError: torch's exporter fails on the net.
        FileError: the file cannot be written.
    """
    model = to_onnx(folded(source.net), source.input_shape, ExportSettings(), {"layers": rows})
    write_atomically(Path(path), model.SerializeToString())


def write_dense_form(lookup: str | Path, path: str | Path) -> None:
    """Write the dense form of an exported ONNX file. Raises ArtefactError or FileError."""
    runtime.session(lookup)  # a damaged file is refused here, with its name
    model = dense_form(onnx.load(lookup))
    write_atomically(Path(path), model.SerializeToString())


@ordinary
def bench(
    lookup: str | Path, dense: str | Path | None = None, settings: BenchSettings | None = None, *,
    data: DataSettings = DataSettings(), trust_pickle: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measure a net against the dense one and what else runs that; return the object of ``lcnn bench --json``, and "notes".

    Args:
        lookup: an exported ONNX file, or an artefact.
        dense: an ONNX file; without it the net the artefact was made from is used, or else the dense form of the same file.
        data: whose images to calibrate with int8 takes its ranges from; without any it takes random ones.
        trust_pickle: let the file of the original net run code.

    Raises:
        ArtefactError, FileError: a file is damaged or missing.
        SettingsError: the files are not forms of one net, or a batch does not fit.
    """
    lookup, settings = Path(lookup), settings or BenchSettings()
    with temporary_folder() as folder:
        file, against, named, notes = lookup, folder / "dense.onnx", "dense form of the same file", []
        if lookup.suffix != ".onnx":
            artefact, file = load(lookup), lookup / "model.onnx"
            if not file.is_file():
                file = folder / "lookup.onnx"
                export_onnx(artefact, file)
            source = find_dense(artefact, lookup, trust_pickle) if dense is None else None
            if isinstance(source, Source):
                export_dense(source, against, layer_rows(artefact.report))
                named = f"original net {source.origin.spec}"
            elif source is not None:
                notes = [f"the original net cannot be used ({source})"]
        if dense is not None:
            against, named = Path(dense), str(dense)
        elif not against.exists():
            write_dense_form(file, against)
        images = (lambda shape: torch.cat([*load_data(data, shape).calibration]).numpy()) if data.calib or data.data else None
        sources = {"dense_source": named, "lookup_source": str(lookup if file.parent == folder else file), "notes": notes}
        return asdict(compare(against, file, settings, images)) | sources


@ordinary
def suite(name: str, settings: BenchSettings = BenchSettings(), progress: Progress = silent) -> dict[str, Any]:
    """Measure known nets with synthetic patterns; return the object of ``lcnn bench --suite --json``.

    Raises SettingsError where there is no suite of that name.
    """
    if name not in SUITES:
        raise SettingsError(f"`suite` is '{name}'; it must be {' or '.join(SUITES)}")
    return asdict(run_suite(settings, SUITES[name], progress, name=name))


@ordinary
def inspect(
    path: str | Path, *, arch: str | None = None, input_shape: tuple[int, ...] | None = None, trust_pickle: bool = False
) -> Description:
    """Describe a model, an artefact or an ONNX file: facts, and a row for each layer with shapes and MACs for one image.

    Raises LcnnError where ``path`` cannot be read.
    """
    if Path(path).is_dir():
        return describe_artefact(load(path), Path(path))
    if Path(path).suffix == ".onnx":
        return describe_onnx(Path(path))
    source = open_model(path, input_shape, arch=arch, trust_pickle=trust_pickle)
    rows = dense_rows(source.net, source.input_shape)
    facts = {
        "model": str(path), "kind": source.origin.kind, "input": list(source.input_shape),
        "parameters": sum(p.numel() for p in folded(source.net).parameters()), "macs": sum(row["macs"] for row in rows),
    }  # fmt: skip
    return Description(facts, rows, source.notes)

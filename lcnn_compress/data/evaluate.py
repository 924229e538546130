"""Score what the user names: an artefact beside the dense net it was made from, a model, or an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import fx

from lcnn_compress import runtime
from lcnn_compress.artefact.artefact import is_artefact, load_artefact
from lcnn_compress.artefact.report import Json
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.data.examples import Examples, Preprocessing
from lcnn_compress.data.load_data import image_size
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.data.score import Score, onnx_runner, score, torch_runner
from lcnn_compress.errors import ModelError, SettingsError
from lcnn_compress.net.ordinary import ordinary
from lcnn_compress.progress import Progress, silent
from lcnn_compress.sources.source import find_dense, open_source

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


@ordinary
def evaluate(model: fx.GraphModule | str | Path, examples: Examples, progress: Progress = silent) -> Score:
    """Score a captured net, or an ONNX file by its path. Raises DataError where the examples do not fit."""
    run = torch_runner(model) if isinstance(model, fx.GraphModule) else onnx_runner(runtime.session(Path(model)))
    return score(run, examples, progress)


@dataclass(frozen=True)
class Evaluation:
    """Scores of a dense and of a compressed net, None for one that is not there, in the unit of ``metric`` on ``n`` images."""

    metric: str
    dense: float | None
    lookup: float | None
    n: int
    notes: tuple[str, ...] = ()


@ordinary
def evaluate_file(
    path: str | Path,
    data: DataSettings,
    *,
    limit: int | None = None,
    arch: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    trust_pickle: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Score an artefact beside its dense net, a model, or an ONNX file, on ``data.data``.

    Inputs of an artefact are normalised by the mean and std it was compressed with unless ``data`` has its own.

    Args:
        limit: use at most so many examples, drawn at random.
        arch, input_shape, trust_pickle: how a model is opened, as for ``open_source``.

    Raises:
        DataError, FileError, SettingsError: the data cannot be used.
        ArtefactError, ModelError: the artefact, file or model cannot be used.
    """
    path = Path(path)
    if is_artefact(path):
        return _evaluate_artefact(path, data, limit, trust_pickle, progress)
    if path.suffix == ".onnx":
        shape = shape_taken(path)
        found = evaluate(path, _examples(data, shape, limit), progress)
        return Evaluation(found.metric, None, found.value, found.n, found.notes)
    source = open_source(str(path), input_shape, arch=arch, trust_pickle=trust_pickle, image_size=lambda: image_size(data))
    found = evaluate(source.net, _examples(data, source.input_shape, limit), progress)
    return Evaluation(found.metric, found.value, None, found.n, (*source.notes, *found.notes))


def shape_taken(path: Path) -> tuple[int, ...]:
    """Return the shape of the input of an ONNX file, 0 for what is open. Raises ModelError where its outputs mean nothing."""
    session = runtime.session(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "no input"
        raise ModelError(f"{path}: takes {names}; only files with one input can be used")
    if not outputs or outputs[0].type not in FLOATS:
        found = outputs[0].type if outputs else "nothing"
        raise ModelError(f"{path}: returns {found} first; only files that return floats can be used")
    return tuple(size if isinstance(size, int) else 0 for size in inputs[0].shape)


def _evaluate_artefact(path: Path, data: DataSettings, limit: int | None, trust_pickle: bool, progress: Progress) -> Evaluation:
    artefact = load_artefact(path)
    data, notes = prepared_as_before(data, artefact.config.get("data") or {})
    examples = _examples(data, artefact.input_shape, limit)
    found = evaluate(artefact.net, examples, progress)
    notes += found.notes
    source = find_dense(artefact, path, trust_pickle)
    if isinstance(source, str):
        return Evaluation(found.metric, None, found.value, found.n, (*notes, f"no dense figure: {source}"))
    return Evaluation(found.metric, evaluate(source.net, examples, progress).value, found.value, found.n, notes)


def _examples(data: DataSettings, input_shape: tuple[int, ...], limit: int | None) -> Examples:
    if data.data is None:
        raise SettingsError("`data` is missing; evaluation needs labelled examples")
    return load_examples(data.data, input_shape, Preprocessing(data.mean, data.std), limit=limit)


def prepared_as_before(data: DataSettings, recorded: Json) -> tuple[DataSettings, tuple[str, ...]]:
    """Return ``data`` with the mean and std the net was compressed with, unless it has its own, and a note saying so."""
    mean, std = recorded.get("mean"), recorded.get("std")
    if data.mean is not None or data.std is not None or not (mean or std):
        return data, ()
    data = replace(data, mean=mean and tuple(mean), std=std and tuple(std))
    return data, (f"mean {mean} and std {std} as in compression",)

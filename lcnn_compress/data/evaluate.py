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
from lcnn_compress.data.label_table import is_table, label_names, read_table, require_images
from lcnn_compress.data.load_data import image_size
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.data.score import LabelScores, Score, onnx_runner, score, torch_runner
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import ModelError, SettingsError
from lcnn_compress.net.ordinary import ordinary
from lcnn_compress.progress import Progress, silent
from lcnn_compress.sources.source import find_dense, open_source

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


@ordinary
def evaluate(
    model: fx.GraphModule | str | Path, examples: Examples, progress: Progress = silent, task: Task | None = None
) -> Score:
    """Score a captured net, or an ONNX file by its path; ``task`` says what labels mean, where their type does not tell.

    Raises:
        DataError: the examples or the task do not fit.
    """
    run = torch_runner(model) if isinstance(model, fx.GraphModule) else onnx_runner(runtime.session(Path(model)))
    return score(run, examples, progress, task)


@dataclass(frozen=True)
class LabelsEvaluation:
    """The names of several labels, and how each is told by the dense and by the compressed net."""

    names: tuple[str, ...]
    dense: LabelScores | None
    lookup: LabelScores | None


@dataclass(frozen=True)
class Evaluation:
    """Scores of a dense and of a compressed net, None for one that is not there, in the unit of ``metric`` on ``n`` images.

    ``labels`` has each of several labels by itself, and is None for other tasks.
    """

    metric: str
    dense: float | None
    lookup: float | None
    n: int
    notes: tuple[str, ...] = ()
    labels: LabelsEvaluation | None = None


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

    Inputs of an artefact are normalised by the mean and std it was compressed with unless ``data`` has its own, and its labels
    mean what they did there.

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
        found = evaluate(path, _examples(data, shape, limit), progress, data.task)
        return _evaluation(data, None, found, found.notes)
    source = open_source(str(path), input_shape, arch=arch, trust_pickle=trust_pickle, image_size=lambda: image_size(data))
    found = evaluate(source.net, _examples(data, source.input_shape, limit), progress, data.task)
    return _evaluation(data, found, None, (*source.notes, *found.notes))


def _evaluation(data: DataSettings, dense: Score | None, lookup: Score | None, notes: tuple[str, ...]) -> Evaluation:
    """Put the scores of one net, or of two on the same examples, together."""
    score_of_one = lookup or dense
    assert score_of_one is not None
    table = Path(data.data or "")
    if is_table(table) and (left_out := read_table(table).note(table)) is not None:
        notes = (left_out, *notes)
    labels = None
    if (scores := score_of_one.labels) is not None:
        numbered = tuple(f"label {i}" for i in range(len(scores.positives)))
        names = label_names(table) if is_table(table) else numbered
        labels = LabelsEvaluation(names, *(None if score is None else score.labels for score in (dense, lookup)))
        if nobody := [name for name, positives in zip(names, scores.positives, strict=True) if not positives]:
            listed = ", ".join(nobody[:4]) + (f" and {len(nobody) - 4} more" if len(nobody) > 4 else "")
            notes = (*notes, f"no image has {listed}: average precision is not defined there, and the mean leaves them out")
    dense_value, lookup_value = (None if score is None else score.value for score in (dense, lookup))
    return Evaluation(score_of_one.metric, dense_value, lookup_value, score_of_one.n, notes, labels)


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
    found = evaluate(artefact.net, examples, progress, data.task)
    notes += found.notes
    source = find_dense(artefact, path, trust_pickle)
    if isinstance(source, str):
        return _evaluation(data, None, found, (*notes, f"no dense figure: {source}"))
    return _evaluation(data, evaluate(source.net, examples, progress, data.task), found, notes)


def _examples(data: DataSettings, input_shape: tuple[int, ...], limit: int | None) -> Examples:
    if data.data is None:
        raise SettingsError("`data` is missing; evaluation needs labelled examples")
    if data.strict:
        require_images(data.data)
    return load_examples(data.data, input_shape, Preprocessing(data.mean, data.std), limit=limit, task=data.task)


def prepared_as_before(data: DataSettings, recorded: Json) -> tuple[DataSettings, tuple[str, ...]]:
    """Return ``data`` with the mean, std and task the net was compressed with, unless it has its own, and notes saying so."""
    notes: tuple[str, ...] = ()
    mean, std, task = (recorded.get(name) for name in ("mean", "std", "task"))
    if data.mean is None and data.std is None and (mean or std):
        data = replace(data, mean=mean and tuple(mean), std=std and tuple(std))
        notes = (f"mean {mean} and std {std} as in compression",)
    if data.task is None and task is not None:
        data, notes = replace(data, task=task), (*notes, f"task {task} as in compression")
    return data, notes

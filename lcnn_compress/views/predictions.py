"""What a net tells of image files: the most probable classes by name, or the labels that hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from lcnn_compress import api, runtime
from lcnn_compress.artefact.artefact import is_artefact
from lcnn_compress.benchmark.timing import read_onnx
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.data.evaluate import prepared_as_before, shape_taken
from lcnn_compress.data.examples import Preprocessing, batches
from lcnn_compress.data.images import image_files
from lcnn_compress.data.label_table import is_table, label_names
from lcnn_compress.data.score import Run, onnx_runner, torch_runner
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError, FileError, ModelError, SettingsError
from lcnn_compress.export.metadata import stored_shape
from lcnn_compress.net.ordinary import ordinary
from lcnn_compress.progress import Progress, silent

TOP, BATCH = 5, 32


@dataclass(frozen=True)
class Named:
    """A class or label by name and number, counted from 0, and how probable it is, 0 to 1."""

    name: str
    number: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a net tells of one image, the most probable first."""

    image: str
    labels: tuple[Named, ...]


@dataclass(frozen=True)
class Predictions:
    """What a net tells of images; ``input_shape`` (1, C, H, W) is what they were scaled to, ``notes`` what is to be known."""

    model: str
    task: str
    input_shape: tuple[int, ...]
    images: tuple[Prediction, ...]
    notes: tuple[str, ...] = ()


@ordinary
def predict(
    images: Sequence[str | Path],
    model: str | Path,
    *,
    labels: str | Path | None = None,
    top: int | None = None,
    data: DataSettings = DataSettings(),
    input_shape: tuple[int, ...] | None = None,
    progress: Progress = silent,
) -> Predictions:
    """Name the classes of image files, or with the task of several labels those that hold.

    Images are scaled until they just cover the input, of which they fill the middle, and normalised by the mean and std that
    an artefact was compressed with, unless ``data`` has its own; outputs are logits, or probabilities where the net ends in a
    softmax or, with several labels, a sigmoid.

    Args:
        images: files of images.
        model: an artefact, or an ONNX file.
        labels: a file with the name of each class on a line of its own, class 0 first, or a table of labels (.csv), whose first
            line has the names; without it classes have numbers.
        top: how many are told, at most; without it 5 classes, or all labels that hold with a probability of at least 0.5.
        data: mean, std and task; those of an artefact are known.
        input_shape: (1, C, H, W), where an ONNX file does not say it, or the net takes several sizes.
        progress: gets ("predicting", images done, images in total).

    Raises:
        ArtefactError, FileError: the model, the names or an image cannot be read.
        DataError: an image cannot be decoded, or there are more or fewer names than classes.
        ModelError: the net tells no classes.
        SettingsError: mean and std, or ``top``, make no sense, or the size of the input is not known.
    """
    model = Path(model)
    if top is not None and top < 1:
        raise SettingsError(f"`top` is {top}; it must be at least 1")
    if not images:
        raise SettingsError("there are no images; give at least one")
    names = None if labels is None else read_names(Path(labels))
    net = _opened(model, input_shape, data)
    several = net.data.task == Task.LABELS
    if net.data.task == Task.TARGETS:
        raise SettingsError("`task` is targets, which have no names; predict with classes or multilabel")
    preprocessing = Preprocessing(net.data.mean, net.data.std)
    preprocessing.check_channels(net.shape)
    paths = [Path(image) for image in images]
    parts: list[Tensor] = []
    for x, _ in batches(image_files(paths, net.shape, preprocessing), BATCH):
        parts.append(_checked(net.run(x), len(x), 1 if several else 2, model, names))
        progress("predicting", sum(map(len, parts)), len(paths))
    probabilities = _probabilities(torch.cat(parts), net.last, several)
    told = [
        Prediction(str(image), _told(row, top, several, names))
        for image, row in zip(images, probabilities, strict=True)
    ]  # fmt: skip
    return Predictions(
        str(model), (Task.LABELS if several else Task.CLASSES).value, (1, *net.shape[1:]), tuple(told), net.notes
    )


def read_names(path: Path) -> list[str]:
    """Return the names in a file, one on each line, or in the first line of a table of labels.

    Raises:
        FileError: it cannot be read.
        DataError: it is no text, or a line is empty.
    """
    if is_table(path):
        return [*label_names(path)]
    try:
        lines = path.read_text("utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}; check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text in UTF-8 ({error.reason}); give one name on each line") from error
    names = [line.strip() for line in lines]
    if "" in names or not names:
        raise DataError(
            f"{path}: line {names.index('') + 1 if names else 1} is empty; give one name on each line, class 0 first"
        )
    return names


@dataclass(frozen=True)
class _Opened:
    """A net to run, the shape of its input, data with the mean and std it is known to take, and its last operator."""

    run: Run
    shape: tuple[int, ...]
    data: DataSettings
    last: str
    notes: tuple[str, ...]


def _opened(model: Path, input_shape: tuple[int, ...] | None, data: DataSettings) -> _Opened:
    if is_artefact(model):
        artefact = api.load(model)
        data, notes = prepared_as_before(data, artefact.config.get("data") or {})
        return _Opened(torch_runner(artefact.net), input_shape or artefact.input_shape, data, _last_of(artefact.net), notes)
    if model.suffix != ".onnx":
        if not model.exists():
            raise FileError(f"{model}: no such file or artefact; check `model`")
        raise SettingsError(f"{model}: is neither an artefact nor an .onnx file; make one with 'lcnn compress {model}'")
    session, shape = runtime.session(model), input_shape or shape_taken(model)
    stored = session.get_modelmeta().custom_metadata_map.get("lcnn.input_shape")
    if 0 in shape[1:] and stored is not None:
        shape = tuple(stored_shape(stored, model))
    if 0 in shape[1:]:
        raise SettingsError(f"{model}: takes images of any size, {_open_sizes(shape)}; say which with `input_shape`")
    graph = read_onnx(model).graph
    last = next((node.op_type.lower() for node in graph.node if graph.output[0].name in node.output), "")
    note = "no mean and std are known for an ONNX file: pixels lie in 0 to 1, unless `mean` and `std` are given"
    return _Opened(onnx_runner(session), shape, data, last, () if data.mean else (note,))


def _last_of(net: fx.GraphModule) -> str:
    """Return the name of the operator that gives the first output, "softmax" for aten._softmax.default."""
    found: Any = net.graph.output_node().args[0]
    found = found[0] if isinstance(found, (list, tuple)) else found
    return f"{found.target}.".split(".")[1].strip("_") if found.op == "call_function" else ""


def _open_sizes(shape: Sequence[int]) -> str:
    return "x".join("?" if size == 0 else str(size) for size in shape)


def _checked(output: Any, n: int, fewest: int, model: Path, names: Sequence[str] | None) -> Tensor:
    """Return an output (n, classes) as float32, or raise where it is none, or has fewer classes than ``fewest``."""
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != n or output.shape[1] < fewest:
        raise ModelError(
            f"{model}: returns {shape} for {n} image{'s' if n > 1 else ''}, not a number for each class, so no class can be "
            "named; 'lcnn eval' scores nets that return images, and lcnn_compress.runtime.session runs them from Python"
        )
    if bool(output.isnan().any()) or bool((output == torch.inf).any()):
        raise ModelError(f"{model}: its output holds NaN or infinity; see that `mean` and `std` are those it was trained with")
    if names is not None and len(names) != output.shape[1]:
        raise DataError(f"`labels` holds {len(names)} names, but the net tells {output.shape[1]} classes; give one for each")
    return output.float()


def _probabilities(output: Tensor, last: str, several: bool) -> Tensor:
    """Return the probability of each class or label, (n, classes): outputs that a softmax or sigmoid gave are such already."""
    if several:
        return output if last == "sigmoid" else output.sigmoid()
    return output if last == "softmax" else output.softmax(1)


def _told(probabilities: Tensor, top: int | None, several: bool, names: Sequence[str] | None) -> tuple[Named, ...]:
    """Return what is told of one image, the most probable first."""
    order = probabilities.argsort(descending=True, stable=True)[: TOP if top is None and not several else top].tolist()
    if several and top is None:
        order = [i for i in order if probabilities[i] >= 0.5]
    word = "label" if several else "class"
    return tuple(Named(f"{word} {i}" if names is None else names[i], i, float(probabilities[i])) for i in order)

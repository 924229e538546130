"""Score a net on labelled examples: top-1 accuracy for classes, labels told right for several labels, PSNR for images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lcnn_compress.data.examples import Examples, batches
from lcnn_compress.data.tasks import Task, check_classes, check_labels, task_of
from lcnn_compress.errors import DataError, ModelError
from lcnn_compress.operators.interface import interface_of
from lcnn_compress.progress import Progress, silent
from lcnn_compress.runtime import ORT_ERRORS, ort_message

Run = Callable[[Tensor], Tensor]
BATCH = 100
# So many random class numbers do not all fall into one half of the classes.
MANY = 20


@dataclass(frozen=True)
class LabelScores:
    """How several labels are told, each by itself, in the order of the outputs.

    Attributes:
        positives: images that have the label.
        percent: images of which a logit above 0 tells it right.
        average_precision: area under precision over recall, 0 to 1, of scikit-learn; None where no image has the label, for
            which it is not defined.
        mean_average_precision: over the labels for which it is defined; None where there is none.
    """

    positives: tuple[int, ...]
    percent: tuple[float, ...]
    average_precision: tuple[float | None, ...]
    mean_average_precision: float | None


@dataclass(frozen=True)
class Score:
    """``metric`` is "top1_percent", "labels_percent" or "psnr_db"; ``n`` counts images; ``notes`` say what seems wrong.

    ``labels`` has each of several labels by itself, and is None for other tasks.
    """

    metric: str
    value: float
    n: int
    notes: tuple[str, ...] = ()
    labels: LabelScores | None = None


def score(run: Run, examples: Examples, progress: Progress = silent, task: Task | None = None) -> Score:
    """Run a net over all examples and score it: the mean of ``image_scores``, with the same arguments and errors."""
    metric, values, seen = _scored(run, examples, progress, task)
    return Score(metric, float(values.sum()) / max(1, len(values)), len(values), seen.notes(), seen.label_scores())


def image_scores(run: Run, examples: Examples, progress: Progress = silent, task: Task | None = None) -> tuple[str, Tensor]:
    """Run a net over all examples; return the metric and the score of each image, (n,) float64.

    A right class scores 100 and a wrong one 0; several labels score the percentage of them that a logit above 0 tells right.
    PSNR is 10 log10(1 / mean squared error) of an image with values in [0, 1].

    Args:
        run: the net.
        examples: with labels.
        progress: gets ("evaluating", images done, images in total).
        task: what labels mean, where their type does not tell; see ``task_of``.

    Raises:
        DataError: the examples carry no labels, or the outputs or the task do not fit them.
        ModelError: an output is not a number, or no tensor.
    """
    return _scored(run, examples, progress, task)[:2]


def _scored(run: Run, examples: Examples, progress: Progress, task: Task | None) -> tuple[str, Tensor, _Seen]:
    parts: list[Tensor] = []
    done, metric, seen = 0, "", _Seen()
    for x, labels in batches(examples, BATCH):
        if labels is None:
            raise DataError("the data has no labels or targets; evaluation needs them (class folders, or y in the .npz)")
        output = run(x)
        if not isinstance(output, Tensor):
            raise ModelError(f"the net returns a {type(output).__name__}; it must return a tensor to be scored")
        if output.isnan().any():
            raise ModelError(f"the net's output for images {done} to {done + len(x) - 1} holds NaN; it cannot be scored")
        kind, y = task_of(output, labels, task)
        metric, part = SCORES[kind](output, y)
        parts.append(part)
        seen.add(x, output, kind, y)
        done += len(x)
        progress("evaluating", done, len(examples))
    return metric, torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64), seen


class _Seen:
    """What was seen of data that can be scored but seems not to be what was meant, and of several labels all that was told."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.alike, self.only_0_and_1 = True, True
        self.n, self.n_classes = 0, 0
        self.numbers: set[int] = set()
        self.told: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, x: Tensor, output: Tensor, kind: Task, y: Tensor) -> None:
        self.first = x[:1] if self.first is None else self.first
        self.alike = self.alike and x.shape[1:] == self.first.shape[1:] and bool((x == self.first).all())
        self.n += len(x)
        if kind is Task.CLASSES:
            self.numbers, self.n_classes = self.numbers.union(y.tolist()), output.shape[1]
        if kind is Task.LABELS:
            self.told.append(output.float())
            self.labels.append(y)
        several = kind is Task.TARGETS and output.ndim == 2 and output.shape[1] > 1
        self.only_0_and_1 = self.only_0_and_1 and several and bool(((y == 0) | (y == 1)).all())

    def notes(self) -> tuple[str, ...]:
        low, high = min(self.numbers, default=0), max(self.numbers, default=0)
        doubts = {
            f"all {self.n} images are the same; see that the data is what it should be": self.n >= MANY and self.alike,
            f"class numbers run from {low} to {high}, but the net tells the classes 0 to {self.n_classes - 1} apart; see that "
            "both count alike": self.n >= MANY and (low == 1 or 2 * (high + 1) <= self.n_classes),
            "y holds only 0 and 1 and is scored as targets; `task` multilabel scores it as several labels for an image":
            self.n > 0 and self.only_0_and_1,
            "all outputs lie in 0 to 1, but logits are expected: those above 0 tell a label; leave out the last sigmoid":
            self.n >= MANY and all(bool(((part >= 0) & (part <= 1)).all()) for part in self.told or [torch.tensor(-1.0)]),
        }  # fmt: skip
        return tuple(note for note, holds in doubts.items() if holds)

    def label_scores(self) -> LabelScores | None:
        """Return how each of several labels is told; None for other tasks."""
        if not self.told:
            return None
        from sklearn.metrics import average_precision_score

        told, labels = torch.cat(self.told), torch.cat(self.labels) > 0.5  # (n, labels)
        right = 100 * ((told > 0) == labels).double().mean(0)
        precision = tuple(
            float(average_precision_score(labels[:, i].numpy(), told[:, i].numpy())) if labels[:, i].any() else None
            for i in range(labels.shape[1])
        )
        defined = [value for value in precision if value is not None]
        mean = sum(defined) / len(defined) if defined else None
        return LabelScores(tuple(labels.sum(0).tolist()), tuple(right.tolist()), precision, mean)


def _accuracy(output: Tensor, y: Tensor) -> tuple[str, Tensor]:
    check_classes(output, y)
    return "top1_percent", 100.0 * (output.argmax(1) == y).double()


def _psnr(output: Tensor, y: Tensor) -> tuple[str, Tensor]:
    if output.shape != y.shape:
        raise DataError(f"targets are {tuple(y.shape)}, but the net's output is {tuple(output.shape)}; they must be equal")
    error = (output.double() - y.double()).square().flatten(1).mean(1).clamp_min(1e-20)
    return "psnr_db", -10 * error.log() / math.log(10)


def _labels(output: Tensor, y: Tensor) -> tuple[str, Tensor]:
    check_labels(output, y)
    return "labels_percent", 100.0 * ((output > 0) == (y > 0.5)).double().mean(1)


SCORES = {Task.CLASSES: _accuracy, Task.LABELS: _labels, Task.TARGETS: _psnr}


def torch_runner(net: fx.GraphModule) -> Run:
    """Run a captured net in torch, in batches of the size it allows."""
    interface = interface_of(net)

    @torch.inference_mode()
    def outputs(x: Tensor) -> Tensor:
        if (problem := interface.misfit(x.shape)) is not None:
            raise DataError(f"the net does not run on images of {tuple(x.shape)}: {problem}")
        return _first(net.eval()(x))

    return lambda x: _in_batches(outputs, x, interface.fixed(0))


def onnx_runner(session: Any) -> Run:
    """Run an ONNX Runtime session, in batches of the size it allows."""
    first = session.get_inputs()[0]
    fixed = first.shape[0] if first.shape and isinstance(first.shape[0], int) else None

    def outputs(x: Tensor) -> Tensor:
        try:
            return torch.as_tensor(session.run(None, {first.name: x.numpy()})[0])
        except ORT_ERRORS as error:
            raise DataError(
                f"the file does not run on images of {tuple(x.shape)}: {ort_message(error)}; see what it takes"
            ) from error

    return lambda x: _in_batches(outputs, x, fixed)


def _in_batches(run: Run, x: Tensor, size: int | None) -> Tensor:
    """Run on so many images at a time, on all if ``size`` is None; the last batch is filled up with its last image."""
    if not size:
        return run(x)
    filled = torch.cat([x, x[-1:].expand(-len(x) % size, *x.shape[1:])])
    return torch.cat([run(part) for part in filled.split(size)])[: len(x)]


def _first(output: Any) -> Tensor:
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result

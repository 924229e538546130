"""Score a net on labelled examples: top-1 accuracy for classes, labels told right for several labels, PSNR for images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from lcnn_compress.data.examples import Examples, batches
from lcnn_compress.data.tasks import Task, check_labels, task_of
from lcnn_compress.errors import DataError, ModelError
from lcnn_compress.progress import Progress, silent

Run = Callable[[Tensor], Tensor]
BATCH = 100


@dataclass(frozen=True)
class Score:
    """``metric`` is "top1_percent", "labels_percent" or "psnr_db"; ``n`` counts images."""

    metric: str
    value: float
    n: int


def score(run: Run, examples: Examples, progress: Progress = silent, task: Task | None = None) -> Score:
    """Run a net over all examples and score it: the mean of ``image_scores``, with the same arguments and errors."""
    metric, values = image_scores(run, examples, progress, task)
    return Score(metric, float(values.sum()) / max(1, len(values)), len(values))


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
        ModelError: an output is not a number.
    """
    parts: list[Tensor] = []
    done, metric = 0, ""
    for x, y in batches(examples, BATCH):
        kind = task_of(y, task)
        if y is None or kind is None:
            raise DataError("the data has no labels or targets; evaluation needs them (class folders, or y in the .npz)")
        output = run(x)
        if output.isnan().any():
            raise ModelError(f"the net's output for images {done} to {done + len(x) - 1} holds NaN; it cannot be scored")
        metric, part = SCORES[kind](output, y)
        parts.append(part)
        done += len(x)
        progress("evaluating", done, len(examples))
    return metric, torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def _accuracy(output: Tensor, y: Tensor) -> tuple[str, Tensor]:
    if output.ndim != 2 or (len(y) and int(y.max()) >= output.shape[1]):
        raise DataError(
            f"labels go up to {int(y.max())}, but the net's output is {tuple(output.shape)}; it must be (n, classes)"
        )
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
    """Run a captured net in torch."""

    @torch.inference_mode()
    def run(x: Tensor) -> Tensor:
        return _first(net.eval()(x))

    return run


def onnx_runner(session: Any) -> Run:
    """Run an ONNX Runtime session, in batches of the size it allows."""
    first = session.get_inputs()[0]
    fixed = first.shape[0] if first.shape and isinstance(first.shape[0], int) else None

    def run(x: Tensor) -> Tensor:
        parts = x.split(fixed) if fixed else (x,)
        return torch.from_numpy(np.concatenate([session.run(None, {first.name: p.numpy()})[0] for p in parts]))

    return run


def _first(output: Any) -> Tensor:
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result

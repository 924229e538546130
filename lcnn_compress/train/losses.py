"""Losses of training: labels, the softened outputs of a dense net, and what its layers gave.

Hinton et al. 2015 (arXiv 1503.02531), section 2, for the outputs; Romero et al. 2015 (arXiv 1412.6550), section 2.2, for the
layers in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.data.tasks import Task, check_classes, check_labels, task_of
from lcnn_compress.errors import DataError, ModelError, SettingsError
from lcnn_compress.train.recipe import Recipe


def loss_of(output: Tensor, y: Tensor | None, taught: Tensor | None, recipe: Recipe) -> Tensor:
    """Return the training loss of a batch, ().

    Args:
        output: output of the net, (n, classes) if y holds classes or several labels.
        y: (n,) int64 classes, (n, classes) bool one-hot rows, float labels or targets like ``output``, or None.
        taught: output of the dense net, or None without distillation.
        recipe: says how both are weighed, and the task where y does not.

    Raises:
        SettingsError: neither y nor ``taught`` is there.
        DataError: y does not fit the output or the task.
        ModelError: the net has several outputs.
    """
    if not isinstance(output, Tensor):
        raise ModelError(f"the net returns a {type(output).__name__}, not one tensor; fine-tuning needs one output")
    if y is None:
        return _unlabelled(output, taught, recipe)
    task, y = task_of(output, y, recipe.task)
    losses = LOSSES[task]
    losses.check(output, y)
    loss = losses.labels(output, y)
    if taught is None:
        return loss
    teaching = losses.teaching(output, taught, recipe.temperature)
    return (1 - recipe.distill_weight) * loss + recipe.distill_weight * teaching


def _unlabelled(output: Tensor, taught: Tensor | None, recipe: Recipe) -> Tensor:
    if not recipe.distill:
        raise SettingsError("distill is False and the training data has no labels; there is nothing to learn from")
    if taught is None:
        raise SettingsError("there is no teacher and the training data has no labels; give one of them")
    return functional.mse_loss(output, taught)


def _check_targets(output: Tensor, y: Tensor) -> None:
    if y.shape != output.shape:
        raise DataError(f"targets are {tuple(y.shape)}, but the net returns {tuple(output.shape)}; they must be alike")


def _softened(output: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher, net) at a temperature, times its square so that gradients do not depend on it."""
    log_p, log_q = (functional.log_softmax(v / temperature, 1) for v in (output, taught))
    return temperature**2 * functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def _softened_labels(output: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return the mean over labels of KL(teacher, net), each label a choice of two, with the temperature as in ``_softened``."""
    p = torch.sigmoid(taught / temperature)
    own, least = (functional.binary_cross_entropy_with_logits(v / temperature, p) for v in (output, taught))
    return temperature**2 * (own - least)


def _squared(output: Tensor, taught: Tensor, temperature: float) -> Tensor:  # noqa: ARG001  # the others take it
    return functional.mse_loss(output, taught)


@dataclass(frozen=True)
class TaskLosses:
    """What a task asks of an output: that y fits it, its loss against y, and against the dense net's output."""

    check: Callable[[Tensor, Tensor], None]  # output, y
    labels: Callable[[Tensor, Tensor], Tensor]
    teaching: Callable[[Tensor, Tensor, float], Tensor]  # output, taught, temperature


LOSSES = {
    Task.CLASSES: TaskLosses(check_classes, functional.cross_entropy, _softened),
    Task.LABELS: TaskLosses(check_labels, functional.binary_cross_entropy_with_logits, _softened_labels),
    Task.TARGETS: TaskLosses(_check_targets, functional.mse_loss, _squared),
}


class Objective:
    """The loss of a net in training on a batch, with or without a teacher.

    Args:
        net: the net in training.
        teacher: the net to learn from, in eval mode on the same device; None trains on labels alone.
        compared: names of layers of both nets whose outputs shall be alike, as much as ``recipe.feature_weight`` says.
        recipe: how losses are weighed, and the precision of products.

    Raises:
        SettingsError: outputs of layers shall be compared, and there is no teacher.
    """

    def __init__(self, net: nn.Module, teacher: nn.Module | None, compared: Sequence[str], recipe: Recipe) -> None:
        weight = recipe.feature_weight
        if teacher is None and weight:
            raise SettingsError(f"feature_weight is {weight:g}, but there is no teacher; set it to 0 or give a teacher")
        self.net, self.teacher, self.recipe = net, teacher, recipe
        names = compared if weight else ()
        self.features = Features(
            [(net.get_submodule(name), teacher.get_submodule(name)) for name in names] if teacher is not None else []
        )

    def loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Return the loss of a batch x (n, ...), (); raises as ``loss_of`` does."""
        output, taught = self._outputs(x, y)
        loss = loss_of(_float32(output), y, _float32(taught), self.recipe)
        if taught is not None and self.features.modules:
            loss = loss + self.recipe.feature_weight * self.features.loss()
        return loss

    def _outputs(self, x: Tensor, y: Tensor | None) -> tuple[Any, Any]:
        """Return what the net gives, and the teacher where it is asked; layers' outputs are recorded."""
        mixed, asked = self.recipe.precision == "bfloat16", self.recipe.distill or y is None
        with self.features.recording(), torch.autocast(x.device.type, torch.bfloat16, enabled=mixed):
            with torch.no_grad():
                taught = self.teacher(x) if self.teacher is not None and asked else None
            return self.net(x), taught


def _float32(output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) else output


class Features:
    """Outputs of layers, recorded while ``recording`` is on; ``modules`` pairs those that learn with those that teach."""

    def __init__(self, modules: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        self.modules = modules
        self.learned: list[Tensor] = []
        self.taught: list[Tensor] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record until the end of the block; what was recorded before is forgotten."""
        self.learned, self.taught = [], []
        handles = []
        for own, other in self.modules:
            # Clones, because activations after them may work in place.
            handles.append(own.register_forward_hook(lambda _, __, y: self.learned.append(y.clone())))
            handles.append(other.register_forward_hook(lambda _, __, y: self.taught.append(y.clone())))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def loss(self) -> Tensor:
        """Return the mean over the layers of the squared error relative to the variance of the dense layer's output, ()."""
        errors = []
        for own, other in zip(self.learned, self.taught, strict=True):
            error = functional.mse_loss(own.float().reshape(other.shape), other.float())
            errors.append(error / other.float().var().clamp(min=torch.finfo(other.dtype).tiny))
        return torch.stack(errors).mean()

"""Losses of fine-tuning: labels, the softened outputs of the dense net, and what its compressed layers gave.

Hinton et al. 2015 (arXiv 1503.02531) for the outputs, Romero et al. 2015 (arXiv 1412.6550) for the layers in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.errors import DataError, ModelError, SettingsError

if TYPE_CHECKING:
    from lcnn_compress.train.recipe import FinetuneSettings


def loss_of(output: Tensor, y: Tensor | None, taught: Tensor | None, settings: FinetuneSettings) -> Tensor:
    """Return the training loss of a batch.

    Args:
        output: of the net, (n, classes) if y holds classes.
        y: (n,) int64 classes, float targets like ``output``, or None.
        taught: output of the dense net, or None without distillation.

    Raises:
        SettingsError: neither y nor ``taught`` is there.
        DataError: y does not fit the output.
        ModelError: the net has several outputs.
    """
    if not isinstance(output, Tensor):
        raise ModelError(f"the net returns a {type(output).__name__}, not one tensor; fine-tuning needs one output")
    if y is None:
        if taught is None or not settings.distill:
            raise SettingsError("distill is False and the training data has no labels; there is nothing to learn from")
        return functional.mse_loss(output, taught)
    if y.is_floating_point():
        if y.shape != output.shape:
            raise DataError(f"targets are {tuple(y.shape)}, but the net returns {tuple(output.shape)}; they must be alike")
        loss = functional.mse_loss(output, y)
        teaching = None if taught is None else functional.mse_loss(output, taught)
    else:
        if output.ndim != 2 or not 0 <= int(y.min()) <= int(y.max()) < output.shape[1]:
            raise DataError(
                f"class numbers run from {int(y.min())} to {int(y.max())}, but the net returns {tuple(output.shape)}; "
                "it must return (n, classes) with a class for each number"
            )
        loss = functional.cross_entropy(output, y)
        teaching = None if taught is None else _softened(output, taught, settings.temperature)
    if teaching is None:
        return loss
    return (1 - settings.distill_weight) * loss + settings.distill_weight * teaching


def _softened(output: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher, net) at a temperature, times its square so that gradients do not depend on it."""
    log_p, log_q = (functional.log_softmax(v / temperature, 1) for v in (output, taught))
    return temperature**2 * functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


class Features:
    """Outputs of layers of the same names in two nets, recorded while ``recording`` is on."""

    def __init__(self, net: nn.Module, teacher: nn.Module, names: Sequence[str]) -> None:
        self.modules = [(net.get_submodule(name), teacher.get_submodule(name)) for name in names]
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
        """Return the mean over the layers of the squared error relative to the variance of the dense layer's output."""
        errors = []
        for own, other in zip(self.learned, self.taught, strict=True):
            error = functional.mse_loss(own.float().reshape(other.shape), other.float())
            errors.append(error / other.float().var().clamp(min=torch.finfo(other.dtype).tiny))
        return torch.stack(errors).mean()

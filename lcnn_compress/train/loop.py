"""Train a net: any torch module on labelled examples, and a compressed one with its dense net as teacher.

The loop takes batches, changes weights and keeps checkpoints. What is learned is in ``losses``, how lookup layers lose entries
meanwhile in ``sparsity``, and every number in the ``Recipe``.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lcnn_compress.artefact.field_rules import fits
from lcnn_compress.data.examples import Examples
from lcnn_compress.errors import DataError, ModelError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import move
from lcnn_compress.net.ordinary import in_eval_mode, seeded
from lcnn_compress.progress import Progress, silent
from lcnn_compress.quantisation.trainable import TrainableInt8Conv2d
from lcnn_compress.train.checkpoint import CheckpointFile, State, check_same, complete, deferred_interrupts, read_checkpoint
from lcnn_compress.train.losses import Objective
from lcnn_compress.train.recipe import Recipe
from lcnn_compress.train.sparsity import LookupLayers, settle

log = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 60
# What a checkpoint holds of a training's progress.
_COUNTED: dict[str, Any] = {"step": int, "loss_sum": float, "losses": tuple[float, ...], "stopped": bool}


@dataclass(frozen=True)
class Epoch:
    """An epoch that has ended: its number from 1 on, its mean loss, and the net as it would be if training ended now.

    The net is a copy in eval mode on the CPU.
    """

    number: int
    loss: float
    net: nn.Module


@dataclass(frozen=True)
class Goal:
    """Where a training ends, apart from its last epoch, and who is told on the way there.

    Attributes:
        nonzeros: entries each lookup layer shall keep at the end (gradual); layers left out keep as many as they have.
        enough: asked after every epoch that ends with no more non-zeros than that, with the result so far in eval mode and on
            the CPU; training stops where it says True.
        on_epoch: told of every epoch, before the checkpoint that holds it is written; after a stop it may be told again.
    """

    nonzeros: Mapping[str, int] = field(default_factory=dict)
    enough: Callable[[nn.Module], bool] | None = None
    on_epoch: Callable[[Epoch], None] | None = None


@dataclass(frozen=True)
class FinetuneReport:
    """What happened: steps taken, mean loss of each epoch, non-zeros left in each lookup layer."""

    steps: int
    losses: tuple[float, ...]
    nonzeros: dict[str, int]


def finetune(
    net: nn.Module,
    teacher: nn.Module,
    examples: Examples,
    recipe: Recipe,
    *,
    goal: Goal = Goal(),
    checkpoint: CheckpointFile = CheckpointFile(),
    progress: Progress = silent,
) -> FinetuneReport:
    """Train a compressed net in place with its dense net as teacher; as ``train``, with the same results and errors.

    Without labels the net learns the teacher's outputs, with the squared error.
    """
    return train(net, examples, recipe, teacher=teacher, goal=goal, checkpoint=checkpoint, progress=progress)


def train(
    net: nn.Module,
    examples: Examples,
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    goal: Goal = Goal(),
    checkpoint: CheckpointFile = CheckpointFile(),
    progress: Progress = silent,
) -> FinetuneReport:
    """Train ``net`` in place and leave it in eval mode on the CPU.

    With the same arguments on the same machine's CPU the result is the same bit for bit, also when the run was interrupted any
    number of times and resumed. On ctrl-C the step under way is finished and a checkpoint written; a second one stops at once.

    Args:
        net: any module that takes x and returns one tensor. The ``support`` of its lookup layers, if it has some, may hold
            more entries than shall stay.
        examples: at least 2; class labels train with cross entropy, float targets with the squared error, several labels
            with the binary cross entropy where ``recipe.task`` says that they are such.
        recipe: how to train.
        teacher: a net with outputs like those of ``net`` to learn from, not changed; None trains on labels alone.
        goal: where to end.
        checkpoint: where to keep the training.
        progress: gets ("fine-tuning", step, total steps), or ("training", ...) without a teacher.

    Raises:
        SettingsError: nothing to resume, or neither labels nor a teacher to learn from.
        ArtefactError: the checkpoint is damaged, or of another net or other settings.
        FileError: the checkpoint cannot be read or written.
        DataError: fewer than 2 examples, or labels that do not fit the output or the task.
        ModelError: the loss is not finite, or the net returns several tensors.
    """
    stage = "training" if teacher is None else "fine-tuning"
    if len(examples) < 2:
        raise DataError(f"training data holds {len(examples)} examples; {stage} needs at least 2")
    device = torch.device(recipe.device)
    with seeded(recipe.seed, device), _moved(net, device), _in_eval_mode(teacher, device):
        training = Training(net, recipe, len(examples), teacher=teacher, nonzeros=goal.nonzeros)
        if checkpoint.resume and checkpoint.path is not None:
            training.load(read_checkpoint(checkpoint.path), checkpoint.path)
        _take_steps(training, examples, goal, checkpoint, lambda done: progress(stage, done, training.total))
        training.finish()
    net.eval()
    found = training.lookups.nonzeros()
    log.info("%s took %d steps, %d lookups left", stage, training.step, sum(found.values()))
    return FinetuneReport(training.step, tuple(training.losses), found)


def _take_steps(
    training: Training, examples: Examples, goal: Goal, checkpoint: CheckpointFile, progress: Callable[[int], None]
) -> None:
    """Take all steps that are left."""
    training.net.train()
    saved = time.monotonic()
    order = training.order()
    with deferred_interrupts() as interrupted:
        while not training.ended:
            randomness = torch.get_rng_state()
            try:
                progress(training.step)
                x, y = examples.batch(order[training.step % training.steps_per_epoch])
            except KeyboardInterrupt:  # a callback has raised it
                torch.set_rng_state(randomness)
                checkpoint.write(training.state())
                raise
            training.take(x, y)
            epoch_ended = training.step % training.steps_per_epoch == 0
            if epoch_ended:
                order = training.order()
                training.stopped = _is_over(training, goal)
            if interrupted() or epoch_ended or time.monotonic() - saved > CHECKPOINT_SECONDS:
                checkpoint.write(training.state())
                saved = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
    progress(training.total)


def _is_over(training: Training, goal: Goal) -> bool:
    """Tell of an epoch that has ended, and ask whether it was the last; random numbers drawn meanwhile do not count."""
    asks = goal.enough is not None and training.lookups.at_end()
    if not asks and goal.on_epoch is None:
        return False
    result = training.result().eval()
    move(result, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        if goal.on_epoch is not None:
            goal.on_epoch(Epoch(len(training.losses), training.losses[-1], result))
        return asks and goal.enough is not None and goal.enough(result)


class Training:
    """A net in training between two steps; ``state`` and ``load`` carry it through a checkpoint.

    Args:
        net: the net, on ``recipe.device`` like ``teacher``.
        recipe: how to train.
        n_examples: number of examples in an epoch.
        teacher: as for ``train``, in eval mode.
        nonzeros: as in ``Goal``.

    Attributes:
        step: number of steps taken, out of ``total``.
        losses: mean loss of each epoch that has ended.
        stopped: whether training ends before its last step.
    """

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        n_examples: int,
        *,
        teacher: nn.Module | None = None,
        nonzeros: Mapping[str, int],
    ) -> None:
        self.net, self.recipe, self.n_examples = net, recipe, n_examples
        self.steps_per_epoch = max(1, n_examples // recipe.batch_size)
        self.total = self.steps_per_epoch * recipe.epochs
        self.device = torch.device(recipe.device)
        self.step = 0
        # The losses of the epoch under way add up here.
        self.loss_sum = 0.0
        self.losses: list[float] = []
        self.stopped = False
        self.lookups = LookupLayers(net, recipe, nonzeros, self.total)
        compared = [name for name, m in net.named_modules() if isinstance(m, (LookupConv2d, TrainableInt8Conv2d))]
        self.objective = Objective(net, teacher, compared, recipe)
        self.optimiser = recipe.optimiser.over(net.parameters(), recipe.lr)
        self.averages = {name: t.clone() for name, t in net.state_dict().items()} if recipe.average else {}
        self.lookups.prune(0, self.optimiser)

    @property
    def ended(self) -> bool:
        """Whether no step is left to take."""
        return self.stopped or self.step >= self.total

    def order(self) -> tuple[Tensor, ...]:
        """Return the indices of every batch of the epoch under way, a function of seed and epoch only."""
        epoch = self.step // self.steps_per_epoch
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        return torch.randperm(self.n_examples, generator=generator).tensor_split(self.steps_per_epoch)

    def take(self, x: Tensor, y: Tensor | None) -> None:
        """Take a step on a batch x (n, ...) of the CPU; raises as ``train`` does."""
        rate = self.recipe.schedule.rate(self.recipe.lr, self.step, self.total)
        self.recipe.optimiser.adjust(self.optimiser, rate, self.step / self.total)
        self.optimiser.zero_grad()
        # A copy of a tensor that was made for inference may be used in training.
        x, labels = x.to(self.device, copy=x.is_inference()), None if y is None else y.to(self.device, copy=y.is_inference())
        self.loss_sum += self._gradients(x, labels, rate)
        self.lookups.add_to_gradients()
        self.optimiser.step()
        self.step += 1
        self.lookups.after_step(self.step, self.optimiser)
        self._add_to_averages()
        if self.step % self.steps_per_epoch == 0:
            self.losses.append(self.loss_sum / self.steps_per_epoch)
            self.loss_sum = 0.0

    def _gradients(self, x: Tensor, y: Tensor | None, rate: float) -> float:
        """Add the gradients of a batch, in as many parts as the recipe says; return its loss."""
        n_parts = min(self.recipe.accumulate, max(1, len(x) // 2))
        labels = [None] * n_parts if y is None else y.tensor_split(n_parts)
        value = 0.0
        for part_x, part_y in zip(x.tensor_split(n_parts), labels, strict=True):
            loss = self.objective.loss(part_x, part_y) * (len(part_x) / len(x))
            value += float(loss.detach())
            if not math.isfinite(value):
                raise ModelError(
                    f"loss is {value} at step {self.step + 1} of {self.total} (learning rate {rate:.3g}); "
                    f"lower lr, which is {self.recipe.lr:g}, or check the training data"
                )
            loss.backward()
        return value

    @torch.no_grad()
    def _add_to_averages(self) -> None:
        # Without the second bound the start would weigh most.
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        present = self.net.state_dict()
        for name, average in self.averages.items():
            if average.is_floating_point():
                average.lerp_(present[name], 1 - decay)
            else:
                average.copy_(present[name])

    def result(self) -> nn.Module:
        """Return a copy of the net as ``finish`` would leave it."""
        result = copy.deepcopy(self.net)
        self._finish(result)
        return result

    def finish(self) -> None:
        """Leave the average in the net, inside the supports."""
        self._finish(self.net)

    @torch.no_grad()
    def _finish(self, net: nn.Module) -> None:
        net.load_state_dict(self.averages, strict=False)
        settle(net)

    def state(self) -> State:
        """Return tensors and plain values that ``load`` continues from."""
        return {
            "settings": self.recipe.recorded(), "identity": self._identity(),
            "step": self.step, "loss_sum": self.loss_sum, "losses": self.losses, "stopped": self.stopped,
            "net": self.net.state_dict(), "optimiser": self.optimiser.state_dict(), "averages": self.averages,
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            **self.lookups.state(),
        }  # fmt: skip

    def load(self, state: State, path: Path) -> None:
        """Continue from the state that the checkpoint ``path`` holds.

        Raises:
            ArtefactError: it is incomplete, or of another net, other data or other settings.
        """
        with complete(path):
            check_same(path, "settings", state["settings"], self.recipe.recorded())
            check_same(path, "net and data", state["identity"], self._identity())
            self.net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.lookups.load(state)
            torch.set_rng_state(state["rng"])
            for name, hint in _COUNTED.items():
                if not fits(state[name], hint):
                    raise ValueError(f"{name} is {state[name]!r:.60}")
            if not 0 <= state["step"] <= self.total:
                raise ValueError(f"step is {state['step']} of {self.total}")
            self.step, self.loss_sum, self.losses = state["step"], state["loss_sum"], list(state["losses"])
            self.stopped = state["stopped"]
            for name, average in self.averages.items():
                average.copy_(state["averages"][name])
            if state["device_rng"] is not None:
                torch.cuda.set_rng_state(state["device_rng"], self.device)

    def _identity(self) -> dict[str, object]:
        """Return what a checkpoint must agree in: a training that began with something else cannot be continued."""
        teacher = self.objective.teacher
        shapes = {name: tuple(tensor.shape) for name, tensor in self.net.state_dict().items()}
        return {
            "layer shapes": hashlib.sha256(repr(shapes).encode()).hexdigest()[:12], "non-zeros at the end": self.lookups.ends,
            "weights of the dense net": None if teacher is None else _weights_digest(teacher),
            "number of examples": self.n_examples,
        }  # fmt: skip


def _weights_digest(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()[:12]


@contextmanager
def _moved(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a net on ``device`` inside the block, and on the CPU again after it."""
    move(net, device)
    try:
        yield
    finally:
        move(net, torch.device("cpu"))


@contextmanager
def _in_eval_mode(teacher: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Have a teacher, if there is one, in eval mode on ``device`` inside the block, and as it was after it."""
    if teacher is None:
        yield
        return
    with _moved(teacher, device), in_eval_mode(teacher):
        yield

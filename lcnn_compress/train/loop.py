"""Train a compressed net: dictionaries, sparse kernels and everything that stayed dense, while the kernels lose entries.

Two ways to lose them. ``gradual`` keeps the largest entries of each layer, fewer and fewer along the cubic schedule of Zhu and
Gupta 2017 (arXiv 1710.01878) over the first half of training. ``threshold`` is the method of Bagherinezhad et al., "LCNN",
CVPR 2017 (arXiv 1611.06473), section 3.2: an L1 penalty, and entries within epsilon of zero die. What died stays dead.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lcnn_compress.errors import ArtefactError, DataError, ModelError
from lcnn_compress.files import write_atomically
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.pattern import largest, shared_scores
from lcnn_compress.net.edit import move
from lcnn_compress.progress import Progress, silent
from lcnn_compress.train.checkpoint import CHECKPOINT_MAGIC, Saved, check_same, deferred_interrupts, read_checkpoint
from lcnn_compress.train.losses import Features, loss_of
from lcnn_compress.train.recipe import FinetuneSettings

if TYPE_CHECKING:
    from lcnn_compress.data.examples import Examples

log = logging.getLogger(__name__)
PRUNE_EVERY = 8  # steps between two prunings of the gradual schedule
WARMUP_STEPS = 30  # or a tenth of training where that is less
BETAS = (0.9, 0.98)
CHECKPOINT_SECONDS = 60


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
    settings: FinetuneSettings,
    *,
    targets: Mapping[str, int] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    enough: Callable[[nn.Module], bool] | None = None,
    progress: Progress = silent,
) -> FinetuneReport:
    """Fine-tune ``net`` in place and leave it in eval mode.

    With the same arguments on the same machine's CPU the result is the same bit for bit, also when the run was interrupted any
    number of times and resumed. On ctrl-C the step under way is finished and a checkpoint written; a second one stops at once.

    Args:
        net: with lookup convolutions, whose ``support`` may hold more entries than shall stay.
        teacher: the dense net; not changed.
        examples: class labels train with cross entropy, float targets with the squared error; without either the net learns
            the teacher's outputs.
        targets: non-zeros at the end (gradual); layers left out keep as many as they have.
        checkpoint: file to write every minute, after every epoch and when interrupted.
        resume: continue from it.
        enough: asked after every epoch that ends with no more non-zeros than ``targets`` say, with the result so far in eval
            mode; training stops where it says True.
        progress: gets ("fine-tuning", step, total steps).

    Raises:
        SettingsError: nothing to resume, or no labels and no distillation.
        ArtefactError: the checkpoint is damaged, or of another net or other settings.
        DataError: fewer than 2 examples, or labels that do not fit the output.
        ModelError: the loss is not finite.
    """
    if len(examples) < 2:
        raise DataError(f"training data holds {len(examples)} examples; fine-tuning needs at least 2")
    device = torch.device(settings.device)
    modes = [(module, module.training) for module in teacher.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _moved(net, device), _moved(teacher, device):
        torch.manual_seed(settings.seed)
        run = _Run(net, teacher.eval(), examples, settings, targets or {})
        run.enough = enough
        try:
            if resume:
                run.load(read_checkpoint(checkpoint))
            run.train(checkpoint, progress)
            run.finish()
        finally:
            for module, training in modes:
                module.training = training
    net.eval()
    log.info("fine-tuned %d steps, %d lookups left", run.step, sum(run.nonzeros().values()))
    return FinetuneReport(run.step, tuple(run.losses), run.nonzeros())


class _Run:
    """One fine-tuning between two steps; ``state`` and ``load`` carry it through a checkpoint."""

    def __init__(
        self, net: nn.Module, teacher: nn.Module, examples: Examples, settings: FinetuneSettings, targets: Mapping[str, int]
    ) -> None:
        self.net, self.teacher, self.examples, self.settings = net, teacher, examples, settings
        self.lookups = {name: module for name, module in net.named_modules() if isinstance(module, LookupConv2d)}
        self.steps_per_epoch = max(1, len(examples) // settings.batch_size)
        self.total = self.steps_per_epoch * settings.epochs
        self.device = torch.device(settings.device)
        self.step = 0
        self.loss_sum = 0.0  # of the epoch under way
        self.losses: list[float] = []
        for lookup in self.lookups.values():
            lookup.normalise_()
        self.starts = self.nonzeros()
        self.ends = {name: min(count, targets.get(name, count)) for name, count in self.starts.items()}
        self.epsilons = {
            name: settings.threshold_c * float(lookup.sparse_kernel.detach()[lookup.support].std(correction=0))
            if self.starts[name]
            else 0.0
            for name, lookup in self.lookups.items()
        }
        self.optimiser = torch.optim.Adam(net.parameters(), lr=settings.lr, betas=BETAS)
        self.features = Features(net, teacher, list(self.lookups) if settings.feature_weight else [])
        self.averages = {name: t.clone() for name, t in net.state_dict().items()} if settings.average else {}
        self.enough: Callable[[nn.Module], bool] | None = None
        self.stopped = False
        if settings.sparsity == "threshold":
            self._prune()

    def nonzeros(self) -> dict[str, int]:
        return {name: lookup.n_nonzeros for name, lookup in self.lookups.items()}

    def train(self, checkpoint: Path | None, progress: Progress) -> None:
        """Take all steps that are left."""
        self.net.train()
        saved = time.monotonic()
        order = self._order()
        with deferred_interrupts() as interrupted:
            while self.step < self.total and not self.stopped:
                randomness = torch.get_rng_state()
                try:
                    progress("fine-tuning", self.step, self.total)
                    x, y = self.examples.batch(order[self.step % self.steps_per_epoch])
                except KeyboardInterrupt:  # raised by a callback
                    torch.set_rng_state(randomness)
                    self._save(checkpoint)
                    raise
                self._step(x.to(self.device), None if y is None else y.to(self.device))
                epoch_ended = self.step % self.steps_per_epoch == 0
                if epoch_ended:
                    order = self._order()
                    self.stopped = self._is_enough()
                if interrupted() or epoch_ended or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save(checkpoint)
                    saved = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt
        progress("fine-tuning", self.total, self.total)

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the average in the net, inside the supports."""
        self.net.load_state_dict(self.averages, strict=False)
        for lookup in self.lookups.values():
            lookup.normalise_()
            lookup.restrict_(lookup.support)

    def _is_enough(self) -> bool:
        if self.enough is None or any(count > self.ends[name] for name, count in self.nonzeros().items()):
            return False
        result = copy.deepcopy(self.net)
        run = copy.copy(self)
        run.net, run.lookups = result, {name: cast(LookupConv2d, result.get_submodule(name)) for name in self.lookups}
        run.finish()
        move(result, torch.device("cpu"))
        with torch.random.fork_rng(devices=[]):
            return self.enough(result.eval())

    def _order(self) -> tuple[Tensor, ...]:
        """Return the indices of every batch of the epoch under way, a function of seed and epoch only."""
        epoch = self.step // self.steps_per_epoch
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.examples), generator=generator).tensor_split(self.steps_per_epoch)

    def _step(self, x: Tensor, y: Tensor | None) -> None:
        lr = self._learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad()
        n_parts = min(self.settings.accumulate, max(1, len(x) // 2))
        value = 0.0
        for part_x, part_y in zip(
            x.tensor_split(n_parts), [None] * n_parts if y is None else y.tensor_split(n_parts), strict=True
        ):
            loss = self._loss(part_x, part_y) * (len(part_x) / len(x))
            value += float(loss.detach())
            if not math.isfinite(value):
                raise ModelError(
                    f"loss is {value} at step {self.step + 1} of {self.total} (learning rate {lr:.3g}); "
                    f"lower lr, which is {self.settings.lr:g}, or check the training data"
                )
            loss.backward()
        if self.settings.sparsity == "threshold":
            self._add_l1()
        self.optimiser.step()
        # (P / a, a * D) is the same layer, and both penalty and magnitudes depend on a. Moving the length of every row into P
        # keeps the net's function; a step changes lengths by a few per mille, so Adam's moments stay good estimates.
        for lookup in self.lookups.values():
            lookup.normalise_()
        self.step += 1
        self._prune()
        self._add_to_average()
        self.loss_sum += value
        if self.step % self.steps_per_epoch == 0:
            self.losses.append(self.loss_sum / self.steps_per_epoch)
            self.loss_sum = 0.0

    def _loss(self, x: Tensor, y: Tensor | None) -> Tensor:
        mixed = self.settings.precision == "bfloat16"
        with self.features.recording(), torch.autocast(x.device.type, torch.bfloat16, enabled=mixed):
            with torch.no_grad():
                taught = self.teacher(x) if self.settings.distill or y is None else None
            output = self.net(x)
        loss = loss_of(_float32(output), y, _float32(taught), self.settings)
        if taught is not None and self.features.modules:
            loss = loss + self.settings.feature_weight * self.features.loss()
        return loss

    @torch.no_grad()
    def _add_to_average(self) -> None:
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))  # else the start would weigh most
        present = self.net.state_dict()
        for name, average in self.averages.items():
            if average.is_floating_point():
                average.lerp_(present[name], 1 - decay)
            else:
                average.copy_(present[name])

    def _learning_rate(self) -> float:
        warm_up = max(1, min(WARMUP_STEPS, self.total // 10))
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.total))
        return self.settings.lr * min(1.0, (self.step + 1) / warm_up) * cosine

    @torch.no_grad()
    def _add_l1(self) -> None:
        """Add the gradient of the penalty; pruned entries have none."""
        for name, lookup in self.lookups.items():
            assert lookup.sparse_kernel.grad is not None
            strength = self.settings.l1 * self.epsilons[name]
            lookup.sparse_kernel.grad += strength * lookup.sparse_kernel.sign() * lookup.support

    @torch.no_grad()
    def _prune(self) -> None:
        """Prune what the schedule or the threshold says, and what Adam remembers of it."""
        gradual = self.settings.sparsity == "gradual"
        last = max(1, self.total // 2)
        if gradual and self.step % PRUNE_EVERY and self.step < last:
            return
        for name, lookup in self.lookups.items():
            magnitude = lookup.sparse_kernel.abs()
            magnitude = shared_scores(magnitude.unflatten(0, (lookup.geometry.groups, -1)), lookup.filters_per_pattern).flatten(
                0, 1
            )
            if gradual:
                left = (1 - min(1.0, self.step / last)) ** 3
                count = self.ends[name] + round((self.starts[name] - self.ends[name]) * left)
                alive = largest(magnitude.masked_fill(~lookup.support, -1.0), count)
            else:
                alive = magnitude > self.epsilons[name]
            lookup.restrict_(alive)
            memory = self.optimiser.state.get(lookup.sparse_kernel, {})
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in memory:
                    memory[moment] *= lookup.support

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values that ``load`` continues from."""
        return {
            "settings": asdict(self.settings), "identity": self._identity(),
            "step": self.step, "loss_sum": self.loss_sum, "losses": self.losses, "starts": self.starts,
            "epsilons": self.epsilons, "net": self.net.state_dict(), "optimiser": self.optimiser.state_dict(),
            "supports": {name: lookup.support for name, lookup in self.lookups.items()}, "rng": torch.get_rng_state(),
            "averages": self.averages, "stopped": self.stopped,
            "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }  # fmt: skip

    def load(self, saved: Saved) -> None:
        """Continue from a checkpoint.

        Raises:
            ArtefactError: it is incomplete, or of another net, other data or other settings.
        """
        path, state = saved.path, saved.state
        try:
            check_same(path, "settings", state["settings"], asdict(self.settings))
            check_same(path, "net and data", state["identity"], self._identity())
            self.net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            for name, lookup in self.lookups.items():
                lookup.support.copy_(state["supports"][name])
            torch.set_rng_state(state["rng"])
            self.step, self.loss_sum, self.losses = state["step"], state["loss_sum"], list(state["losses"])
            self.starts, self.epsilons = state["starts"], state["epsilons"]
            self.averages = {name: average.to(self.device) for name, average in state["averages"].items()}
            self.stopped = state["stopped"]
            if state["device_rng"] is not None:
                torch.cuda.set_rng_state(state["device_rng"], self.device)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ArtefactError(f"{path}: incomplete checkpoint ({error}); delete it and start without resume") from error

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, tensor in self.teacher.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy())
        shapes = {name: tuple(tensor.shape) for name, tensor in self.net.state_dict().items()}
        return {
            "layer shapes": hashlib.sha256(repr(shapes).encode()).hexdigest()[:12], "non-zeros at the end": self.ends,
            "weights of the dense net": digest.hexdigest()[:12], "number of examples": len(self.examples),
        }  # fmt: skip

    def _save(self, checkpoint: Path | None) -> None:
        if checkpoint is not None:
            buffer = io.BytesIO()
            torch.save(self.state(), buffer)
            content = buffer.getvalue()
            write_atomically(checkpoint, CHECKPOINT_MAGIC + hashlib.sha256(content).digest() + content)


@contextmanager
def _moved(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a net on ``device`` inside the block, and on the CPU again after it."""
    move(net, device)
    try:
        yield
    finally:
        move(net, torch.device("cpu"))


def _float32(output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) else output

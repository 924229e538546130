"""How to train: every number of a training in one value, its optimiser and the schedule of its learning rate among them.

Torch is imported where it is needed, so that the fields can be read at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from lcnn_compress.artefact.field_rules import MAX_SEED, check_fields, fits
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import SettingsError

if TYPE_CHECKING:
    import torch
    from torch import nn

SPARSITIES = ("gradual", "threshold", "top")
PRECISIONS = ("float32", "bfloat16")
# 0.1.0 did not have these fields. A configuration names them only where they say something else than what 0.1.0 did, so that
# the same run is recorded with the same bytes.
NEWER_FIELDS = ("task", "optimiser", "schedule", "lookups")


def devices() -> tuple[str, ...]:
    """Return where torch can train on this machine: cpu, and with a GPU cuda, cuda:0 and so on."""
    import torch

    found = torch.cuda.device_count()
    return ("cpu", *(("cuda",) if found else ()), *(f"cuda:{i}" for i in range(found)))


@dataclass(frozen=True)
class Optimiser:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1).

    Attributes:
        betas: decay of its averages of gradients and of their squares, for each step.
    """

    betas: tuple[float, float] = (0.9, 0.98)

    def __post_init__(self) -> None:
        if not fits(self.betas, tuple[float, float]) or not all(0 <= beta < 1 for beta in self.betas):
            raise SettingsError(f"betas is {self.betas!r}; it must be two numbers of 0 or more and below 1")

    def over(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """Return an optimiser of ``parameters`` that starts at a learning rate."""
        import torch

        return torch.optim.Adam(parameters, lr=lr, betas=self.betas)

    def adjust(self, optimiser: torch.optim.Optimizer, rate: float, done: float) -> None:  # noqa: ARG002
        """Set the learning rate of the next step, after a part ``done`` of training."""
        for group in optimiser.param_groups:
            group["lr"] = rate


@dataclass(frozen=True)
class Sgd:
    """Gradient descent with momentum, as the code of the LCNN paper trains (without dampening).

    Attributes:
        momentum: decay of the sum of gradients, for each step.
        weight_decay: weight of half the square of all parameters in the loss.
        decay_until: part of training after which there is no weight decay.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_until: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("momentum", "weight_decay", "decay_until"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} is {getattr(self, name):g}; it must be from 0 to 1")

    def over(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """Return an optimiser of ``parameters`` that starts at a learning rate."""
        import torch

        # In one pass over each tensor: kernels of 75 million entries are larger than any cache.
        return torch.optim.SGD(parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True)

    def adjust(self, optimiser: torch.optim.Optimizer, rate: float, done: float) -> None:
        """Set learning rate and weight decay of the next step, after a part ``done`` of training."""
        for group in optimiser.param_groups:
            group["lr"], group["weight_decay"] = rate, self.weight_decay if done < self.decay_until else 0.0


@dataclass(frozen=True)
class Schedule:
    """A linear warm-up, times half a cosine that ends at 0 (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5).

    Attributes:
        warmup_steps: steps until the peak, or a tenth of training where that is less.
        start, end: the part of the cosine that this training takes, of a longer one in several parts; each part warms up.
    """

    warmup_steps: int = 30
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not fits(self.warmup_steps, int) or self.warmup_steps < 0:
            raise SettingsError(f"warmup_steps is {self.warmup_steps}; it must be 0 or more")
        if not 0 <= self.start < self.end <= 1:
            raise SettingsError(f"start and end are {self.start} and {self.end}; they must be in order, from 0 to 1")

    def part(self, start: float, end: float) -> Schedule:
        """Return the schedule of a part of what this one takes, from ``start`` to ``end`` of it."""
        width = self.end - self.start
        return replace(self, start=self.start + start * width, end=self.start + end * width)

    def rate(self, peak: float, step: int, total: int) -> float:
        """Return the learning rate of a step, 0 <= step < total, of a training whose highest rate is ``peak``."""
        warm_up = max(1, min(self.warmup_steps, total // 10))
        done = self.start * total + (self.end - self.start) * step
        cosine = 0.5 * (1 + math.cos(math.pi * done / total))
        return peak * min(1.0, (step + 1) / warm_up) * cosine


@dataclass(frozen=True)
class Steps:
    """A learning rate that falls in steps.

    Attributes:
        until: the part of training at which each step ends, rising to 1.
        factors: the rate of each step as a part of the peak.
    """

    until: tuple[float, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        rising = all(a < b for a, b in zip((0.0, *self.until), self.until, strict=False))
        if not rising or self.until[-1:] != (1.0,):
            raise SettingsError(f"until is {self.until}; it must rise from above 0 to 1")
        if len(self.factors) != len(self.until) or not all(0 < factor <= 1 for factor in self.factors):
            raise SettingsError(f"factors is {self.factors}; it must be {len(self.until)} numbers above 0 and at most 1")

    def part(self, start: float, end: float) -> Steps:
        """Return the schedule of a part of what this one takes, from ``start`` to ``end`` of it."""
        begins = (0.0, *self.until[:-1])
        kept = [(u, f) for b, u, f in zip(begins, self.until, self.factors, strict=True) if u > start and b < end]
        return Steps(
            (*((u - start) / (end - start) for u, _ in kept[:-1]), 1.0), tuple(factor for _, factor in kept)
        )  # fmt: skip

    def rate(self, peak: float, step: int, total: int) -> float:
        """Return the learning rate of a step, 0 <= step < total, of a training whose highest rate is ``peak``."""
        return peak * next(factor for end, factor in zip(self.until, self.factors, strict=True) if step < end * total)


@dataclass(frozen=True)
class Recipe:
    """How to train a net, and what a compressed one loses and learns from its dense net on the way.

    Attributes:
        epochs: passes over the examples.
        batch_size: examples in a step; up to twice that where the epoch does not divide evenly.
        lr: peak learning rate.
        sparsity: one of ``SPARSITIES``.
        threshold_c: epsilon of a layer in standard deviations of its kernel at the start (threshold).
        l1: lambda' of the paper; the penalty of a layer is l1 * epsilon * |P| (threshold).
        lookups: entries that each position of each filter keeps (top).
        distill: learn from the dense net too.
        distill_weight: share of the dense net in the loss.
        temperature: temperature of the softened class probabilities (Hinton et al. 2015).
        seed: seed of the order of examples and of dropout.
        feature_weight: weight of the squared error between the outputs of compressed layers and of their dense ones, relative
            to the variance of the latter, in the loss.
        average: decay of the moving average of weights and statistics that is the result; less in the first steps, 0 for none.
        accumulate: parts a batch is computed in, to save memory; batch norms see one part at a time.
        precision: type of the products of both nets, one of ``PRECISIONS``; weights, their changes and the loss stay float32
            (mixed precision, Micikevicius et al. 2018, arXiv 1710.03740). bfloat16 is faster where the processor multiplies it,
            else slower.
        device: where to train, one of ``devices()``.
        task: what labels mean; None tells classes from targets by their type, so only several labels need it.
        optimiser: what turns gradients into changes of weights.
        schedule: what gives each step its learning rate, up to ``lr``.

    Raises:
        SettingsError: a value is outside its range; the message names the field.
    """

    epochs: int = field(default=5, metadata={"help": "Fine-tune for so many passes over `data`", "metavar": "N", "min": 0})
    batch_size: int = field(default=64, metadata={"help": "Images per training step", "metavar": "N", "min": 2})
    lr: float = field(default=1e-3, metadata={"help": "Learning rate of fine-tuning", "metavar": "NUMBER"})
    sparsity: str = field(default="gradual", metadata={
        "help": "gradual: prune the smallest on a cubic schedule; threshold: L1 and epsilon, as in the paper; top: the largest "
        "of each position, when training from scratch",
        "metavar": "NAME",
    })  # fmt: skip
    threshold_c: float = field(default=0.01, metadata={
        "help": "epsilon in standard deviations of each layer's kernel (threshold)", "metavar": "NUMBER",
    })  # fmt: skip
    l1: float = field(default=0.1, metadata={
        "help": "lambda' of the paper: weight of L1 in units of epsilon (threshold)", "metavar": "NUMBER",
    })  # fmt: skip
    distill: bool = field(default=True, metadata={"help": "Learn from the dense net too"})
    distill_weight: float = 0.7
    temperature: float = 3.0
    seed: int = 0
    feature_weight: float = 0.0
    average: float = 0.0
    accumulate: int = 1
    precision: str = field(default="float32", metadata={
        "help": "of products in training: float32, or bfloat16 where the processor has it (AMX, AVX-512)", "metavar": "TYPE",
    })  # fmt: skip
    device: str = field(default="cpu", metadata={"help": "Where to fine-tune: cpu, cuda or cuda:N", "metavar": "NAME"})
    task: Task | None = None
    optimiser: Optimiser | Sgd = Optimiser()
    schedule: Schedule | Steps = Schedule()
    lookups: int = 3

    def __post_init__(self) -> None:
        import torch

        check_fields(self)

        def check(name: str, valid: bool, rule: str) -> None:
            if not valid:
                raise SettingsError(f"{name} is {getattr(self, name)!r}; it must be {rule}")

        check("epochs", self.epochs >= 1, "1 or more")
        check("batch_size", self.batch_size >= 2, "2 or more, because batch norm needs a variance")
        check("lr", math.isfinite(self.lr) and self.lr > 0, "a number above 0")
        check("sparsity", self.sparsity in SPARSITIES, f"one of {', '.join(SPARSITIES)}")
        check("threshold_c", math.isfinite(self.threshold_c) and self.threshold_c >= 0, "a number of 0 or more")
        check("l1", math.isfinite(self.l1) and self.l1 >= 0, "a number of 0 or more")
        check("lookups", self.lookups >= 1, "1 or more")
        check("distill_weight", 0 <= self.distill_weight <= 1, "between 0 and 1")
        check("temperature", math.isfinite(self.temperature) and self.temperature > 0, "a number above 0")
        check("seed", 0 <= self.seed <= MAX_SEED, f"from 0 to {MAX_SEED}")
        check("feature_weight", math.isfinite(self.feature_weight) and self.feature_weight >= 0, "a number of 0 or more")
        check("average", 0 <= self.average < 1, "0 or more and below 1")
        check("accumulate", 1 <= self.accumulate <= self.batch_size // 2, "from 1 to half of batch_size")
        check("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        check("device", self.device in devices(), f"one of those torch {torch.__version__} finds here: {', '.join(devices())}")
        check("task", self.task in (None, *Task), f"None or one of {', '.join(task.value for task in Task)}")

    def recorded(self) -> dict[str, Any]:
        """Return what a configuration records of the recipe and ``from_recorded`` reads; see ``NEWER_FIELDS``."""
        values = asdict(self)
        if self.task is not None:
            values["task"] = Task(self.task).value
        left_out = [f.name for f in fields(self) if f.name in NEWER_FIELDS and getattr(self, f.name) == f.default]
        return {name: value for name, value in values.items() if name not in left_out}

    @classmethod
    def from_recorded(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe that a configuration holds.

        Raises:
            SettingsError: a value is outside its range.
            TypeError: a key is unknown.
        """
        made = dict(values)
        if "optimiser" in made:
            made["optimiser"] = (Optimiser if "betas" in made["optimiser"] else Sgd)(**_with_tuples(made["optimiser"]))
        if "schedule" in made:
            made["schedule"] = (Steps if "until" in made["schedule"] else Schedule)(**_with_tuples(made["schedule"]))
        return cls(**made)


def _with_tuples(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


# Users of 0.1.0 know the recipe by this name.
FinetuneSettings = Recipe

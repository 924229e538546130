"""How to train: every number of a training in one value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lcnn_compress.errors import SettingsError

SPARSITIES = ("gradual", "threshold")
PRECISIONS = ("float32", "bfloat16")


def devices() -> tuple[str, ...]:
    """Return where torch can train on this machine: cpu, and with a GPU cuda, cuda:0 and so on."""
    import torch  # only here and below: the options of the command line are made from the fields before torch is needed

    found = torch.cuda.device_count()
    return ("cpu", *(("cuda",) if found else ()), *(f"cuda:{i}" for i in range(found)))


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        epochs: passes over the examples.
        batch_size: examples in a step; up to twice that where the epoch does not divide evenly.
        lr: peak learning rate of Adam.
        sparsity: one of ``SPARSITIES``.
        threshold_c: epsilon of a layer in standard deviations of its kernel at the start (threshold).
        l1: lambda' of the paper; the penalty of a layer is l1 * epsilon * |P| (threshold).
        distill: learn from the dense net too.
        distill_weight: its share of the loss.
        temperature: of the softened class probabilities (Hinton et al. 2015).
        seed: of the order of examples and of dropout.
        feature_weight: of the squared error between the outputs of compressed layers and of their dense ones, relative to the
            variance of the latter, added to the loss.
        average: decay of the moving average of weights and statistics that is the result; less in the first steps, 0 for none.
        accumulate: parts a batch is computed in, to save memory; batch norms see one part at a time.
        precision: one of ``PRECISIONS``, of the products of both nets; weights, their changes and the loss stay float32 (mixed
            precision, Micikevicius et al. 2018, arXiv 1710.03740). Faster where the processor multiplies bfloat16, else slower.
        device: where to train, one of ``devices()``.
    """

    epochs: int = field(default=5, metadata={"help": "Fine-tune for so many passes over `data`", "metavar": "N", "min": 0})
    batch_size: int = field(default=64, metadata={"help": "Images per training step", "metavar": "N", "min": 2})
    lr: float = field(default=1e-3, metadata={"help": "Learning rate of fine-tuning", "metavar": "NUMBER"})
    sparsity: str = field(default="gradual", metadata={
        "help": "gradual: prune the smallest on a cubic schedule; threshold: L1 and epsilon, as in the paper",
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

    def __post_init__(self) -> None:
        import torch

        def check(name: str, valid: bool, rule: str) -> None:
            if not valid:
                raise SettingsError(f"{name} is {getattr(self, name)!r}; it must be {rule}")

        check("epochs", self.epochs >= 1, "1 or more")
        check("batch_size", self.batch_size >= 2, "2 or more, because batch norm needs a variance")
        check("lr", math.isfinite(self.lr) and self.lr > 0, "a number above 0")
        check("sparsity", self.sparsity in SPARSITIES, f"one of {', '.join(SPARSITIES)}")
        check("threshold_c", math.isfinite(self.threshold_c) and self.threshold_c >= 0, "a number of 0 or more")
        check("l1", math.isfinite(self.l1) and self.l1 >= 0, "a number of 0 or more")
        check("distill_weight", 0 <= self.distill_weight <= 1, "between 0 and 1")
        check("temperature", math.isfinite(self.temperature) and self.temperature > 0, "a number above 0")
        check("seed", self.seed >= 0, "0 or more")
        check("feature_weight", math.isfinite(self.feature_weight) and self.feature_weight >= 0, "a number of 0 or more")
        check("average", 0 <= self.average < 1, "0 or more and below 1")
        check("accumulate", 1 <= self.accumulate <= self.batch_size // 2, "from 1 to half of batch_size")
        check("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        check("device", self.device in devices(), f"one of those torch {torch.__version__} finds here: {', '.join(devices())}")

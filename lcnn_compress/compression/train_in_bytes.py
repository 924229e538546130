"""The last part of a training of layers in 8 bits: the net computes as files will hold it, and learns to.

The first part is in float32: there batch norms follow their batches, and patterns are found. Then batch norms are folded, the
net is brought to 8 bits from calibration data, and what that cost is trained away. Both are one training for whoever asked.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace

import torch
from torch import fx

from lcnn_compress.artefact.report import TrainingReport
from lcnn_compress.compression.checkpoint_folder import last_part_of
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.data.examples import Examples, batches
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import round_factors
from lcnn_compress.net.edit import fold_batch_norms
from lcnn_compress.net.ordinary import in_eval_mode, seeded
from lcnn_compress.net.output_error import even_places
from lcnn_compress.progress import Progress
from lcnn_compress.quantisation.trainable import as_stored, as_trainable
from lcnn_compress.train.checkpoint import CheckpointFile
from lcnn_compress.train.loop import finetune
from lcnn_compress.train.losses import Objective
from lcnn_compress.train.recipe import FinetuneSettings

log = logging.getLogger(__name__)
# This part of the epochs, at least one, trains in 8 bits: small classifiers gained nothing from more. Tried by hand on few
# nets; no script repeats it.
SHARE = 0.2
# Nets are held against each other by the loss of this many training examples.
JUDGED_EXAMPLES = 1024
FINE_TUNING = "fine-tuning"


@dataclass(frozen=True)
class Parts:
    """The two parts of a training.

    Attributes:
        first: settings whose training is the first part; without one where all epochs are in 8 bits.
        last: how to train in 8 bits; None where nothing is.
    """

    first: CompressSettings
    last: FinetuneSettings | None = None

    @classmethod
    def of(cls, settings: CompressSettings, data: TrainingData, *, in_bytes: bool) -> Parts:
        """Divide the training that settings ask for; all of it is the first part unless some layers are ``in_bytes``.

        What an earlier training left of a last part is deleted unless it is resumed.
        """
        whole = settings.finetune
        if whole is None or not in_bytes:
            return cls(settings)
        if data.checkpoint is not None and not data.resume:
            last_part_of(data.checkpoint).unlink(missing_ok=True)
        epochs = max(1, round(SHARE * whole.epochs))
        before = whole.epochs - epochs
        divided = before / whole.epochs
        # What is pruned is pruned before, by a rule that needs float32: here each layer keeps as many entries as it has.
        last = replace(whole, epochs=epochs, sparsity="gradual", schedule=whole.schedule.part(divided, 1.0))
        first = replace(whole, epochs=before, schedule=whole.schedule.part(0.0, divided)) if before else None
        return cls(replace(settings, finetune=first), last)

    @property
    def _epochs(self) -> tuple[int, int]:
        before, after = self.first.finetune, self.last
        return (0 if before is None else before.epochs), (0 if after is None else after.epochs)

    def first_of(self, progress: Progress) -> Progress:
        """Return the progress of the first part: its steps are some of all."""
        before, epochs = self._epochs
        return _within(progress, before, 0, before + epochs)

    def last_of(self, progress: Progress) -> Progress:
        """Return the progress of the last part: it goes on where the first one ended."""
        before, epochs = self._epochs
        return _within(progress, epochs, before, before + epochs)


def _within(progress: Progress, epochs: int, before: int, whole: int) -> Progress:
    """Return the progress of a training of ``epochs``, with ``before`` done, as one of a ``whole``."""

    def report(stage: str, done: int, total: int) -> None:
        if stage == FINE_TUNING:
            each = total // epochs
            done, total = before * each + done, whole * each
        progress(stage, done, total)

    return report


def train_in_bytes(
    net: fx.GraphModule, plain: fx.GraphModule, dense: fx.GraphModule, parts: Parts, data: TrainingData,
    earlier: TrainingReport | None, progress: Progress,
) -> tuple[fx.GraphModule, TrainingReport]:  # fmt: skip
    """Return a net after the last part of its training, or as it was where that has the lower loss.

    Args:
        net: what ``quantise`` made of ``plain``.
        plain: the finished net.
        dense: the teacher.
        parts: has a last one.
        data: what is learned from, and where a training is kept.
        earlier: the report of the first part.
        progress: gets ("fine-tuning", step, total steps) of both parts.

    Returns:
        The net and the report of both parts.
    """
    recipe, examples = parts.last, data.examples
    assert recipe is not None
    assert examples is not None
    teacher: fx.GraphModule = copy.deepcopy(dense)
    fold_batch_norms(teacher)  # layers of both nets give the same then
    trained = as_trainable(net, plain)
    report = finetune(trained, teacher, examples, recipe, checkpoint=_checkpoint(data), progress=parts.last_of(progress))
    result = as_stored(trained)
    round_factors(result, parts.first.storage)
    before, after = (_loss(made, teacher, examples, recipe) for made in (net, result))
    log.info("training in 8 bits took the loss from %.4g to %.4g", before, after)
    if not after <= before:
        log.info("the net stays as it was before that")
    left = {name: module.n_nonzeros for name, module in plain.named_modules() if isinstance(module, LookupConv2d)}
    done = TrainingReport(0, (), {}) if earlier is None else earlier
    both = TrainingReport(done.steps + report.steps, (*done.losses, *report.losses), left)
    return (result if after <= before else net), both


def _checkpoint(data: TrainingData) -> CheckpointFile:
    """Return where this part is kept: beside the first part, from whose end it is resumed."""
    if data.checkpoint is None:
        return CheckpointFile()
    path = last_part_of(data.checkpoint)
    return CheckpointFile(path, data.resume and path.is_file())


@torch.no_grad()
def _loss(net: fx.GraphModule, teacher: fx.GraphModule, examples: Examples, recipe: FinetuneSettings) -> float:
    """Return the mean loss of some training examples in eval mode."""
    objective = Objective(net, teacher, (), replace(recipe, feature_weight=0.0))
    some = even_places(len(examples), JUDGED_EXAMPLES)
    total = 0.0
    with seeded(recipe.seed), in_eval_mode(net, teacher):
        for x, y in batches(examples, recipe.batch_size, some):
            total += len(x) * float(objective.loss(x, y))
    return total / len(some)

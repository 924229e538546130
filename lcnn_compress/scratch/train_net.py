"""A net and data in, an artefact out that was trained from scratch; what comes after is as for any other artefact.

Beside the artefact ``NAME.lcnn`` the folder ``NAME.lcnn.training`` holds ``log.jsonl``, a line an epoch, and while the training
lasts ``training.ckpt``; when it is over that is called ``final.ckpt``, from which other trainings may start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from torch import fx

from lcnn_compress.artefact.artefact import Artefact, check_place, save_artefact
from lcnn_compress.artefact.report import LayerReport, TrainingReport
from lcnn_compress.compression.make_report import layer_reports, make_report
from lcnn_compress.compression.settings import LayerPlan
from lcnn_compress.data.examples import Examples
from lcnn_compress.data.score import score, torch_runner
from lcnn_compress.errors import FileError, SettingsError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import finished
from lcnn_compress.net.layers import Captured
from lcnn_compress.net.ordinary import ordinary
from lcnn_compress.progress import Progress, silent
from lcnn_compress.scratch.drawn import Augmented, Balanced
from lcnn_compress.scratch.epoch_log import EpochLog
from lcnn_compress.scratch.prepare import Prepared
from lcnn_compress.scratch.presets import choose
from lcnn_compress.scratch.start import gaussian_start, start_from
from lcnn_compress.scratch.train_settings import TrainSettings
from lcnn_compress.sources.source import identified
from lcnn_compress.train.checkpoint import CheckpointFile
from lcnn_compress.train.loop import Epoch, FinetuneReport, Goal, train
from lcnn_compress.train.recipe import Recipe


@dataclass(frozen=True)
class TrainingFolder:
    """The folder beside the artefact ``path`` that holds the log and the checkpoint of its training."""

    path: Path

    @property
    def folder(self) -> Path:
        """The folder itself."""
        return self.path.with_name(self.path.name + ".training")

    @property
    def checkpoint(self) -> Path:
        """What an interrupted training goes on from."""
        return self.folder / "training.ckpt"

    @property
    def final(self) -> Path:
        """The checkpoint of a training that is over."""
        return self.folder / "final.ckpt"

    @property
    def log(self) -> Path:
        """One line of JSON for each epoch."""
        return self.folder / "log.jsonl"

    def check(self, resume: bool) -> None:
        """Refuse to overwrite an interrupted training, and to resume one that is not there.

        Raises:
            SettingsError: there is one and ``resume`` is not asked for, or the other way round.
        """
        if self.checkpoint.is_file() and not resume:
            raise SettingsError(
                f"{self.folder}: holds an interrupted training; add `resume` to go on, or delete {self.checkpoint}"
            )
        if resume and not self.checkpoint.is_file():
            over = "the training is over" if self.final.is_file() else "no training to resume"
            raise SettingsError(f"{self.checkpoint}: {over}; run without `resume`")

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Have the folder; an interrupt says how to go on, and a checkpoint of what is done becomes the final one.

        Raises:
            FileError: the folder cannot be made.
        """
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.folder}: cannot be made: {error.strerror or error}; choose another `output`") from error
        try:
            yield
        except KeyboardInterrupt:
            if not self.checkpoint.is_file():
                raise
            raise KeyboardInterrupt(f"{self.folder} keeps the work; the same command with `resume` goes on") from None
        os.replace(self.checkpoint, self.final)


@ordinary
def train_from_scratch(
    prepared: Prepared,
    output: str | Path,
    settings: TrainSettings = TrainSettings(),
    *,
    init_from: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Artefact:
    """Train a net from new weights and write it as an artefact.

    With the same arguments on the same machine's CPU the tensors of the artefact are the same bit for bit, also when the
    training was interrupted, or killed, any number of times and resumed.

    Args:
        prepared: the net and the data, from ``prepare_training``.
        output: the artefact to write; the folder ``OUTPUT.training`` keeps log and checkpoint.
        settings: how to train.
        init_from: a checkpoint of a training of the same net with the same dictionaries, whose weights to start from.
        resume: go on with an interrupted training; everything else must be as in the first run.
        progress: gets ("training", step, total steps) and ("evaluating", ...).

    Raises:
        SettingsError: something that is not an artefact, or an interrupted training, is at ``output``; there is nothing to
            resume; or the preset does not fit the net.
        ArtefactError: a checkpoint is damaged, or of another net or other settings.
        FileError: a file cannot be read or written.
        DataError: labels do not fit the net.
        ModelError: the loss is not finite.
        KeyboardInterrupt: on ctrl-C, with a message where the work was kept.
    """
    path = Path(output)
    check_place(path)
    folder = TrainingFolder(path)
    folder.check(resume)
    captured = prepared.source.captured
    chosen = choose(captured.layers, settings)
    recipe = settings.recipe(chosen.published, chosen.timetable)
    net = gaussian_start(captured, chosen.plans, settings.seed)
    if init_from is not None and not resume:
        start_from(net, Path(init_from))
    examples = _drawn(prepared.examples, settings)
    with folder.keeping():
        log = EpochLog(folder.log, recipe.epochs)

        def on_epoch(epoch: Epoch) -> None:
            judged = prepared.scored
            log.write(epoch, None if judged is None else score(torch_runner(_graph(epoch)), judged, progress))

        report = train(
            net, examples, recipe, goal=Goal(_ends(captured, chosen.plans, settings), on_epoch=on_epoch),
            checkpoint=CheckpointFile(folder.checkpoint, resume), progress=progress,
        )  # fmt: skip
        made = identified(_artefact(net, captured, chosen.plans, settings, recipe, prepared, report), prepared.source)
        save_artefact(made, path)
    return made


def _graph(epoch: Epoch) -> fx.GraphModule:
    assert isinstance(epoch.net, fx.GraphModule)
    return epoch.net


def _drawn(examples: Examples, settings: TrainSettings) -> Examples:
    balanced = Balanced.of(examples) if settings.balanced else examples
    return Augmented(balanced, settings.shift, settings.flip) if settings.shift or settings.flip else balanced


def _ends(captured: Captured, plans: Sequence[LayerPlan], settings: TrainSettings) -> dict[str, int]:
    """Return how many entries each lookup layer shall keep where that falls gradually."""
    if settings.sparsity != "gradual":
        return {}
    return {
        plan.name: min(settings.lookups, plan.dictionary_size) * layer.out_channels * layer.geometry.taps
        for layer, plan in zip(captured.layers, plans, strict=True) if plan.form.is_coded
    }  # fmt: skip


def _artefact(
    net: fx.GraphModule, captured: Captured, plans: Sequence[LayerPlan], settings: TrainSettings, recipe: Recipe,
    prepared: Prepared, report: FinetuneReport,
) -> Artefact:  # fmt: skip
    done = finished(net, settings.storage)
    rows = tuple(_as_trained(row, done) for row in layer_reports(done, captured.layers, plans, settings.storage))
    config = {
        "command": "train", "init": "gaussian", "seed": settings.seed, "coefficients": settings.storage,
        "layers": [plan.to_json() for plan in plans], "train": asdict(settings), "finetune": recipe.recorded(),
        "data": prepared.origin or {"in_memory": True},
    }  # fmt: skip
    training = TrainingReport(report.steps, report.losses, report.nonzeros)
    made = make_report(rows, prepared.source.input_shape, 0, training, datetime.now(timezone.utc))
    return Artefact(done, prepared.source.input_shape, config, replace(made, command="train"))


def _as_trained(row: LayerReport, net: fx.GraphModule) -> LayerReport:
    """Return the row of a layer with the kind that training gave it; there is no dense weight that it should be near."""
    module = net.get_submodule(row.name)
    return replace(row, kind=module.kind.name, relative_error=None) if isinstance(module, LookupConv2d) else row

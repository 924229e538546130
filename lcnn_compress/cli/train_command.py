"""``lcnn train``: its options, and what it does with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lcnn_compress.cli import render, resolve
from lcnn_compress.cli.error_boundary import flag
from lcnn_compress.cli.options import DATA, DICTIONARY, MODEL, OUTPUT, TRAINING, argument, own, taken
from lcnn_compress.cli.requests import AnswerRequest
from lcnn_compress.cli.resolve import require
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.errors import SettingsError
from lcnn_compress.scratch.train_settings import TrainSettings

# Options of a way to get sparse that do nothing with the others.
_OF_SPARSITY = {"lookups": ("top", "gradual"), "threshold_c": ("threshold",), "l1": ("threshold",)}
_OF_LOOKUPS = ("dictionary", "sparsity", *_OF_SPARSITY)


@dataclass(frozen=True, kw_only=True)
class TrainRequest(AnswerRequest):
    """``lcnn train``."""

    net: str = argument("A net of lcnn_compress.zoo (alexnet_lcnn, resnet18, ...), a factory pkg.mod:fn, or a file", "NET")
    preset: str = taken(TrainSettings, "preset", panel=DICTIONARY)
    dictionary: str | None = taken(TrainSettings, "dictionary", "--dict", panel=DICTIONARY)
    sparsity: str = taken(TrainSettings, "sparsity", panel=DICTIONARY)
    lookups: int = taken(TrainSettings, "lookups", panel=DICTIONARY)
    threshold_c: float | None = taken(TrainSettings, "threshold_c", panel=DICTIONARY)
    l1: float | None = taken(TrainSettings, "l1", panel=DICTIONARY)
    storage: str = taken(TrainSettings, "storage", panel=DICTIONARY)
    input_shape: str | None = own(
        "Input, e.g. 1,3,224,224; asked for only when it cannot be known", panel=MODEL, metavar="N,C,H,W"
    )
    classes: int | None = own("Classes of the net", panel=MODEL, metavar="N", min=2, shown_default="as many as the labels name")
    data: str | None = taken(DataSettings, "data", panel=DATA, metadata={
        "help": "Labelled data to train on: folder of class folders, .npz with x and y, idx file of images, or pkg.mod:fn",
    })  # fmt: skip
    val: str | None = own("Labelled data to score the net on after every epoch", panel=DATA, metavar="DATA")
    mean: str | None = taken(DataSettings, "mean", panel=DATA)
    std: str | None = taken(DataSettings, "std", panel=DATA)
    balanced: bool = taken(TrainSettings, "balanced", "--balanced", panel=DATA)
    shift: int = taken(TrainSettings, "shift", panel=DATA)
    flip: bool = taken(TrainSettings, "flip", "--flip", panel=DATA)
    schedule: str | None = taken(TrainSettings, "timetable", panel=TRAINING)
    epochs: int | None = taken(TrainSettings, "epochs", panel=TRAINING)
    batch_size: int | None = taken(TrainSettings, "batch_size", panel=TRAINING)
    lr: float | None = taken(TrainSettings, "lr", panel=TRAINING)
    seed: int = taken(TrainSettings, "seed", panel=TRAINING)
    training_precision: str = taken(TrainSettings, "precision", panel=TRAINING)
    device: str = taken(TrainSettings, "device", panel=TRAINING)
    init_from: Path | None = own(
        "Start from the weights of another training of this net: its final.ckpt", panel=TRAINING, metavar="FILE"
    )
    resume: bool = own("Go on with an interrupted training", "--resume", panel=TRAINING, default=False)
    output: Path | None = own("Artefact to write", "--output", "-o", panel=OUTPUT, metavar="DIR", shown_default="NET.lcnn here")

    @property
    def place(self) -> Path:
        """Where the artefact is written."""
        return self.output or resolve.default_output(self.net)

    def settings(self, given: frozenset[str]) -> TrainSettings:
        """Return how to train.

        Raises:
            SettingsError: an option has a value that is not allowed, or would do nothing.
        """
        for name in _OF_LOOKUPS:
            if name in given and self.preset == "dense":
                raise SettingsError(f"{flag(name)} does nothing with --preset dense; leave one of them out")
        for name, ways in _OF_SPARSITY.items():
            if name in given and self.sparsity not in ways:
                other = f"add --sparsity {ways[0]}, or leave the option out"
                raise SettingsError(f"{flag(name)} does nothing with --sparsity {self.sparsity}; {other}")
        require(not (self.resume and self.init_from), "--init-from does nothing with --resume; leave one of them out")
        return TrainSettings(
            preset=self.preset, dictionary=self.dictionary, sparsity=self.sparsity, lookups=self.lookups,
            threshold_c=self.threshold_c, l1=self.l1, timetable=self.schedule, epochs=self.epochs, batch_size=self.batch_size,
            lr=self.lr, balanced=self.balanced, shift=self.shift, flip=self.flip, seed=self.seed, storage=self.storage,
            precision=self.training_precision, device=self.device,
        )  # fmt: skip

    def data_settings(self) -> DataSettings:
        """Return where the examples come from; raises SettingsError where it is not said."""
        require(self.data is not None, "train needs labelled data; add --data FOLDER, file.npz, an idx file or pkg.mod:fn")
        mean, std = resolve.numbers("--mean", self.mean), resolve.numbers("--std", self.std)
        return DataSettings(data=self.data, mean=mean, std=std)


def train(request: TrainRequest, given: frozenset[str]) -> None:
    """Train a net from new weights, dense or with lookup convolutions as in the paper, into an artefact NAME.lcnn."""
    settings, data, shape = request.settings(given), request.data_settings(), resolve.input_shape(request.input_shape)

    from lcnn_compress.scratch.prepare import prepare_training
    from lcnn_compress.scratch.train_net import TrainingFolder, train_from_scratch

    folder = TrainingFolder(request.place)
    folder.check(request.resume)
    prepared = prepare_training(request.net, data, scored=request.val, input_shape=shape, n_classes=request.classes)
    for line in prepared.source.notes:
        render.note(line)
    with render.progress() as progress:
        artefact = train_from_scratch(
            prepared, request.place, settings, init_from=request.init_from, resume=request.resume, progress=progress
        )
    if request.as_json:
        render.print_json(artefact.report.to_json())
        return
    render.layer_table(artefact.report.to_json()["layers"])
    render.text(f"written {request.place}; {folder.log} tells of every epoch")

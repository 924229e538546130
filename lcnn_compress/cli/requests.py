"""What each command takes: its options as one value, and the settings they stand for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.cli import resolve
from lcnn_compress.cli.error_boundary import flag
from lcnn_compress.cli.options import (
    DATA,
    DICTIONARY,
    MEASUREMENT,
    MODEL,
    OUTPUT,
    TARGETS,
    TRAINING,
    argument,
    origin_of,
    own,
    taken,
)
from lcnn_compress.cli.resolve import require
from lcnn_compress.compression.settings import CompressSettings, PlanSettings
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.errors import SettingsError
from lcnn_compress.export.export_settings import ExportSettings
from lcnn_compress.forms.size_rules import parse_amount
from lcnn_compress.search.target import HELD_OUT, INIT, SensitivitySettings, Target
from lcnn_compress.train.recipe import FinetuneSettings

if TYPE_CHECKING:
    from lcnn_compress.compression.configuration import Configuration

TARGET_FIELDS = ("target_speedup", "target_latency_ms", "target_size_mb", "max_drop")
TRAINING_FIELDS = ("lr", "batch_size", "sparsity", "l1", "threshold_c", "distill", "training_precision", "device")
DATA_FIELDS = ("calib", "samples", "data", "mean", "std", "strict")
# The options named first do nothing without one of those named next; a message calls these as the text says.
_NEEDS_DATA = (("samples", "mean", "std"), ("calib", "data"), "--calib or --data")
_NEEDS_CALIB = (("samples", "mean", "std"), ("calib",), "--calib")
_NEEDS = (
    (TRAINING_FIELDS, ("epochs",), "--epochs N"),
    (("task", "strict"), ("data",), "--data"),
    (("data",), ("epochs", *TARGET_FIELDS), "--epochs N or a target such as --max-drop"),
    _NEEDS_DATA,
    (("dry_run",), TARGET_FIELDS, "a target such as --target-speedup 4"),
)


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """How a model file is opened."""

    arch: str | None = own(
        "Factory of the net a state_dict belongs to: pkg.mod:fn or file.py:fn", panel=MODEL, metavar="FACTORY"
    )
    input_shape: str | None = own(
        "Input, e.g. 1,3,224,224; asked for only when it cannot be known", panel=MODEL, metavar="N,C,H,W"
    )
    trust_pickle: bool = own(
        "Load a pickled model even if that runs code from the file", "--trust-pickle", panel=MODEL, default=False
    )

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The input shape (1, ...)."""
        return resolve.input_shape(self.input_shape)


@dataclass(frozen=True, kw_only=True)
class AnswerRequest:
    """How a command answers."""

    as_json: bool = own("Print one JSON object on stdout, and nothing else but errors", "--json", panel=OUTPUT, default=False)
    quiet: bool = own("No progress, no notes and no warnings", "--quiet", "-q", panel=OUTPUT, default=False)


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """What commands that calibrate take; the texts of calib and data differ."""

    samples: int = taken(DataSettings, "samples", panel=DATA)
    mean: str | None = taken(DataSettings, "mean", panel=DATA)
    std: str | None = taken(DataSettings, "std", panel=DATA)

    def data_settings(self, calib: str | None, data: str | None, held_out: float = 0.0) -> DataSettings:
        """Return where data comes from and how it is prepared."""
        mean, std = resolve.numbers("--mean", self.mean), resolve.numbers("--std", self.std)
        return DataSettings(calib, self.samples, data, mean, std, held_out)


@dataclass(frozen=True, kw_only=True)
class CompressRequest(AnswerRequest, DataRequest, ModelRequest):
    """``lcnn compress``."""

    model: str = argument("model.pt, .pt2, a state_dict (with --arch) or a factory pkg.mod:fn", "MODEL")
    dictionary: str = taken(PlanSettings, "dictionary", "--dict", panel=DICTIONARY)
    lookups: str | None = taken(PlanSettings, "lookups", panel=DICTIONARY)
    filters_per_pattern: int = taken(PlanSettings, "filters_per_pattern", panel=DICTIONARY)
    init: str = taken(CompressSettings, "init", panel=DICTIONARY)
    only: list[str] | None = taken(PlanSettings, "only", panel=DICTIONARY)
    skip: list[str] | None = taken(PlanSettings, "skip", panel=DICTIONARY)
    keep_slow: bool = taken(PlanSettings, "keep_slow", "--keep-slow", panel=DICTIONARY)
    measure: bool = taken(CompressSettings, "measure", panel=DICTIONARY)
    threads: int = taken(CompressSettings, "threads", panel=DICTIONARY)
    storage: str = taken(CompressSettings, "storage", panel=DICTIONARY)
    arithmetic: str = taken(CompressSettings, "arithmetic", panel=DICTIONARY)
    seed: int = taken(CompressSettings, "seed", panel=DICTIONARY)
    target_speedup: float | None = own("Instead of --dict: a net so many times faster, measured", panel=TARGETS, metavar="X")
    target_latency_ms: float | None = own(
        "Instead of --dict: milliseconds for one image, measured", panel=TARGETS, metavar="MS"
    )
    target_size_mb: float | None = own("Instead of --dict: largest ONNX file, MB of 10**6 bytes", panel=TARGETS, metavar="MB")
    max_drop: float | None = own(
        "Instead of --dict: the fastest net that loses at most so much on a part of --data held out, in points or dB",
        panel=TARGETS, metavar="D",
    )  # fmt: skip
    dry_run: bool = own(
        "Show the plan for a target and what it is expected to give; write nothing", "--dry-run", panel=TARGETS, default=False
    )
    calib: str | None = taken(DataSettings, "calib", panel=DATA)
    data: str | None = taken(DataSettings, "data", panel=DATA)
    task: str | None = taken(DataSettings, "task", panel=DATA)
    strict: bool = taken(DataSettings, "strict", "--strict", panel=DATA)
    epochs: int = taken(FinetuneSettings, "epochs", panel=TRAINING, default=0)
    lr: float = taken(FinetuneSettings, "lr", panel=TRAINING)
    batch_size: int = taken(FinetuneSettings, "batch_size", panel=TRAINING)
    sparsity: str = taken(FinetuneSettings, "sparsity", panel=TRAINING)
    l1: float = taken(FinetuneSettings, "l1", panel=TRAINING)
    threshold_c: float = taken(FinetuneSettings, "threshold_c", panel=TRAINING)
    distill: bool = taken(FinetuneSettings, "distill", panel=TRAINING)
    training_precision: str = taken(FinetuneSettings, "precision", panel=TRAINING)
    device: str = taken(FinetuneSettings, "device", panel=TRAINING)
    resume: bool = own("Continue an interrupted fine-tuning", "--resume", panel=TRAINING, default=False)
    config: Path | None = own(
        "config.json of an artefact: repeat that run's decisions", "--config", "-c", panel=OUTPUT, metavar="FILE"
    )
    output: Path | None = own(
        "Artefact to write", "--output", "-o", panel=OUTPUT, metavar="DIR", shown_default="MODEL.lcnn here"
    )

    @property
    def place(self) -> Path:
        """Where the artefact is written."""
        return self.output or resolve.default_output(self.model)

    def target(self, given: frozenset[str]) -> Target | None:
        """Return what is asked for instead of ``--dict``, or None.

        Raises:
            SettingsError: more than one thing is asked for, or an option that a target decides.
        """
        values = {name: getattr(self, name) for name in TARGET_FIELDS}
        chosen = [name for name, value in values.items() if value is not None]
        asked = [*(["dictionary"] if "dictionary" in given else []), *chosen]
        if len(asked) > 1:
            raise SettingsError(f"{flag(asked[0])} and {flag(asked[1])} both say how far to compress; give one of them")
        if not chosen:
            return None
        for name in ("lookups", "filters_per_pattern", "keep_slow"):
            if name in given:
                raise SettingsError(
                    f"{flag(name)} does nothing with {flag(chosen[0])}, which decides it; leave one of them out"
                )
        return Target(chosen[0].removeprefix("target_"), values[chosen[0]])

    def configuration(self, given: frozenset[str], target: Target | None) -> Configuration:
        """Return what is to be done: what the options say, or what ``--config`` records.

        Raises:
            SettingsError: options contradict each other, would do nothing, or have values that are not allowed.
            ArtefactError, FileError: the configuration cannot be read.
        """
        from lcnn_compress.compression.configuration import Configuration

        settings = self._settings(given, target)
        largest_drop = target is not None and target.kind == "max_drop"
        data = self._all_data(HELD_OUT if largest_drop else 0.0)
        if target is not None:
            target.check(settings)
        if largest_drop:
            require(self.data is not None, "--max-drop is judged on labelled examples; add --data")
            require(not self.resume, "--resume does not go with --max-drop, which trains several nets; run without it")
        if self.config is not None:
            return self._repeated(self.config, given)
        self._check_together(given)
        trains = settings.finetune is not None
        require(not trains or self.data is not None, "--epochs asks for fine-tuning, but there is no training data; add --data")
        return Configuration(settings, data, self.arch, self.shape)

    def _all_data(self, held_out: float = 0.0) -> DataSettings:
        made = self.data_settings(self.calib, self.data, held_out)
        return replace(made, task=self.task, strict=self.strict)  # type: ignore[arg-type]  # the value of a member of Task

    def _settings(self, given: frozenset[str], target: Target | None) -> CompressSettings:
        finetune = FinetuneSettings(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, sparsity=self.sparsity, threshold_c=self.threshold_c,
            l1=self.l1, distill=self.distill, seed=self.seed, precision=self.training_precision, device=self.device,
            task=self._all_data().task,
        ) if self.epochs else None  # fmt: skip
        lookups = (
            None if self.lookups is None else parse_amount("lookups", self.lookups, "lookups per position", "the dictionary")
        )
        only, skip = tuple(self.only or ()), tuple(self.skip or ())
        plan = PlanSettings(self.dictionary, lookups, only, skip, self.keep_slow, self.filters_per_pattern)
        init = self.init if target is None or "init" in given else INIT
        return CompressSettings(plan, init, self.seed, self.storage, self.measure, self.threads, finetune, self.arithmetic)

    def _repeated(self, config: Path, given: frozenset[str]) -> Configuration:
        from lcnn_compress.compression.configuration import read_configuration

        fixed = [f.name for f in fields(self) if f.name in given and _is_fixed(f.name, origin_of(f))]
        require(
            not fixed,
            f"--config already fixes {', '.join(map(flag, fixed))}; leave those options out, or leave out --config",
        )
        values = self._all_data()
        recorded = read_configuration(config, {name: getattr(values, name) for name in DATA_FIELDS if name in given})
        settings = replace(recorded.settings, measure=self.measure, threads=self.threads)
        arch, shape = self.arch or recorded.arch, self.shape or recorded.input_shape
        return replace(recorded, settings=settings, arch=arch, input_shape=shape)

    def _check_together(self, given: frozenset[str]) -> None:
        check_needs(given, _NEEDS)
        for name in ("l1", "threshold_c"):
            if name in given and self.sparsity != "threshold":
                raise SettingsError(
                    f"{flag(name)} does nothing with --sparsity {self.sparsity}; add --sparsity threshold, or leave the "
                    "option out"
                )


def _is_fixed(name: str, origin: tuple[type, str] | None) -> bool:
    """Tell whether a configuration decides an option: all of them but data, where results go, and how layers are timed."""
    if origin is None:
        return name in (*TARGET_FIELDS, "dry_run")
    return name == "task" or (origin[0] is not DataSettings and name not in ("measure", "threads"))


def check_needs(given: frozenset[str], needs: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...]) -> None:
    """Refuse options that would do nothing.

    Args:
        given: names of the options on the command line.
        needs: (options, those they need one of, how those are called).

    Raises:
        SettingsError: an option needs another one that is not there.
    """
    for names, needed, text in needs:
        idle = [name for name in names if name in given]
        if idle and not given.intersection(needed):
            raise SettingsError(f"{flag(idle[0])} does nothing without {text}; add it, or leave the option out")


@dataclass(frozen=True, kw_only=True)
class SensitivityRequest(AnswerRequest, DataRequest, ModelRequest):
    """``lcnn sensitivity``."""

    model: str = argument("model.pt, .pt2, a state_dict (with --arch) or a factory pkg.mod:fn", "MODEL")
    sizes: str = taken(SensitivitySettings, "sizes", panel=DICTIONARY)
    only: list[str] | None = taken(PlanSettings, "only", panel=DICTIONARY)
    skip: list[str] | None = taken(PlanSettings, "skip", panel=DICTIONARY)
    init: str = taken(CompressSettings, "init", panel=DICTIONARY)
    seed: int = taken(CompressSettings, "seed", panel=DICTIONARY)
    data: str | None = taken(DataSettings, "data", panel=DATA, metadata={
        "help": "Labelled data: the drop is measured; folder, .npz with x and y, or pkg.mod:fn",
    })  # fmt: skip
    calib: str | None = taken(DataSettings, "calib", panel=DATA, metadata={
        "help": "Unlabelled data: the error of the outputs is measured, and coefficients are solved",
    })  # fmt: skip
    limit: int | None = own("Use only so many images", panel=DATA, min=1, metavar="N", shown_default="all")
    plot: Path | None = own("Also draw the table as a picture, .svg", "--plot", panel=OUTPUT, metavar="FILE")

    def settings(self) -> SensitivitySettings:
        """Return what to try.

        Raises:
            SettingsError: an option cannot be used.
        """
        plan = PlanSettings(only=tuple(self.only or ()), skip=tuple(self.skip or ()))
        return SensitivitySettings(resolve.numbers("--sizes", self.sizes) or (), plan, self.init, self.seed)

    def checked_data(self, given: frozenset[str]) -> DataSettings:
        """Return where data comes from.

        Raises:
            SettingsError: there is none, or an option would do nothing.
        """
        require(self.data is not None or self.calib is not None, "sensitivity needs data; add --data (labelled) or --calib")
        check_needs(given, (_NEEDS_DATA,))
        return self.data_settings(self.calib, self.data)


@dataclass(frozen=True, kw_only=True)
class ExportRequest(AnswerRequest):
    """``lcnn export``."""

    artefact: Path | None = argument("Artefact; the one here, or the newest of several", "[ARTEFACT]", None)
    onnx: bool = own("Write ONNX (the only format so far)", "--onnx", panel=OUTPUT, default=False)
    output: Path | None = own(
        "File to write", "--output", "-o", panel=OUTPUT, metavar="FILE", shown_default="ARTEFACT/model.onnx"
    )
    dense: bool = taken(ExportSettings, "dense", "--dense", panel=OUTPUT)
    fallback: bool = taken(ExportSettings, "fallback", panel=OUTPUT)
    storage: str | None = taken(
        ExportSettings, "storage", panel=OUTPUT, default=None, metadata={"shown_default": "as in the artefact"}
    )
    tolerance: float = taken(ExportSettings, "tolerance", panel=OUTPUT)


@dataclass(frozen=True, kw_only=True)
class BenchRequest(AnswerRequest, DataRequest):
    """``lcnn bench``."""

    artefact: Path | None = argument("Artefact or exported .onnx; the artefact here, or the newest", "[ARTEFACT|ONNX]", None)
    threads: str = taken(BenchSettings, "threads", panel=MEASUREMENT)
    batches: str = taken(BenchSettings, "batches", "--batch", panel=MEASUREMENT)
    iterations: int = taken(BenchSettings, "iterations", panel=MEASUREMENT)
    per_layer: bool = taken(BenchSettings, "per_layer", panel=MEASUREMENT)
    dense: Path | None = own(
        "Dense ONNX file to hold it against", "--dense", panel=MEASUREMENT, metavar="ONNX", shown_default="the original net"
    )
    rivals: bool = taken(BenchSettings, "rivals", panel=MEASUREMENT)
    calib: str | None = taken(DataSettings, "calib", panel=DATA, metadata={
        "help": "Images that int8 takes its ranges from: folder, .npz, .npy or pkg.mod:fn", "shown_default": "random images",
    })  # fmt: skip
    suite: str | None = own(
        "Measure known nets with synthetic patterns instead of an artefact: paper (published dictionaries and densities) or "
        "narrow (8 bits and bfloat16)",
        panel=MEASUREMENT, metavar="NAME",
    )  # fmt: skip
    trust_pickle: bool = own(
        "Load a pickled model even if that runs code from the file", "--trust-pickle", panel=MODEL, default=False
    )

    def settings(self) -> BenchSettings:
        """Return what to measure.

        Raises:
            SettingsError: an option cannot be used.
        """
        threads, batches = resolve.integers("--threads", self.threads), resolve.integers("--batch", self.batches)
        return BenchSettings(threads, batches, self.iterations, per_layer=self.per_layer, rivals=self.rivals)

    def checked_data(self, given: frozenset[str]) -> DataSettings:
        """Return where the images for int8 come from.

        Raises:
            SettingsError: an option would do nothing.
        """
        check_needs(given, (_NEEDS_CALIB,))
        require(self.rivals or self.calib is None, "--calib does nothing with --no-rivals; leave one of them out")
        return self.data_settings(self.calib, None)


@dataclass(frozen=True, kw_only=True)
class EvalRequest(AnswerRequest, ModelRequest):
    """``lcnn eval``."""

    target: str | None = argument("Artefact, model or .onnx; the artefact here, or the newest", "[ARTEFACT|MODEL|ONNX]", None)
    data: str | None = taken(DataSettings, "data", panel=DATA, metadata={
        "help": "Labelled data: folder of class folders, .npz with x and y, .csv (see `task`), or pkg.mod:fn",
    })  # fmt: skip
    task: str | None = taken(DataSettings, "task", panel=DATA)
    strict: bool = taken(DataSettings, "strict", "--strict", panel=DATA)
    limit: int | None = own("Use only so many images", panel=DATA, min=1, metavar="N", shown_default="all")
    mean: str | None = taken(DataSettings, "mean", panel=DATA)
    std: str | None = taken(DataSettings, "std", panel=DATA)

    def data_settings(self) -> DataSettings:
        """Return where the labelled data comes from.

        Raises:
            SettingsError: there is none.
        """
        require(self.data is not None, "eval needs labelled data; add --data FOLDER, file.npz or pkg.mod:fn")
        mean, std = resolve.numbers("--mean", self.mean), resolve.numbers("--std", self.std)
        made = DataSettings(data=self.data, mean=mean, std=std, strict=self.strict)
        return replace(made, task=self.task)  # type: ignore[arg-type]  # the value of a member of Task


@dataclass(frozen=True, kw_only=True)
class DoctorRequest:
    """``lcnn doctor``."""

    as_json: bool = own("Print one JSON object on stdout, and nothing else but errors", "--json", panel=OUTPUT, default=False)


@dataclass(frozen=True, kw_only=True)
class QuickstartRequest(AnswerRequest):
    """``lcnn quickstart``."""

    output: Path = own("Artefact to write", "--output", "-o", panel=OUTPUT, metavar="DIR", default=Path("fashion_resnet.lcnn"))
    epochs: int = own("Passes over the 4,000 training images in the package", panel=TRAINING, default=3, min=0, metavar="N")

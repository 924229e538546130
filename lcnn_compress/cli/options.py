"""Every option of every command, declared once, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lcnn_compress.errors import FileError, SettingsError

SUFFIX = ".lcnn"
Option, Argument = typer.Option, typer.Argument

# A net and where its results go
Model = Annotated[str, Argument(help="model.pt, .pt2, a state_dict (with --arch) or a factory pkg.mod:fn", metavar="MODEL")]
Arch = Annotated[
    str | None, Option(help="Factory of the net a state_dict belongs to: pkg.mod:fn or file.py:fn", metavar="FACTORY")
]
InputShape = Annotated[
    str | None, Option(help="Input, e.g. 1,3,224,224; asked for only when it cannot be known", metavar="N,C,H,W")
]
TrustPickle = Annotated[bool, Option("--trust-pickle", help="Load a pickled model even if that runs code from the file")]
Config = Annotated[
    Path | None, Option("--config", "-c", help="config.json of an artefact: repeat that run's decisions", metavar="FILE")
]
NewArtefact = Annotated[
    Path | None, Option("--output", "-o", help="Artefact to write", metavar="DIR", show_default="MODEL.lcnn here")
]
SomeArtefact = Annotated[
    Path | None, Argument(help="Artefact; the one here, or the newest of several", metavar="[ARTEFACT]", show_default=False)
]
Json = Annotated[bool, Option("--json", help="Print one JSON object on stdout and nothing else there")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress and no notes")]

# What becomes of the layers
Dictionary = Annotated[
    str,
    Option(
        "--dict",
        help="Entries per layer: 30, a share of the channels 0.25, fast, accurate, or by name 'layer1.*=16,layer4.*=128'",
        metavar="SIZE",
    ),
]
TargetSpeedup = Annotated[
    float | None, Option("--target-speedup", help="Instead of --dict: a net so many times faster, measured", metavar="X")
]
TargetLatency = Annotated[
    float | None, Option("--target-latency-ms", help="Instead of --dict: milliseconds for one image, measured", metavar="MS")
]
TargetSize = Annotated[
    float | None, Option("--target-size-mb", help="Instead of --dict: largest ONNX file, MB of 10**6 bytes", metavar="MB")
]
MaxDrop = Annotated[
    float | None,
    Option(
        "--max-drop",
        help="Instead of --dict: the fastest net that loses at most so much on a part of --data held out, in points or dB",
        metavar="D",
    ),
]
DryRun = Annotated[bool, Option("--dry-run", help="Show the plan for a target and what it is expected to give; write nothing")]
Sizes = Annotated[str, Option(help="Dictionaries to try, as shares of the channels", metavar="SHARE,...")]
Plot = Annotated[Path | None, Option("--plot", help="Also draw the table as a picture, .svg", metavar="FILE")]
SensitivityData = Annotated[
    str | None,
    Option("--data", help="Labelled data: the drop is measured; folder, .npz with x and y, or pkg.mod:fn", metavar="DATA"),
]
SensitivityCalib = Annotated[
    str | None,
    Option(
        "--calib", help="Unlabelled data: the error of the outputs is measured, and coefficients are solved", metavar="DATA"
    ),
]
Lookups = Annotated[
    str | None,
    Option(
        help="Lookups per kernel position: 2, or a share of the dictionary",
        metavar="NUMBER",
        show_default="0.25; fast: 1, accurate: 0.5",
    ),
]
Init = Annotated[str, Option(help="Start of the dictionaries: kmeans, svd or ksvd", metavar="NAME")]
Only = Annotated[list[str] | None, Option(help="Compress only layers that match (may be repeated)", metavar="GLOB")]
Skip = Annotated[list[str] | None, Option(help="Keep layers that match dense (may be repeated)", metavar="GLOB")]
KeepSlow = Annotated[bool, Option("--keep-slow", help="Compress layers even where lookup does not pay")]
Coefficients = Annotated[
    str, Option(help="Stored factors: float16, float32, or int8 (float16, and large dictionaries in 8 bits)", metavar="TYPE")
]
Seed = Annotated[int, Option(min=0, help="Seed of everything random", metavar="N")]
Measure = Annotated[bool, Option(help="Time every layer and keep those dense that are not faster")]
Share = Annotated[
    int,
    Option(help="Neighbouring filters that look the same rows up: 2, 4 or 8 make lookups up to twice as fast", metavar="N"),
]
MeasureThreads = Annotated[int, Option("--threads", min=1, help="Threads while measuring", metavar="N")]

# Data and fine-tuning
Calib = Annotated[
    str | None, Option(help="Unlabelled data to refit with: image folder, .npz, .npy or pkg.mod:fn", metavar="DATA")
]
Samples = Annotated[int, Option(min=1, help="Images taken from --calib", metavar="N")]
TrainingSet = Annotated[str | None, Option(help="Training data: image folder, .npz or pkg.mod:fn", metavar="DATA")]
Mean = Annotated[str | None, Option(help="Channel means to subtract from data, e.g. 0.485,0.456,0.406", metavar="NUMBERS")]
Std = Annotated[str | None, Option(help="Channel standard deviations to divide data by", metavar="NUMBERS")]
Epochs = Annotated[int, Option(min=0, help="Fine-tune for so many passes over --data", metavar="N")]
LearningRate = Annotated[float, Option(help="Learning rate of fine-tuning", metavar="NUMBER")]
BatchSize = Annotated[int, Option(min=2, help="Images per training step", metavar="N")]
Sparsity = Annotated[
    str,
    Option(help="gradual: prune the smallest on a cubic schedule; threshold: L1 and epsilon, as in the paper", metavar="NAME"),
]
L1 = Annotated[float, Option(help="lambda' of the paper: weight of L1 in units of epsilon (threshold)", metavar="NUMBER")]
ThresholdC = Annotated[
    float, Option(help="epsilon in standard deviations of each layer's kernel (threshold)", metavar="NUMBER")
]
Distill = Annotated[bool, Option(help="Learn from the dense net too")]
Precision = Annotated[
    str, Option(help="of products in training: float32, or bfloat16 where the processor has it (AMX, AVX-512)", metavar="TYPE")
]
Device = Annotated[str, Option(help="Where to fine-tune: cpu, cuda or cuda:N", metavar="NAME")]
Resume = Annotated[bool, Option("--resume", help="Continue an interrupted fine-tuning")]

# Export, measurement, evaluation
Onnx = Annotated[bool, Option("--onnx", help="Write ONNX (the only format so far)")]
OnnxFile = Annotated[
    Path | None, Option("--output", "-o", help="File to write", metavar="FILE", show_default="ARTEFACT/model.onnx")
]
Dense = Annotated[bool, Option("--dense", help="Write ordinary convolutions, for engines without our operator")]
Fallback = Annotated[bool, Option(help="Add the body that runs the operator where our library is missing")]
FileCoefficients = Annotated[
    str | None,
    Option("--coefficients", help="float16, float32 or int8", metavar="TYPE", show_default="as in the artefact"),
]
Tolerance = Annotated[float, Option(help="Largest difference to torch, relative to the largest output", metavar="NUMBER")]
Measured = Annotated[
    Path | None,
    Argument(
        help="Artefact or exported .onnx; the artefact here, or the newest", metavar="[ARTEFACT|ONNX]", show_default=False
    ),
]
Threads = Annotated[str, Option(help="Threads of ONNX Runtime, e.g. 1 or 1,2", metavar="N,...")]
Batches = Annotated[str, Option("--batch", help="Batch sizes, e.g. 1,8", metavar="N,...")]
Iterations = Annotated[int, Option(min=2, help="Timed pairs of runs", metavar="N")]
Suite = Annotated[
    str | None,
    Option(
        help="Measure known nets with synthetic patterns instead of an artefact: paper (published dictionaries and densities)",
        metavar="NAME",
    ),
]
PerLayer = Annotated[bool, Option(help="Time every layer too")]
Evaluated = Annotated[
    str | None,
    Argument(
        help="Artefact, model or .onnx; the artefact here, or the newest",
        metavar="[ARTEFACT|MODEL|ONNX]",
        show_default=False,
    ),
]
LabelledData = Annotated[
    str | None,
    Option("--data", help="Labelled data: folder of class folders, .npz with x and y, or pkg.mod:fn", metavar="DATA"),
]
Limit = Annotated[int | None, Option(min=1, help="Use only so many images", metavar="N", show_default="all")]
Inspected = Annotated[str, Argument(help="Model, pkg.mod:factory, artefact or .onnx", metavar="MODEL|ARTEFACT|ONNX")]

# What --config fixes, and what has no meaning without another option
FIXED = {
    "dict_": "--dict", "lookups": "--lookups", "share": "--share", "init": "--init", "only": "--only", "skip": "--skip",
    "keep_slow": "--keep-slow", "coefficients": "--coefficients", "seed": "--seed", "epochs": "--epochs", "lr": "--lr",
    "batch_size": "--batch-size", "sparsity": "--sparsity", "l1": "--l1", "threshold_c": "--threshold-c",
    "distill": "--distill", "precision": "--precision", "device": "--device",
}  # fmt: skip
TARGETS = {
    "target_speedup": "--target-speedup", "target_latency_ms": "--target-latency-ms", "target_size_mb": "--target-size-mb",
    "max_drop": "--max-drop",
}  # fmt: skip
FIXED |= TARGETS | {"dry_run": "--dry-run"}
_NEEDS = (
    (("lr", "batch_size", "sparsity", "l1", "threshold_c", "distill", "precision", "device"), ("epochs",), "--epochs N"),
    (("data",), ("epochs", *TARGETS), "--epochs N or a target such as --max-drop"),
    (("samples",), ("calib",), "--calib DATA"),
    (("dry_run",), tuple(TARGETS), "a target such as --target-speedup 4"),
    (("mean", "std"), ("calib", "data"), "--calib or --data"),
)


def given(context: typer.Context) -> frozenset[str]:
    """Return the names of the parameters that stand on the command line."""

    def is_given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    return frozenset(filter(is_given, context.params))


def check_together(names: frozenset[str], sparsity: str) -> None:
    """Refuse options of ``compress`` that would do nothing.

    Raises:
        SettingsError: an option needs another one that is not there.
    """
    for options, needed, text in _NEEDS:
        idle = [name for name in options if name in names]
        if idle and not names.intersection(needed):
            raise SettingsError(f"--{idle[0].replace('_', '-')} does nothing without {text}; add it, or leave the option out")
    for name in ("l1", "threshold_c"):
        if name in names and sparsity != "threshold":
            raise SettingsError(
                f"{FIXED[name]} does nothing with --sparsity {sparsity}; add --sparsity threshold, or leave the option out"
            )


def target(names: frozenset[str], values: dict[str, float | None]) -> tuple[str, float] | None:
    """Return what is asked for instead of ``--dict`` as (kind, value), or None.

    Args:
        names: of the parameters that stand on the command line.
        values: of ``TARGETS``.

    Raises:
        SettingsError: more than one thing is asked for, or an option that a target decides.
    """
    chosen = [name for name in TARGETS if values[name] is not None]
    asked = [*(["dict_"] if "dict_" in names else []), *chosen]
    if len(asked) > 1:
        first, second = (FIXED[name] for name in asked[:2])
        raise SettingsError(f"{first} and {second} both say how far to compress; give one of them")
    if not chosen:
        return None
    for name in ("lookups", "share", "keep_slow"):
        if name in names:
            raise SettingsError(
                f"{FIXED[name]} does nothing with {TARGETS[chosen[0]]}, which decides it; leave one of them out"
            )
    value = values[chosen[0]]
    assert value is not None
    return chosen[0].removeprefix("target_"), value


def integers(option: str, text: str, least: int = 1) -> tuple[int, ...]:
    """Read ``1,2,3``.

    Raises:
        SettingsError: not whole numbers of at least ``least``.
    """
    parts = text.replace("x", ",").split(",")
    try:
        values = tuple(int(part) for part in parts)
    except ValueError:
        values = ()
    if not values or min(values) < least:
        raise SettingsError(f"{option} is '{text}'; it must be whole numbers of at least {least}, separated by commas")
    return values


def shares(option: str, text: str) -> tuple[float, ...]:
    """Read ``0.5,0.25``: shares above 0 and up to 1.

    Raises:
        SettingsError: not such numbers.
    """
    values = numbers(option, text) or ()
    if not values or not all(0 < value <= 1 for value in values):
        raise SettingsError(f"{option} is '{text}'; it must be shares above 0 and up to 1, separated by commas")
    return values


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """Read ``0.5,0.5``; None stays None.

    Raises:
        SettingsError: not numbers.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"{option} is '{text}'; it must be numbers separated by commas") from None


def input_shape(text: str | None) -> tuple[int, ...] | None:
    """Read an input shape of 2 or 4 sizes; None stays None.

    Raises:
        SettingsError: another number of sizes.
    """
    if text is None:
        return None
    shape = integers("--input-shape", text)
    if len(shape) not in (2, 4):
        raise SettingsError(f"--input-shape is '{text}'; it must be batch,channels,height,width or batch,features")
    return (1, *shape[1:])


def find_artefact(path: Path | None) -> tuple[Path, str | None]:
    """Return the artefact to work on and, if it was chosen among several, a note saying so.

    Raises:
        FileError: no path was given and there is no artefact here.
    """
    if path is not None:
        return path, None
    manifests = sorted(Path.cwd().glob(f"*{SUFFIX}/manifest.json"), key=lambda p: p.stat().st_mtime_ns)
    if not manifests:
        raise FileError(f"no *{SUFFIX} directory in {Path.cwd()}; make one with 'lcnn compress MODEL' or name it")
    newest = manifests[-1].parent.name
    note = f"{len(manifests)} artefacts here, using the newest: {newest}" if len(manifests) > 1 else None
    return Path(newest), note


def default_output(model: str) -> Path:
    """Return ``model.lcnn`` here for ``somewhere/model.pt``, ``factory.lcnn`` for ``pkg.mod:factory``."""
    _, colon, factory = model.rpartition(":")
    name = factory.rpartition(".")[2] if colon and not Path(model).exists() else Path(model).stem
    return Path(name + SUFFIX)

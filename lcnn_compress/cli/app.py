"""The commands. Heavy packages are imported inside them, so that ``lcnn --help`` answers at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lcnn_compress import __version__
from lcnn_compress.cli import options, render
from lcnn_compress.cli.main import guarded

if TYPE_CHECKING:
    from lcnn_compress.api import Source

app = typer.Typer(
    name="lcnn", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    help="Rewrite the convolutions of a pretrained net as lookup convolutions that are faster on a CPU in ONNX Runtime.",
)  # fmt: skip
Option = typer.Option


def _version(value: bool) -> None:
    if value:
        typer.echo(f"lcnn {__version__}")
        raise typer.Exit


@app.callback()
def lcnn(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version")] = False,
) -> None:
    """Exit codes: 0 fine, 1 done but negative, 2 wrong use, 3 missing package, 5 file trouble, 70 internal, 130 interrupted."""


@app.command()
@guarded
def compress(
    model: options.Model,
    dict_: Annotated[
        str | None,
        Option(
            "--dict",
            help="Entries per layer: 30, a share of the channels 0.25, 'layer1.*=16,fc=0.5', fast or accurate [default: 0.25]",
        ),
    ] = None,
    lookups: Annotated[
        str | None, Option(help="Lookups per filter position: 2, or a share of the dictionary [default: 0.25]")
    ] = None,
    init: Annotated[str | None, Option(help="Start of the dictionaries: kmeans, svd or ksvd [default: kmeans]")] = None,
    only: Annotated[list[str] | None, Option(help="Compress only layers matching this glob (may be repeated)")] = None,
    skip: Annotated[list[str] | None, Option(help="Keep layers matching this glob dense (may be repeated)")] = None,
    calib: Annotated[str | None, Option(help="Unlabelled data to refit with: image folder, .npz, .npy or pkg.mod:fn")] = None,
    samples: Annotated[int, Option(min=1, help="Images taken from --calib")] = 512,
    data: Annotated[str | None, Option(help="Training data for --epochs: image folder, .npz or pkg.mod:fn")] = None,
    epochs: Annotated[int, Option(min=0, help="Fine-tune for so many passes over --data")] = 0,
    lr: Annotated[float, Option(help="Learning rate of fine-tuning")] = 3e-3,
    batch_size: Annotated[int, Option(min=1, help="Images per training step")] = 128,
    sparsity: Annotated[
        str, Option(help="gradual (prune the smallest to a cubic schedule) or threshold (L1 and epsilon, as in the paper)")
    ] = "gradual",
    l1: Annotated[float, Option(help="lambda' of the paper: L1 weight in units of epsilon (threshold only)")] = 0.1,
    threshold_c: Annotated[float, Option(help="epsilon in units of the kernel's standard deviation (threshold only)")] = 0.01,
    distill: Annotated[bool, Option(help="Learn from the dense net too")] = True,
    resume: Annotated[bool, Option("--resume", help="Continue an interrupted fine-tuning")] = False,
    mean: options.Mean = None,
    std: options.Std = None,
    measure: Annotated[bool, Option(help="Time every layer and keep those dense that are not faster")] = True,
    keep_slow: Annotated[bool, Option("--keep-slow", help="Compress layers even if lookup does not pay")] = False,
    threads: Annotated[int, Option(min=1, help="Threads while measuring")] = 1,
    coefficients: Annotated[str | None, Option(help="Stored coefficients: float16 or float32 [default: float16]")] = None,
    seed: Annotated[int | None, Option(help="Seed of everything random [default: 0]")] = None,
    arch: options.Arch = None,
    input_shape: options.InputShape = None,
    trust_pickle: options.TrustPickle = False,
    config: Annotated[
        Path | None, Option("--config", "-c", help="config.json of an artefact: repeat that run's decisions")
    ] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="Artefact to write [default: MODEL.lcnn here]")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compress a pretrained net into an artefact NAME.lcnn."""
    from lcnn_compress import api
    from lcnn_compress.cli import request
    from lcnn_compress.finetune import FinetuneSettings

    target = output or options.default_output(model)
    request.check_output(target)
    tuning = None
    if epochs:
        tuning = FinetuneSettings(
            epochs=epochs, batch_size=batch_size, lr=lr, sparsity=sparsity, l1=l1, threshold_c=threshold_c, distill=distill,
            seed=seed or 0,
        )  # fmt: skip
    wish = request.Wish(dict_, lookups, init, tuple(only or ()), tuple(skip or ()), coefficients, seed, keep_slow)
    settings, earlier = request.settings(wish, config, tuning, measure, threads)
    source = api.open_model(model, options.input_shape(input_shape), arch=arch, trust_pickle=trust_pickle)
    _notes(source, trust_pickle, quiet)
    preprocessing = (options.numbers("--mean", mean), options.numbers("--std", std))
    feed = request.data(request.Feed(calib, samples, data, preprocessing, settings.seed), source.input_shape)
    with (
        render.progress(quiet or as_json) as progress,
        request.checkpointing(feed, target, settings, resume) as (training, resumed),
    ):
        plans = earlier if resumed is None else resumed
        artefact = api.compress_source(source, settings, training, plans, progress)
        artefact.config["data"] = {"calib": calib, "samples": samples, "data": data, "mean": mean, "std": std}
        api.save(artefact, target)
    render.print_json(artefact.report) if as_json else render.compress_summary(artefact.report, str(target))
    _exit_unless_faster(artefact.report, quiet)


def _notes(source: Source, trust_pickle: bool, quiet: bool) -> None:
    if trust_pickle:
        render.warn("--trust-pickle: the model file may have run code")
    for line in source.notes:
        render.note(f"note: {line}", quiet)


def _exit_unless_faster(report: dict[str, Any], quiet: bool) -> None:
    if not any(row["kind"] == "lookup" for row in report["layers"]):
        render.warn("no layer gains from lookup convolutions: every layer stays dense")
        raise typer.Exit(1)
    speedup = report["totals"].get("speedup")
    if speedup is None:
        render.note("note: nothing was measured (--no-measure, or the native library is missing: see 'lcnn doctor')", quiet)
    elif speedup <= 1:
        render.warn(f"the whole net is not faster than dense ({speedup:.2f}x)")
        raise typer.Exit(1)


@app.command()
@guarded
def export(
    artefact: Annotated[Path | None, typer.Argument(help="Artefact; default: the one here, the newest if several")] = None,
    onnx: Annotated[bool, Option("--onnx", help="Write ONNX (the only format so far)")] = False,
    output: Annotated[Path | None, Option("--output", "-o", help="File to write [default: ARTEFACT/model.onnx]")] = None,
    dense: Annotated[bool, Option("--dense", help="Write ordinary convolutions, for engines without our operator")] = False,
    fallback: Annotated[bool, Option(help="Add the body that runs the operator where our library is missing")] = True,
    coefficients: Annotated[str | None, Option(help="float16 or float32 [default: as in the artefact]")] = None,
    tolerance: Annotated[float, Option(help="Largest difference to torch, relative to the largest output")] = 1e-3,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write an artefact as an ONNX file, checked against torch first."""
    from lcnn_compress import api
    from lcnn_compress.cli import request
    from lcnn_compress.export import ExportSettings

    request.require(onnx, "export needs a format; say 'lcnn export --onnx'")
    path, chosen = options.find_artefact(artefact)
    if chosen:
        render.note(f"note: {chosen}", quiet)
    loaded = api.load(path)
    target = output or path / ("model.dense.onnx" if dense else "model.onnx")
    kind = coefficients or loaded.config["coefficients"]
    difference = api.export_onnx(loaded, target, ExportSettings(kind, fallback, dense, tolerance))
    result = {"command": "export", "file": str(target), "bytes": target.stat().st_size, "max_difference": difference}
    if as_json:
        render.print_json(result)
    else:
        render.text(f"written {target} ({render.size(target.stat().st_size)}), differs from torch by at most {difference:.1e}")


@app.command()
@guarded
def bench(
    artefact: Annotated[Path | None, typer.Argument(help="Artefact or exported .onnx; default: the artefact here")] = None,
    threads: options.Threads = "1",
    batch: Annotated[str, Option(help="Batch sizes, e.g. 1,8")] = "1",
    iterations: Annotated[int, Option(min=2, help="Timed pairs of runs")] = 100,
    per_layer: Annotated[bool, Option(help="Time every layer too")] = True,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure dense against lookup: latency, throughput, memory, file size."""
    from lcnn_compress.benchmark import BenchSettings
    from lcnn_compress.cli import request

    path, chosen = options.find_artefact(artefact)
    if chosen:
        render.note(f"note: {chosen}", quiet)
    settings = BenchSettings(
        threads=options.integers("--threads", threads), batches=options.integers("--batch", batch), iterations=iterations,
        per_layer=per_layer,
    )  # fmt: skip
    result = request.bench(path, settings, trust_pickle)
    render.print_json(result) if as_json else render.bench_table(result)


@app.command(name="eval")
@guarded
def evaluate(
    target: Annotated[Path | None, typer.Argument(help="Artefact, model file or .onnx; default: the artefact here")] = None,
    data: Annotated[
        str | None, Option(help="Labelled data: folder with class sub-folders, .npz with x and y, or pkg.mod:fn")
    ] = None,
    limit: Annotated[int | None, Option(min=1, help="Use only so many images")] = None,
    mean: options.Mean = None,
    std: options.Std = None,
    arch: options.Arch = None,
    input_shape: options.InputShape = None,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score the dense and the compressed net on labelled data."""
    from lcnn_compress.cli import request

    request.require(data is not None, "eval needs labelled data; add --data FOLDER, file.npz or pkg.mod:fn")
    preprocessing = (options.numbers("--mean", mean), options.numbers("--std", std))
    feed = request.Feed(None, 0, data, preprocessing, 0)
    with render.progress(quiet or as_json) as progress:
        subject = request.Subject(target, arch, options.input_shape(input_shape), trust_pickle)
        result = request.evaluate(subject, feed, limit, progress)
    if as_json:
        render.print_json(result)
    else:
        shown = {key: f"{result[key]:.2f}" for key in ("dense", "lookup") if result[key] is not None}
        render.facts({"metric": result["metric"], **shown, "images": result["n"]})


@app.command()
@guarded
def inspect(
    target: Annotated[str, typer.Argument(help="Model file, pkg.mod:factory, artefact or .onnx")],
    arch: options.Arch = None,
    input_shape: options.InputShape = None,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a model, an artefact or an ONNX file is made of."""
    from lcnn_compress.cli import request

    result = request.inspect(target, arch, options.input_shape(input_shape), trust_pickle)
    for line in result["notes"]:
        render.note(f"note: {line}", quiet)
    if as_json:
        render.print_json(result)
    else:
        render.facts(result["facts"])
        render.layer_table(result["layers"])


@app.command()
@guarded
def doctor(as_json: options.Json = False) -> None:
    """Check processor, ONNX Runtime and the native library, and run a self-test."""
    from lcnn_compress.doctor import check

    result = check()
    render.print_json(result) if as_json else render.facts(result)
    if result["native_library"] is None:
        raise typer.Exit(3)
    if not result["self_test"].startswith("passed"):
        raise typer.Exit(1)


@app.command()
@guarded
def quickstart(
    output: Annotated[Path, Option("--output", "-o", help="Artefact to write")] = Path("fashion_resnet.lcnn"),
    epochs: Annotated[int, Option(min=0, help="Passes over the 4,000 training images that ship with the package")] = 4,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compress, export, score and time the small net that ships with the package (Fashion-MNIST, offline)."""
    from lcnn_compress.cli import request
    from lcnn_compress.quickstart import run

    request.check_output(output)
    with render.progress(quiet or as_json) as progress:
        result = run(output, epochs, progress)
    if as_json:
        render.print_json(result)
    else:
        render.quickstart_table(result)
    _exit_unless_faster(json.loads((output / "report.json").read_text()), quiet)

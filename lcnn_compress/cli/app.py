"""The commands. Heavy packages are imported inside them, so that ``lcnn --help`` answers at once."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lcnn_compress.cli import options, render
from lcnn_compress.cli.errors import guarded
from lcnn_compress.version import __version__

if TYPE_CHECKING:
    from lcnn_compress.api import Source
    from lcnn_compress.artefact.report import LayerReport, Report
    from lcnn_compress.cli.resolve import Run

COARSE = 0.3  # relative error of a layer's filters beyond which a net without calibration usually loses much

LEAST_OF_TARGET = 0.92
# Enough for each coefficient of a filter, one of the two: positions of one image are alike.
FIT_POSITIONS, FIT_IMAGES = 20, 5

app = typer.Typer(
    name="lcnn", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="""Rewrite the convolutions of a pretrained net as lookup convolutions that are faster on a CPU in ONNX Runtime.

    \b
    lcnn compress model.pt --dict 30    a net in, an artefact model.lcnn out
    lcnn export --onnx                  write it as model.lcnn/model.onnx
    lcnn bench                          measure it against the dense net

    Exit codes: 0 fine, 1 done but negative, 2 wrong use or unusable input, 3 missing hardware or package, 5 reading or writing
    failed, 70 internal error, 130 interrupted. LCNN_DEBUG=1 shows where an error was raised.""",
)  # fmt: skip


def _version(value: bool) -> None:
    if value:
        render.text(f"lcnn {__version__}")
        raise typer.Exit


@app.callback()
def lcnn(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit")
    ] = False,
) -> None: ...


@app.command()
@guarded
def compress(
    context: typer.Context,
    model: options.Model,
    dict_: options.Dictionary = "0.25",
    target_speedup: options.TargetSpeedup = None,
    target_latency_ms: options.TargetLatency = None,
    target_size_mb: options.TargetSize = None,
    max_drop: options.MaxDrop = None,
    dry_run: options.DryRun = False,
    lookups: options.Lookups = None,
    share: options.Share = 1,
    init: options.Init = "kmeans",
    only: options.Only = None,
    skip: options.Skip = None,
    keep_slow: options.KeepSlow = False,
    measure: options.Measure = True,
    threads: options.MeasureThreads = 1,
    calib: options.Calib = None,
    samples: options.Samples = 512,
    data: options.TrainingSet = None,
    mean: options.Mean = None,
    std: options.Std = None,
    epochs: options.Epochs = 0,
    lr: options.LearningRate = 1e-3,
    batch_size: options.BatchSize = 64,
    sparsity: options.Sparsity = "gradual",
    l1: options.L1 = 0.1,
    threshold_c: options.ThresholdC = 0.01,
    distill: options.Distill = True,
    precision: options.Precision = "float32",
    device: options.Device = "cpu",
    resume: options.Resume = False,
    coefficients: options.Coefficients = "float16",
    seed: options.Seed = 0,
    arch: options.Arch = None,
    input_shape: options.InputShape = None,
    trust_pickle: options.TrustPickle = False,
    config: options.Config = None,
    output: options.NewArtefact = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compress a pretrained net into an artefact NAME.lcnn."""
    from lcnn_compress.cli import resolve
    from lcnn_compress.compress.plan import PlanSettings
    from lcnn_compress.compress.settings import CompressSettings
    from lcnn_compress.train.recipe import FinetuneSettings

    target, given = output or options.default_output(model), options.given(context)
    wanted = options.target(given, {
        "target_speedup": target_speedup, "target_latency_ms": target_latency_ms, "target_size_mb": target_size_mb,
        "max_drop": max_drop,
    })  # fmt: skip
    if not dry_run:
        resolve.check_output(target)
    tune = partial(FinetuneSettings, seed=seed, precision=precision, device=device)
    tuning = tune(epochs, batch_size, lr, sparsity, threshold_c, l1, distill) if epochs else None
    plan = PlanSettings(dict_, resolve.lookups(lookups), tuple(only or ()), tuple(skip or ()), keep_slow, share)
    settings = CompressSettings(plan, init, seed, coefficients, measure, threads, tuning)
    feed = resolve.Feed(calib, samples, data, options.numbers("--mean", mean), options.numbers("--std", std))
    if wanted is not None:
        settings, feed = resolve.for_target(settings, feed, wanted[0], given, resume)
    run = resolve.Run(settings, feed, arch, options.input_shape(input_shape), target=wanted)
    if config is None:
        options.check_together(given, sparsity)
    else:
        run = resolve.repeat(config, given, run)
    if run.settings.finetune is not None:
        resolve.require(run.feed.data is not None, "--epochs asks for fine-tuning, but there is no training data; add --data")
    bars = not (quiet or as_json)
    if dry_run:
        plan_for_target = _forecast(model, run, trust_pickle=trust_pickle, quiet=quiet, bars=bars)
        render.print_json(plan_for_target) if as_json else render.forecast(plan_for_target)
        return
    report = _compress(model, run, target, trust_pickle=trust_pickle, resume=resume, quiet=quiet, bars=bars)
    render.print_json(report.to_json()) if as_json else render.compress_summary(report, str(target))
    _note_error(report, quiet)
    _note_few(report, quiet)
    _note_missed(report, quiet)
    _exit_unless_faster(report, quiet)


def _compress(model: str, run: Run, target: Path, *, trust_pickle: bool, resume: bool, quiet: bool, bars: bool) -> Report:
    """Compress, write the artefact and return its report."""
    from lcnn_compress import api
    from lcnn_compress.cli import resolve
    from lcnn_compress.search.target import Target

    checkpoint = resolve.Checkpoint(target)
    plans = checkpoint.earlier_plans(run.settings.finetune, resume) or run.plans
    source = api.open_model(model, run.input_shape, arch=run.arch, trust_pickle=trust_pickle)
    _notes(source, run, trust_pickle, quiet)
    feed = resolve.data(run.feed, run.settings.seed, source.input_shape)
    keeping = nullcontext(feed) if run.settings.finetune is None else checkpoint.keeping(feed, resume)
    with render.progress(bars) as progress, keeping as kept:
        if run.target is None or plans is not None:
            artefact = api.compress_source(source, run.settings, kept, plans, progress)
        else:
            artefact = api.compress_to_target(source, run.settings, Target(*run.target), kept, progress)
        api.save(artefact, target)
    return artefact.report


def _forecast(model: str, run: Run, *, trust_pickle: bool, quiet: bool, bars: bool) -> dict[str, Any]:
    """Return the plan for a target."""
    from lcnn_compress import api
    from lcnn_compress.cli import resolve
    from lcnn_compress.search.target import Target

    assert run.target is not None
    source = api.open_model(model, run.input_shape, arch=run.arch, trust_pickle=trust_pickle)
    _notes(source, run, trust_pickle, quiet)
    feed = resolve.data(run.feed, run.settings.seed, source.input_shape)
    with render.progress(bars) as progress:
        return api.forecast(source, run.settings, Target(*run.target), feed, progress)


def _notes(source: Source, run: Run, trust_pickle: bool, quiet: bool) -> None:
    if trust_pickle:
        render.warn("--trust-pickle: the model file may have run code")
    for line in source.notes:
        render.note(line, quiet)
    if run.model is not None and run.model["sha256"] != source.origin["sha256"]:
        render.note("this is not the net of the configuration: its decisions are repeated on other weights", quiet)


def _note_error(report: Report, quiet: bool) -> None:
    """Say so where accuracy has probably fallen far: nothing has made up for coarse filters."""
    far = [row.name for row in report.layers if (row.relative_error or 0.0) > COARSE]
    if far and (report.settings or {}).get("data") is None:
        render.note(
            f"the filters of {len(far)} layers differ from the trained ones by more than {COARSE:.0%} ({', '.join(far[:3])}"
            f"{', ...' if len(far) > 3 else ''}) and no data was given: check the result with 'lcnn eval'; --calib or --data "
            "helps",
            quiet,
        )


def _note_few(report: Report, quiet: bool) -> None:
    """Say so where least squares saw too few images: their error is then well below that of others."""
    images, rows = report.calibration_images, [row for row in report.layers if row.n_nonzeros]
    if not images or not rows or report.training is not None:
        return

    def seen(row: LayerReport) -> float:
        """Return what a filter sees for each of its coefficients, as a share of what is enough."""
        inputs = row.in_channels // row.groups * math.prod(row.kernel)
        positions = row.macs_dense / (row.out_channels * inputs)
        return max(positions / FIT_POSITIONS, 1 / FIT_IMAGES) * images * row.out_channels / (row.n_nonzeros or 1)

    least = min(rows, key=seen)
    if seen(least) < 1:
        render.note(
            f"{images} calibration images are few for the {(least.n_nonzeros or 0) // least.out_channels} coefficients of each "
            f"filter of {least.name}: the net suits these images better than others; about "
            f"{math.ceil(images / seen(least))} are enough (--calib, --samples)",
            quiet,
        )


def _note_missed(report: Report, quiet: bool) -> None:
    """Say so where the finished net is slower than asked for by more than two measurements of one net differ."""
    asked = (report.budget or {}).get("target", {})
    speedup, lookup_ms = report.totals.speedup, report.totals.lookup_ms
    if speedup is None or lookup_ms is None:
        return
    part = speedup / asked["speedup"] if "speedup" in asked else asked.get("latency_ms", math.inf) / lookup_ms
    if part < LEAST_OF_TARGET:
        render.note(f"the net reached {part:.0%} of the target when it was measured last; on a quiet machine try again", quiet)


def _exit_unless_faster(report: Report, quiet: bool) -> None:
    if not any(row.form.is_coded for row in report.layers):
        render.warn("no layer gains from lookup convolutions: every layer stays dense")
        raise typer.Exit(1)
    speedup = report.totals.speedup
    if speedup is None:
        render.note("no time was measured (--no-measure, or no native library: see 'lcnn doctor')", quiet)
    elif speedup <= 1:
        render.warn(f"the whole net is not faster than dense ({speedup:.2f}x)")
        if "size_mb" not in (report.budget or {}).get("target", {}):  # a small file was asked for, and made
            raise typer.Exit(1)


@app.command()
@guarded
def sensitivity(
    context: typer.Context,
    model: options.Model,
    sizes: options.Sizes = "0.5,0.25,0.125",
    data: options.SensitivityData = None,
    calib: options.SensitivityCalib = None,
    samples: options.Samples = 512,
    limit: options.Limit = None,
    mean: options.Mean = None,
    std: options.Std = None,
    only: options.Only = None,
    skip: options.Skip = None,
    init: options.Init = "kmeans",
    seed: options.Seed = 0,
    plot: options.Plot = None,
    arch: options.Arch = None,
    input_shape: options.InputShape = None,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what compressing one layer alone costs, layer by layer, at several sizes."""
    from lcnn_compress import api
    from lcnn_compress.cli import resolve
    from lcnn_compress.compress.plan import PlanSettings
    from lcnn_compress.search.sensitivity import SensitivitySettings, picture

    resolve.require(plot is None or plot.suffix == ".svg", f"--plot is '{plot}'; it must end in .svg")
    resolve.require(data is not None or calib is not None, "sensitivity needs data; add --data (labelled) or --calib")
    options.check_together(options.given(context) - {"data", "limit"}, "gradual")
    plan = PlanSettings(only=tuple(only or ()), skip=tuple(skip or ()))
    settings = SensitivitySettings(options.shares("--sizes", sizes), plan, init, seed)
    feed = resolve.Feed(calib, samples, data, options.numbers("--mean", mean), options.numbers("--std", std))
    source = api.open_model(model, options.input_shape(input_shape), arch=arch, trust_pickle=trust_pickle)
    loaded = resolve.data(feed, seed, source.input_shape, limit)
    with render.progress(not (quiet or as_json)) as progress:
        result = api.sensitivity(source, settings, loaded, progress)
    if plot is not None:
        resolve.write(plot, picture(result))
    render.print_json(result) if as_json else render.sensitivity(result)


@app.command()
@guarded
def export(
    artefact: options.SomeArtefact = None,
    onnx: options.Onnx = False,
    output: options.OnnxFile = None,
    dense: options.Dense = False,
    fallback: options.Fallback = True,
    coefficients: options.FileCoefficients = None,
    tolerance: options.Tolerance = 1e-3,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write an artefact as ONNX, checked against torch first."""
    from lcnn_compress import api
    from lcnn_compress.cli import resolve
    from lcnn_compress.export.to_onnx import ExportSettings

    resolve.require(onnx, "export needs a format; say 'lcnn export --onnx'")
    path, chosen = options.find_artefact(artefact)
    render.note(chosen, quiet)
    target = output or path / ("model.dense.onnx" if dense else "model.onnx")
    resolve.require(target.suffix == ".onnx", f"--output is '{target}'; it must end in .onnx")
    loaded = api.load(path)
    kind = coefficients or loaded.config["coefficients"]
    difference = api.export_onnx(loaded, target, ExportSettings(kind, fallback, dense, tolerance))
    n_bytes = target.stat().st_size
    if as_json:
        render.print_json({"command": "export", "file": str(target), "bytes": n_bytes, "max_difference": difference})
    else:
        render.text(f"written {target} ({render.size(n_bytes)}), differs from torch by at most {difference:.1e}")


@app.command()
@guarded
def bench(
    artefact: options.Measured = None,
    threads: options.Threads = "1",
    batch: options.Batches = "1",
    iterations: options.Iterations = 100,
    per_layer: options.PerLayer = True,
    suite: options.Suite = None,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure dense against lookup: speed, memory, size."""
    from lcnn_compress.bench.compare import BenchSettings
    from lcnn_compress.cli import resolve

    settings = BenchSettings(
        threads=options.integers("--threads", threads), batches=options.integers("--batch", batch), iterations=iterations,
        per_layer=per_layer,
    )  # fmt: skip
    if suite is not None:
        resolve.require(
            artefact is None and not trust_pickle,
            f"--suite {suite} measures nets of its own; leave out {artefact or '--trust-pickle'}, or leave out --suite",
        )
        with render.progress(not (quiet or as_json)) as progress:
            result = resolve.suite(suite, settings, progress)
        render.print_json(result) if as_json else render.suite_table(result)
        return
    path, chosen = options.find_artefact(artefact)
    render.note(chosen, quiet)
    result, note = resolve.bench(path, settings, trust_pickle)
    render.note(note, quiet)
    render.print_json(result) if as_json else render.bench_table(result)


@app.command(name="eval")
@guarded
def evaluate(
    target: options.Evaluated = None,
    data: options.LabelledData = None,
    limit: options.Limit = None,
    mean: options.Mean = None,
    std: options.Std = None,
    arch: options.Arch = None,
    input_shape: options.InputShape = None,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score the dense and the compressed net on labelled data."""
    from lcnn_compress.cli import resolve

    resolve.require(data is not None, "eval needs labelled data; add --data FOLDER, file.npz or pkg.mod:fn")
    feed = resolve.Feed(data=data, mean=options.numbers("--mean", mean), std=options.numbers("--std", std))
    subject = resolve.Subject(target, arch, options.input_shape(input_shape), trust_pickle)
    with render.progress(not (quiet or as_json)) as progress:
        result, note = resolve.evaluate(subject, feed, limit, progress)
    render.note(note, quiet)
    render.print_json(result) if as_json else render.scores(result)


@app.command()
@guarded
def inspect(
    target: options.Inspected,
    arch: options.Arch = None,
    input_shape: options.InputShape = None,
    trust_pickle: options.TrustPickle = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what a model, an artefact or an ONNX file is made of."""
    from lcnn_compress.cli import resolve

    result = resolve.inspect(target, arch, options.input_shape(input_shape), trust_pickle)
    for line in result["notes"]:
        render.note(line, quiet)
    if as_json:
        render.print_json(result)
    else:
        render.facts(result["facts"])
        render.layer_table(result["layers"])


@app.command()
@guarded
def doctor(as_json: options.Json = False) -> None:
    """Check this machine and the native library; run a self-test."""
    from lcnn_compress.bench.doctor import check

    result = asdict(check())
    if as_json:
        render.print_json(result)
    else:
        render.facts({name: value for name, value in result.items() if name != "command"})
    if result["native_library"] is None:
        raise typer.Exit(3)
    if not result["self_test"].startswith("passed"):
        raise typer.Exit(1)


@app.command()
@guarded
def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Artefact to write", metavar="DIR")] = Path(
        "fashion_resnet.lcnn"
    ),
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the 4,000 training images in the package", metavar="N")] = 3,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """All of it on the small net in the package, offline."""
    from lcnn_compress import api
    from lcnn_compress.cli import resolve
    from lcnn_compress.quickstart import run

    resolve.check_output(output)
    with render.progress(not (quiet or as_json)) as progress:
        result = run(output, epochs, progress)
    render.print_json(result) if as_json else render.quickstart_table(result)
    _exit_unless_faster(api.load(output).report, quiet)

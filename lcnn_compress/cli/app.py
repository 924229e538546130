"""The commands: read the options, call the library, show the answer. ``lcnn --help`` answers at once: torch comes later."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lcnn_compress.cli import render, render_bench, terminal, viewing
from lcnn_compress.cli.error_boundary import guarded
from lcnn_compress.cli.options import Command, takes
from lcnn_compress.cli.requests import (
    BenchRequest,
    CompressRequest,
    DoctorRequest,
    EvalRequest,
    ExportRequest,
    QuickstartRequest,
    SensitivityRequest,
)  # fmt: skip
from lcnn_compress.cli.resolve import find_artefact, require
from lcnn_compress.cli.train_command import TrainRequest, train
from lcnn_compress.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lcnn_compress.api import Configuration, Source
    from lcnn_compress.artefact.report import Json, Report

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


@app.command(cls=Command)
@guarded
@takes(CompressRequest)
def compress(request: CompressRequest, given: frozenset[str]) -> None:
    """Compress a pretrained net into an artefact NAME.lcnn."""
    target = request.target(given)
    configuration = request.configuration(given, target)

    from lcnn_compress import api

    if not request.dry_run:
        trains = configuration.settings.finetune is not None
        api.check_place(request.place, trains=trains, resume=request.resume)
    source = _opened(request, configuration)
    data = api.load_data(configuration.data, source.input_shape, seed=configuration.settings.seed)
    if request.dry_run:
        assert target is not None
        with render.progress() as progress:
            plan = api.forecast(source, configuration.settings, target, data, progress)
        render.print_json(plan) if request.as_json else render.forecast(plan)
        return
    with render.progress() as progress:
        artefact = api.compress_and_save(
            source, request.place, configuration, data, target=target, resume=request.resume, progress=progress
        )
    answer(artefact.report, request)


def _opened(request: CompressRequest, configuration: Configuration) -> Source:
    """Open the model and say what is to be known about it."""
    from lcnn_compress import api

    source = api.open_model(
        request.model, configuration.input_shape, arch=configuration.arch, trust_pickle=request.trust_pickle,
        data=configuration.data,
    )  # fmt: skip
    if request.trust_pickle:
        render.warn("--trust-pickle: the model file may have run code")
    for line in source.notes:
        render.note(line)
    if configuration.sha256 not in (None, source.origin.sha256):
        render.note("this is not the net of the configuration: its decisions are repeated on other weights")
    return source


def answer(report: Report, request: CompressRequest) -> None:
    """Show the report of a compression and what it means; exit with 1 where the net did not get faster."""
    from lcnn_compress.compression.advice import advice

    render.print_json(report.to_json()) if request.as_json else render.compress_summary(report, str(request.place))
    for line in advice(report):
        render.note(line)
    exit_unless_faster(report)


def exit_unless_faster(report: Report) -> None:
    """Exit with 1 where no layer gained, or the whole net is not faster though not only a small file was asked for."""
    if not any(row.form.is_coded or row.arithmetic is not None for row in report.layers):
        terminal.complain("warning: no layer gains from lookup convolutions: every layer stays dense")
        raise typer.Exit(1)
    speedup = report.totals.speedup
    if speedup is None:
        render.note("no time was measured (--no-measure, or no native library: see 'lcnn doctor')")
    elif speedup <= 1:
        slower = f"the whole net is not faster than dense ({speedup:.2f}x)"
        if "size_mb" in (report.budget or {}).get("target", {}):  # a small file was asked for, and made
            render.warn(slower)
            return
        terminal.complain(f"warning: {slower}")
        raise typer.Exit(1)


@app.command(cls=Command)
@guarded
@takes(SensitivityRequest)
def sensitivity(request: SensitivityRequest, given: frozenset[str]) -> None:
    """Show what compressing one layer alone costs, layer by layer, at several sizes."""
    plot = request.plot
    require(plot is None or plot.suffix == ".svg", f"--plot is '{plot}'; it must end in .svg")
    data, settings = request.checked_data(given), request.settings()

    from lcnn_compress import api
    from lcnn_compress.files import write_atomically

    source = api.open_model(request.model, request.shape, arch=request.arch, trust_pickle=request.trust_pickle, data=data)
    for line in source.notes:
        render.note(line)
    loaded = api.load_data(data, source.input_shape, seed=request.seed, limit=request.limit)
    with render.progress() as progress:
        result = api.sensitivity(source, settings, loaded, progress)
    if plot is not None:
        write_atomically(plot, api.sensitivity_picture(result).encode())
    render.print_json(result) if request.as_json else render.sensitivity(result)


@app.command(cls=Command)
@guarded
@takes(ExportRequest)
def export(request: ExportRequest, given: frozenset[str]) -> None:  # noqa: ARG001
    """Write an artefact as ONNX, checked against torch first."""
    require(request.onnx, "export needs a format; say 'lcnn export --onnx'")
    path, chosen = find_artefact(request.artefact)
    render.note(chosen)
    target = request.output or path / ("model.dense.onnx" if request.dense else "model.onnx")
    require(target.suffix == ".onnx", f"--output is '{target}'; it must end in .onnx")

    from lcnn_compress import api

    artefact = api.load(path)
    storage = request.storage or artefact.config["coefficients"]
    settings = api.ExportSettings(storage, request.fallback, request.dense, request.tolerance)
    difference = api.export_onnx(artefact, target, settings)
    n_bytes = target.stat().st_size
    if request.as_json:
        render.print_json({"command": "export", "file": str(target), "bytes": n_bytes, "max_difference": difference})
    else:
        render.text(f"written {target} ({render.size(n_bytes)}), differs from torch by at most {difference:.1e}")


@app.command(cls=Command)
@guarded
@takes(BenchRequest)
def bench(request: BenchRequest, given: frozenset[str]) -> None:
    """Measure dense against lookup, and both against int8 and OpenVINO: speed, memory, size."""
    settings, data = request.settings(), request.checked_data(given)
    if request.suite is not None:
        _bench_suite(request, request.suite)
        return
    path, chosen = find_artefact(request.artefact)
    render.note(chosen)

    from lcnn_compress import api

    result = api.bench(path, request.dense, settings, data=data, trust_pickle=request.trust_pickle)
    notes = result.pop("notes")
    for line in notes:
        render.note(line)
    render.print_json(with_notes(result, notes)) if request.as_json else render_bench.bench_table(result)


def with_notes(result: Json, notes: Sequence[str]) -> Json:
    """Return the object of ``--json`` with the notes, if there are some: with it nothing but errors is shown on stderr."""
    return {**result, "notes": notes} if notes else result


def _bench_suite(request: BenchRequest, suite: str) -> None:
    own = {"artefact": str(request.artefact), "dense": "--dense", "calib": "--calib", "trust_pickle": "--trust-pickle"}
    idle = [shown for name, shown in own.items() if getattr(request, name)]
    require(not idle, f"--suite {suite} measures nets of its own; leave out {', '.join(idle)}, or leave out --suite")
    from lcnn_compress import api

    with render.progress() as progress:
        result = api.suite(suite, request.settings(), progress)
    render.print_json(result) if request.as_json else render_bench.suite_table(result)


@app.command(name="eval", cls=Command)
@guarded
@takes(EvalRequest)
def evaluate(request: EvalRequest, given: frozenset[str]) -> None:  # noqa: ARG001
    """Score the dense and the compressed net on labelled data."""
    data = request.data_settings()
    target, chosen = (request.target, None) if request.target is not None else find_artefact(None)
    render.note(chosen)

    from lcnn_compress import api

    with render.progress() as progress:
        found = api.evaluate_file(
            target, data, limit=request.limit, arch=request.arch, input_shape=request.shape,
            trust_pickle=request.trust_pickle, progress=progress,
        )  # fmt: skip
    for line in found.notes:
        render.note(line)
    values = {name: value for name, value in asdict(found).items() if name != "notes" and (value or name != "labels")}
    result = {"command": "eval", **values}
    render.print_json(with_notes(result, found.notes)) if request.as_json else render.scores(result)


app.command(cls=Command)(viewing.inspect)
app.command(cls=Command)(viewing.profile)
app.command(cls=Command)(viewing.predict)


app.command(name="train", cls=Command)(guarded(takes(TrainRequest)(train)))


@app.command(cls=Command)
@guarded
@takes(DoctorRequest)
def doctor(request: DoctorRequest, given: frozenset[str]) -> None:  # noqa: ARG001
    """Check this machine and the native library; run a self-test."""
    # The rest of the interface is not imported: the check needs no torch.
    from lcnn_compress.self_test import check

    result = asdict(check())
    if request.as_json:
        render.print_json(result)
    else:
        render.facts({name: value for name, value in result.items() if name != "command"})
    if result["native_library"] is None:
        raise typer.Exit(3)
    if not result["self_test"].startswith("passed"):
        raise typer.Exit(1)


@app.command(cls=Command)
@guarded
@takes(QuickstartRequest)
def quickstart(request: QuickstartRequest, given: frozenset[str]) -> None:  # noqa: ARG001
    """All of it on the small net in the package, offline."""
    from lcnn_compress import api
    from lcnn_compress.quickstart import run

    api.check_place(request.output)
    with render.progress() as progress:
        result = run(request.output, request.epochs, progress)
    render.print_json(result) if request.as_json else render_bench.quickstart_table(result)
    exit_unless_faster(api.load(request.output).report)

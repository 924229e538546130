"""The commands that look at nets, each with what it takes: what they are made of, where their time goes, what they tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lcnn_compress.cli import render, render_views
from lcnn_compress.cli.error_boundary import guarded
from lcnn_compress.cli.options import DATA, MEASUREMENT, MODEL, OUTPUT, argument, own, taken, takes
from lcnn_compress.cli.requests import AnswerRequest, ModelRequest
from lcnn_compress.cli.resolve import find_artefact, input_shape, integers, numbers, require
from lcnn_compress.data.data_settings import DataSettings


@dataclass(frozen=True, kw_only=True)
class InspectRequest(AnswerRequest, ModelRequest):
    """``lcnn inspect``."""

    target: str = argument("Model, pkg.mod:factory, artefact or .onnx", "MODEL|ARTEFACT|ONNX")
    plot: Path | None = own(
        "Also draw the layers of an artefact: one .svg or .png, or a folder", "--plot", panel=OUTPUT, metavar="FILE|DIR"
    )
    filters: str | None = own(
        "Filters to draw, e.g. 0,5", panel=OUTPUT, metavar="N,...", shown_default="the best, the middle and the worst"
    )


@guarded
@takes(InspectRequest)
def inspect(request: InspectRequest, given: frozenset[str]) -> None:  # noqa: ARG001
    """Show what a model, an artefact or an ONNX file is made of."""
    plot = request.plot
    require(plot is None or Path(request.target).is_dir(), f"--plot draws artefacts; {request.target} is none")
    require(plot is not None or request.filters is None, "--filters does nothing without --plot; add it, or leave it out")
    filters = () if request.filters is None else integers("--filters", request.filters, least=0)

    from lcnn_compress import api

    found = api.inspect(request.target, arch=request.arch, input_shape=request.shape, trust_pickle=request.trust_pickle)
    files: list[Path] = []
    notes = list(found.notes)
    if plot is not None:
        from lcnn_compress.views.pictures import plot_layers

        with render.progress() as progress:
            files, more = plot_layers(
                request.target, plot, filters=filters, trust_pickle=request.trust_pickle, progress=progress
            )
        notes += more
    for line in notes:
        render.note(line)
    if request.as_json:
        pictures = {} if plot is None else {"pictures": [str(file) for file in files]}
        answer = {"command": "inspect", "notes": notes, "facts": found.facts, "layers": found.layers, **pictures}
        render.print_json(answer)
        return
    render.facts(found.facts)
    render.layer_table(found.layers)
    if files:
        render.text(f"written {files[0] if len(files) == 1 else f'{len(files)} pictures to {plot}'}")


@dataclass(frozen=True, kw_only=True)
class ProfileRequest(AnswerRequest):
    """``lcnn profile``."""

    what: Path | None = argument("ONNX file or artefact; the artefact here, or the newest", "[ARTEFACT|ONNX]", None)
    threads: int = own("Threads that one operator may use", panel=MEASUREMENT, default=1, min=1, metavar="N")
    batch: int = own("Images in a run", panel=MEASUREMENT, default=1, min=1, metavar="N")
    runs: int = own("Runs that are timed, after 3 that are not", panel=MEASUREMENT, default=50, min=1, metavar="N")
    input_shape: str | None = own(
        "Input, e.g. 1,3,224,224, where the file does not say it", panel=MODEL, metavar="N,C,H,W", shown_default="of the file"
    )
    trace: Path | None = own("Write every run of every node there, for Perfetto", panel=OUTPUT, metavar="FILE.json")


@guarded
@takes(ProfileRequest)
def profile(request: ProfileRequest, given: frozenset[str]) -> None:  # noqa: ARG001
    """Show where the time of an ONNX file goes, node by node."""
    path, chosen = find_artefact(request.what)
    render.note(chosen)

    from lcnn_compress.views import node_profile

    result = asdict(node_profile.profile(
        path, threads=request.threads, batch=request.batch, runs=request.runs, input_shape=input_shape(request.input_shape),
        trace=request.trace,
    ))  # fmt: skip
    if request.as_json:
        render.print_json({"command": "profile", **result})
    else:
        render_views.node_table(result)
        if request.trace is not None:
            render.text(f"written {request.trace}; open it in chrome://tracing or ui.perfetto.dev")


@dataclass(frozen=True, kw_only=True)
class PredictRequest(AnswerRequest):
    """``lcnn predict``."""

    images: list[Path] = argument("Image files", "IMAGE")
    model: Path | None = own(
        "Artefact or ONNX file",
        "--model",
        panel=MODEL,
        metavar="ARTEFACT|ONNX",
        shown_default="the artefact here, or the newest",
    )
    labels: Path | None = own(
        "Names of classes, class 0 first: one a line, or a .csv file of labels", panel=DATA, metavar="FILE"
    )
    top: int | None = own(
        "Tell so many, the most probable first", panel=OUTPUT, min=1, metavar="N", shown_default="5, or all labels that hold"
    )
    task: str | None = taken(DataSettings, "task", panel=DATA, metadata={
        "help": "classes, or multilabel for several labels of an image", "shown_default": "as in compression",
    })  # fmt: skip
    input_shape: str | None = own(
        "Input, e.g. 1,3,224,224, where the model does not say it", panel=MODEL, metavar="N,C,H,W",
        shown_default="of the model",
    )  # fmt: skip
    mean: str | None = taken(DataSettings, "mean", panel=DATA, metadata={"shown_default": "as in compression"})
    std: str | None = taken(DataSettings, "std", panel=DATA, metadata={"shown_default": "as in compression"})


@guarded
@takes(PredictRequest)
def predict(request: PredictRequest, given: frozenset[str]) -> None:  # noqa: ARG001
    """Name the classes of images, or the labels that hold."""
    data = DataSettings(mean=numbers("--mean", request.mean), std=numbers("--std", request.std))
    data = replace(data, task=request.task)  # type: ignore[arg-type]  # the value of a member of Task
    model, chosen = find_artefact(request.model)
    render.note(chosen)

    from lcnn_compress.views import predictions

    with render.progress() as progress:
        found = predictions.predict(
            request.images, model, labels=request.labels, top=request.top, data=data,
            input_shape=input_shape(request.input_shape), progress=progress,
        )  # fmt: skip
    for line in found.notes:
        render.note(line)
    result = asdict(found)
    render.print_json({"command": "predict", **result}) if request.as_json else render_views.prediction_table(result)

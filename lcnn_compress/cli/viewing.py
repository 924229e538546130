"""The commands that look at what is there, each with what it takes: where the time of a net goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lcnn_compress.cli import render, render_views
from lcnn_compress.cli.error_boundary import guarded
from lcnn_compress.cli.options import MEASUREMENT, MODEL, OUTPUT, argument, own, takes
from lcnn_compress.cli.requests import AnswerRequest
from lcnn_compress.cli.resolve import find_artefact, input_shape


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

"""Options are made from the fields of settings, in groups, and understood by their old names."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import pytest
import typer
from command_line import lcnn
from typer.testing import CliRunner

import lcnn_compress
from lcnn_compress.cli import requests, train_command, viewing
from lcnn_compress.cli.error_boundary import with_flags
from lcnn_compress.cli.options import DATA, PANELS, Command, argument, origin_of, own, taken, takes
from lcnn_compress.cli.requests import AnswerRequest, CompressRequest, ModelRequest
from lcnn_compress.compression.settings import PlanSettings
from lcnn_compress.search.target import Target

REQUESTS = [
    value
    for module in (requests, viewing, train_command)
    for value in vars(module).values()
    if isinstance(value, type) and value.__module__ == module.__name__
]
# What `lcnn compress` takes that is no setting: where things lie, what is asked for instead of a dictionary, how it answers.
OWN = {
    "model", "arch", "input_shape", "trust_pickle", "config", "output", "resume", "as_json", "quiet", "dry_run",
    "target_speedup", "target_latency_ms", "target_size_mb", "max_drop",
}  # fmt: skip
# Leaving these out means something of its own: no fine-tuning, the type the artefact was made with.
OTHER_DEFAULTS = {("CompressRequest", "epochs"): 0, ("ExportRequest", "storage"): None}


def test_every_option_of_compress_is_a_setting_or_the_commands_own() -> None:
    assert {f.name for f in fields(CompressRequest) if origin_of(f) is None} == OWN


@pytest.mark.parametrize("request_class", REQUESTS, ids=lambda request: request.__name__)
def test_defaults_and_help_are_those_of_the_settings(request_class: type) -> None:
    for option in fields(request_class):
        origin = origin_of(option)
        if origin is None:
            continue
        setting = next(f for f in fields(origin[0]) if f.name == origin[1])
        default = setting.default
        if isinstance(default, tuple):
            default = ",".join(f"{value:g}" for value in default) or None
        assert option.default == OTHER_DEFAULTS.get((request_class.__name__, option.name), default)
        if request_class is CompressRequest:
            assert option.metadata["info"].help == with_flags(setting.metadata["help"])


def test_help_of_compress_is_in_groups() -> None:
    shown = lcnn("compress", "--help").stdout
    headings = [line.removesuffix(":") for line in shown.splitlines() if re.fullmatch(r"\w+:", line)]
    assert headings == ["Arguments", *(panel for panel in PANELS if panel != "Measurement")]
    for flag in ("--share", "--coefficients", "--precision"):
        assert flag not in shown
    parts = dict(zip(headings, re.split(r"^\w+:$", shown, flags=re.MULTILINE)[1:], strict=True))
    assert "--calib DATA" in parts[DATA]
    assert "--max-drop D" in parts["Targets"]
    assert "--resume" in parts["Training"]


@dataclass(frozen=True, kw_only=True)
class Shared:
    quiet: bool = own("Say less", "--quiet", "-q", panel="Output", default=False)


@dataclass(frozen=True, kw_only=True)
class Wanted(Shared):
    model: str = argument("A net", "MODEL")
    filters_per_pattern: int = taken(PlanSettings, "filters_per_pattern", panel="Dictionary")
    only: list[str] | None = taken(PlanSettings, "only", panel="Dictionary")


def test_a_command_gets_its_request_and_what_was_given() -> None:
    app, seen = typer.Typer(rich_markup_mode=None), []

    @app.command(cls=Command)
    @takes(Wanted)
    def command(request: Wanted, given: frozenset[str]) -> None:
        """Do it."""
        seen.append((request, given))

    def run(*arguments: str) -> None:
        assert CliRunner().invoke(app, list(arguments)).exit_code == 0

    run("a.pt")
    run("a.pt", "--share=8", "--only", "x", "--only", "y", "-q")
    run("--share", "2", "a.pt")
    assert [request for request, _ in seen] == [
        Wanted(model="a.pt"),
        Wanted(model="a.pt", filters_per_pattern=8, only=["x", "y"], quiet=True),
        Wanted(model="a.pt", filters_per_pattern=2),
    ]
    assert [given for _, given in seen] == [
        {"model"}, {"model", "filters_per_pattern", "only", "quiet"}, {"model", "filters_per_pattern"},
    ]  # fmt: skip
    assert "Do it." in CliRunner().invoke(app, ["--help"]).stdout


def test_what_messages_quote_is_an_option() -> None:
    """Fields in quotes become options at the command line: each must be one."""
    options = {f.name for request in REQUESTS for f in fields(request)} | {f.name for f in fields(Target)}
    options |= {"speedup", "latency_ms", "size_mb", "n_classes"}
    package = Path(lcnn_compress.__file__).parent
    quoted = {
        (path.name, name)
        for path in package.rglob("*.py")
        if path.parent.name != "cli"
        for line in path.read_text().splitlines()
        for name in re.findall(r"(?<!`)`([a-z]\w*)(?:=False)?`(?!`)", line)
    }
    assert {name for _, name in quoted} >= {"init", "input_shape", "measure", "only"}
    assert {(path, name) for path, name in quoted if name not in options} == set()


def test_requests_share_what_several_commands_take() -> None:
    assert {f.name for f in fields(ModelRequest)} == {"arch", "input_shape", "trust_pickle"}
    assert all(f.default is not MISSING for f in fields(AnswerRequest))

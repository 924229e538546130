"""Options made from the fields of settings: their defaults and help texts stand there and nowhere else.

What a command takes is a frozen dataclass, its request. A field of it is either ``taken`` from a settings class or the
command's ``own``; ``takes`` makes the options that typer reads from such a class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from lcnn_compress.cli import terminal
from lcnn_compress.cli.error_boundary import with_flags

MODEL, DICTIONARY, TARGETS, DATA, TRAINING = "Model", "Dictionary", "Targets", "Data", "Training"
MEASUREMENT, OUTPUT = "Measurement", "Output"
PANELS = (MODEL, DICTIONARY, TARGETS, DATA, TRAINING, MEASUREMENT, OUTPUT, "Options")
# These old names of options are still understood.
RENAMED = {"--share": "--filters-per-pattern", "--coefficients": "--storage", "--precision": "--training-precision"}
Request = TypeVar("Request")


def taken(
    settings: type, name: str, *flags: str, panel: str, default: object = MISSING, metadata: Mapping[str, object] | None = None
) -> Any:
    """Return a field of a request that is the field ``name`` of a settings class, with its default and help.

    Args:
        flags: as typer takes them; without them made from the name.
        panel: under which the help lists it.
        default: instead of that of the settings, where leaving the option out means something of its own.
        metadata: instead of some of those of the settings: "help", "metavar", "min", "shown_default".
    """
    origin = next(f for f in fields(settings) if f.name == name)
    default = _as_text(origin.default) if default is MISSING else default
    info = _option(flags, panel, {**origin.metadata, **(metadata or {})})
    return field(default=default, metadata={"info": info, "of": (settings, name)})


def own(help_text: str, *flags: str, panel: str, default: object = None, **words: object) -> Any:
    """Return a field of a request that is an option of the command itself; ``words``: "metavar", "min", "shown_default"."""
    return field(default=default, metadata={"info": _option(flags, panel, {"help": help_text, **words})})


def argument(help_text: str, metavar: str, default: object = MISSING) -> Any:
    """Return a field of a request that is an argument; it may be left out where it has a default."""
    info = typer.Argument(help=help_text, metavar=metavar, show_default=False)
    return field(metadata={"info": info}) if default is MISSING else field(default=default, metadata={"info": info})


def _option(flags: Sequence[str], panel: str, metadata: Mapping[str, Any]) -> Any:
    return typer.Option(
        *flags, help=with_flags(metadata["help"]), metavar=metadata.get("metavar"), min=metadata.get("min"),
        show_default=metadata.get("shown_default", True), rich_help_panel=panel,
    )  # fmt: skip


def _as_text(default: Any) -> object:
    """Return the default of a settings field as the command line takes it: several values are one text."""
    if isinstance(default, tuple):
        return ",".join(f"{value:g}" for value in default) or None
    return default


def takes(request: type[Request]) -> Callable[[Callable[[Request, frozenset[str]], None]], Callable[..., None]]:
    """Give a command the options of a request; it gets the request and the names of the fields given on the command line."""

    def decorate(command: Callable[[Request, frozenset[str]], None]) -> Callable[..., None]:
        def run(context: typer.Context, **values: Any) -> None:
            with terminal.quiet(bool(values.get("quiet") or values.get("as_json"))):
                command(request(**values), _given(context))

        parameters = _parameters(request)
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def _parameters(request: type) -> list[inspect.Parameter]:
    """Return the context and one parameter for each field, those of the request itself before those it shares with others."""
    shared = {f.name for base in request.__mro__[1:] if is_dataclass(base) for f in fields(base)}
    hints, keyword = get_type_hints(request), inspect.Parameter.KEYWORD_ONLY
    context = inspect.Parameter("context", keyword, annotation=typer.Context)
    return [context, *(
        inspect.Parameter(
            f.name, keyword, annotation=Annotated[hints[f.name], f.metadata["info"]],
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
        )
        for f in sorted(fields(request), key=lambda f: f.name in shared)
    )]  # fmt: skip


def _given(context: typer.Context) -> frozenset[str]:
    """Return the names of the parameters that stand on the command line."""

    def is_given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    return frozenset(filter(is_given, context.params))


def origin_of(option: Field[Any]) -> tuple[type, str] | None:
    """Return the settings class and the field that a field of a request is taken from; None for the command's own."""
    origin: tuple[type, str] | None = option.metadata.get("of")
    return origin


class Command(TyperCommand):
    """A command whose help groups options by what they are about, and that understands options by their old names.

    Contexts and formatters are of click, which newer versions of typer carry inside them: their types have no stable name.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments after renaming options."""
        split = [argument.partition("=") for argument in args]
        return super().parse_args(ctx, [RENAMED.get(name, name) + equals + value for name, equals, value in split])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then each group of options under its own heading."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{panel: [] for panel in PANELS}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                groups[panel].append(record)
        for panel, records in groups.items():
            if records:
                with formatter.section(panel):
                    formatter.write_dl(records)

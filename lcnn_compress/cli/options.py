"""Options shared by several commands, declared once, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lcnn_compress.errors import FileError, SettingsError

SUFFIX = ".lcnn"

Model = Annotated[str, typer.Argument(help="model.pt, model.pt2, weights.safetensors (with --arch), or pkg.mod:factory")]
Arch = Annotated[str | None, typer.Option(help="Factory of the net a state_dict belongs to: pkg.mod:fn or file.py:fn")]
InputShape = Annotated[str | None, typer.Option(help="Input shape, e.g. 1,3,224,224; asked for only when it cannot be known")]
TrustPickle = Annotated[bool, typer.Option("--trust-pickle", help="Load a pickled model even if that runs code from the file")]
Threads = Annotated[str, typer.Option(help="Threads of ONNX Runtime, e.g. 1 or 1,2")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes")]
Mean = Annotated[str | None, typer.Option(help="Channel means to subtract from data, e.g. 0.485,0.456,0.406")]
Std = Annotated[str | None, typer.Option(help="Channel standard deviations to divide data by")]


def integers(option: str, text: str, least: int = 1) -> tuple[int, ...]:
    """Read ``1,2,3``.

    Raises:
        SettingsError: not whole numbers of at least ``least``.
    """
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdigit() and int(part) >= least for part in parts):
        raise SettingsError(f"{option} is '{text}'; it must be whole numbers of at least {least}, separated by commas")
    return tuple(int(part) for part in parts)


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


def find_artefact(path: Path | None, suffix: str = SUFFIX) -> tuple[Path, str | None]:
    """Return the artefact to work on and, if it was chosen among several, a note saying so.

    Raises:
        FileError: no path was given and there is no artefact here.
    """
    if path is not None:
        return path, None
    found = sorted(Path.cwd().glob(f"*{suffix}"), key=lambda p: (p / "manifest.json").stat().st_mtime if p.is_dir() else 0)
    found = [p for p in found if (p / "manifest.json").is_file()]
    if not found:
        raise FileError(f"no *{suffix} directory in {Path.cwd()}; make one with 'lcnn compress MODEL' or name it")
    note = f"{len(found)} artefacts here, using the newest: {found[-1].name}" if len(found) > 1 else None
    return Path(found[-1].name), note


def default_output(model: str) -> Path:
    """Return ``model.lcnn`` here for ``somewhere/model.pt``, ``factory.lcnn`` for ``pkg.mod:factory``."""
    head, colon, factory = model.rpartition(":")
    name = factory if colon and head and "/" not in factory and "." not in factory else Path(model).stem
    return Path(name + SUFFIX)

"""What the text of options means: numbers, shapes, and the artefact that was left out."""

from __future__ import annotations

from pathlib import Path

from lcnn_compress.errors import FileError, SettingsError

SUFFIX = ".lcnn"


def require(condition: bool, message: str) -> None:
    """Raise SettingsError(message) unless ``condition`` holds."""
    if not condition:
        raise SettingsError(message)


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

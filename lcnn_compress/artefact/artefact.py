"""The artefact: a directory ``NAME.lcnn`` that holds a compressed net without pickle and without the model's source code.

    manifest.json       format version, SHA-256 of the files below
    lcnn.json           the net as a graph, and where it came from
    model.safetensors   every tensor; lookup lists as gaps in the narrowest integer
    config.json         the resolved configuration; ``lcnn compress MODEL -c config.json`` repeats the run
    report.json/.html   what was done to each layer, and measurements (these differ from run to run)

The same configuration gives the same bytes in the first four.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import fx

from lcnn_compress.artefact.field_rules import check_config
from lcnn_compress.artefact.graph_json import from_json, problem_of, to_json
from lcnn_compress.artefact.report import Json, Report
from lcnn_compress.artefact.report_html import html
from lcnn_compress.artefact.strict_json import parse_json
from lcnn_compress.errors import ArtefactError, FileError, SettingsError
from lcnn_compress.files import directory_atomically
from lcnn_compress.operators.interface import interface_of, set_interface
from lcnn_compress.version import __version__

FORMAT_VERSION = 1
_HASHED = ("lcnn.json", "model.safetensors", "config.json")
FILES = ("manifest.json", *_HASHED, "report.json", "report.html")


@dataclass(frozen=True)
class Artefact:
    """A compressed net with its input shape (1, ...), resolved configuration and report."""

    net: fx.GraphModule
    input_shape: tuple[int, ...]
    config: Json
    report: Report


def save_artefact(artefact: Artefact, path: Path) -> None:
    """Write the directory ``path``; an artefact already there is replaced only once the new one is complete.

    Raises:
        FileError: the directory cannot be written.
    """
    graph, tensors = to_json(artefact.net, artefact.config["coefficients"])
    content = {
        "lcnn.json": _json({"input_shape": list(artefact.input_shape), "graph": graph}),
        "model.safetensors": save(tensors),
        "config.json": _json(artefact.config),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    manifest = {"format": "lcnn", "format_version": FORMAT_VERSION, "written_by": __version__, "sha256": hashes}
    content |= {"manifest.json": _json(manifest), "report.json": _json(artefact.report.to_json())}
    # Names of files can hold bytes that are no text; the page shows them escaped, JSON keeps them.
    content["report.html"] = html(artefact.report).encode(errors="backslashreplace")
    with directory_atomically(path) as folder:
        for name, data in content.items():
            (folder / name).write_bytes(data)


def load_artefact(path: Path) -> Artefact:
    """Read an artefact; the net is ready to run and to fine-tune.

    Raises:
        ArtefactError: a file is missing, damaged or written by a newer version.
        FileError: the directory is not there or cannot be read.
    """
    manifest = _read_manifest(path)
    content = {name: _read(path / name) for name in _HASHED}
    for name, data in content.items():
        found = hashlib.sha256(data).hexdigest()
        if found != manifest["sha256"].get(name):
            raise ArtefactError(
                f"{path / name}: SHA-256 is {found[:12]}..., the manifest says {str(manifest['sha256'].get(name))[:12]}...; "
                "the file is damaged or was edited, make the artefact again"
            )
    try:
        tensors = load(content["model.safetensors"])
    except SafetensorError as error:
        raise ArtefactError(f"{path / 'model.safetensors'}: {error}; make the artefact again") from error
    description = _parse(path / "lcnn.json", content["lcnn.json"])
    config = _parse(path / "config.json", content["config.json"])
    check_config(config, path)
    report = _read_report(path / "report.json")
    net = from_json(description.get("graph", {}), tensors, str(path), _patterns_of(config))
    shape = _shape_of(description, path / "lcnn.json")
    if (problem := problem_of(net, shape)) is not None:
        raise ArtefactError(f"{path}: {problem}; the artefact is damaged or was edited, make it again")
    set_interface(net.graph, replace(interface_of(net), shape=shape))
    return Artefact(net, shape, config, report)


def _patterns_of(config: Json) -> dict[str, object]:
    """Return ``filters_per_pattern`` by layer name, which release 0.1.0 wrote into the configuration only.

    Without it training would split the patterns that groups of filters share.
    """
    plans = config.get("layers")
    plans = [plan for plan in plans if isinstance(plan, dict)] if isinstance(plans, list) else []
    return {str(plan.get("name")): plan.get("share", 1) for plan in plans}


def _shape_of(description: Json, path: Path) -> tuple[int, ...]:
    shape = description.get("input_shape")
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) < 8
        or not all(type(size) is int and 0 < size < 1 << 24 for size in shape)
    ):
        raise ArtefactError(f"{path}: input_shape is {shape!r}; it must be a list of sizes, make the artefact again")
    return tuple(shape)


def is_artefact(path: Path) -> bool:
    """Tell whether ``path`` looks like an artefact directory."""
    return path.is_dir() and (path / "manifest.json").is_file()


def check_place(path: Path) -> None:
    """Refuse a place for an artefact before any work is done: nothing but an artefact is ever replaced.

    Raises:
        SettingsError: something else is at ``path``, or files that are not of an artefact are in it.
        FileError: the folder of ``path`` is not there or may not be written.
    """
    parent = path.resolve().parent
    if not parent.is_dir():
        raise FileError(f"{path}: the folder {parent} is not there; create it first or choose another `output`")
    if not os.access(parent, os.W_OK):
        raise FileError(f"{path}: the folder {parent} may not be written; choose another `output`")
    if not path.exists():
        return
    if not is_artefact(path):
        raise SettingsError(f"{path}: exists and is not an artefact; it will not be replaced, choose another `output`")
    if own := sorted(p.name for p in path.iterdir() if p.name not in FILES and p.suffix != ".onnx"):
        raise SettingsError(f"{path}: holds files of yours ({', '.join(own[:3])}); move them away or choose another `output`")


def _read_manifest(path: Path) -> Json:
    if not path.is_dir():
        raise FileError(f"{path}: no such artefact directory; 'lcnn compress MODEL' makes one")
    manifest = _parse(path / "manifest.json", _read(path / "manifest.json"))
    version = manifest.get("format_version")
    if not isinstance(version, int) or not isinstance(manifest.get("sha256"), dict):
        raise ArtefactError(f"{path / 'manifest.json'}: not an lcnn manifest; make the artefact again")
    if version > FORMAT_VERSION:
        raise ArtefactError(
            f"{path}: format_version {version} is newer than this lcnn (reads up to {FORMAT_VERSION}); "
            "update the checkout of lcnn and run 'pip install .' in it"
        )
    return manifest


def _read_report(path: Path) -> Report:
    try:
        return Report.from_json(_parse(path, _read(path)))
    except ValueError as error:
        raise ArtefactError(f"{path}: {error}; the file is damaged or was edited, make the artefact again") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtefactError(f"{path}: the file is missing; the artefact is incomplete, make it again") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(path: Path, data: bytes) -> Json:
    try:
        values = parse_json(data)
    except ValueError as error:
        raise ArtefactError(f"{path}: not JSON ({error}); the file is damaged, make the artefact again") from error
    if not isinstance(values, dict):
        raise ArtefactError(f"{path}: holds a {type(values).__name__}, not an object; make the artefact again")
    return values


def _json(values: Json) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

"""Tables of labels: a CSV file with a line ``image,label,label,...`` for each image, and 0 or 1 for each label.

The first line holds the names of the labels; paths of images are relative to the folder of the table.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lcnn_compress.errors import DataError, FileError, SettingsError

log = logging.getLogger(__name__)
_FORM = "write a first line image,NAME,NAME,... and for each image its path and 0 or 1 for each name"


@dataclass(frozen=True)
class LabelTable:
    """The names of labels, the images that are there, their labels (n, names) float32, and the images that are not there."""

    names: tuple[str, ...]
    paths: list[Path]
    labels: Tensor
    missing: list[Path]

    def note(self, table: Path) -> str | None:
        """Say how many images are left out, None where all are there."""
        if not self.missing:
            return None
        total = len(self.missing) + len(self.paths)
        return f"{table}: {len(self.missing)} of {total} images are not there and are left out, the first is {self.missing[0]}"


def is_table(path: Path) -> bool:
    """Tell whether data is a table of labels, by its suffix."""
    return path.suffix.lower() == ".csv"


def label_names(path: Path) -> tuple[str, ...]:
    """Return the names of the labels of a table. Raises as ``read_table``."""
    return _names(path, _lines(path))


def read_table(path: Path) -> LabelTable:
    """Read a table of labels; images that are not there are left out.

    Raises:
        FileError: it cannot be read.
        DataError: it is no such table, a label is neither 0 nor 1, or no image is there.
    """
    lines = _lines(path)
    names = _names(path, lines)
    rows = [(number, line) for number, line in lines[1:] if any(cell.strip() for cell in line)]
    paths, labels, missing = [], [], []
    for number, line in rows:
        if len(line) != len(names) + 1:
            raise DataError(f"{path}: line {number} has {len(line)} columns, and the first line {len(names) + 1}; {_FORM}")
        values = [_label(path, number, name, cell) for name, cell in zip(names, line[1:], strict=True)]
        image = path.parent / line[0].strip()
        if image.is_file():
            paths.append(image)
            labels.append(values)
        else:
            missing.append(image)
    if not paths:
        seen = f"none of its {len(missing)} images is there, such as {missing[0]}" if missing else "holds no images"
        raise DataError(f"{path}: {seen}; paths in it are relative to its folder")
    return LabelTable(names, paths, torch.tensor(labels, dtype=torch.float32), missing)


def require_images(spec: str | None) -> None:
    """Refuse a table of labels with images that are not there.

    Raises:
        DataError: an image is not there.
        SettingsError: it is no such table.
        FileError: it cannot be read.
    """
    if spec is None or not is_table(Path(spec)):
        raise SettingsError(f"`strict` is for tables of labels (.csv), and the data is {spec}; leave it out")
    note = read_table(Path(spec)).note(Path(spec))
    if note is not None:
        raise DataError(f"{note.replace(' and are left out', '')}; add them, remove their lines, or leave out `strict`")


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the cells of each line, with the number of the line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, cells) for cells in reader]
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}; check the path and its permissions") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no table of comma-separated text in UTF-8 ({error}); {_FORM}") from error


def _names(path: Path, lines: list[tuple[int, list[str]]]) -> tuple[str, ...]:
    names = tuple(cell.strip() for cell in lines[0][1][1:]) if lines else ()
    if not names or "" in names or set(names) <= {"0", "1", "-1"}:
        raise DataError(f"{path}: its first line names no labels; {_FORM}")
    if twice := sorted(name for name in set(names) if names.count(name) > 1):
        raise DataError(f"{path}: '{twice[0]}' names two labels; give each a name of its own")
    return names


def _label(path: Path, number: int, name: str, cell: str) -> float:
    """Return 0 or 1."""
    try:
        value = float(cell)
    except ValueError:
        value = -2.0
    if value not in (0.0, 1.0):
        way_out = "; write 0 for -1" if value == -1 else ""
        raise DataError(f"{path}: line {number}: '{name}' is '{cell.strip()}'; each label must be 0 or 1{way_out}")
    return value

"""Pictures of the layers of an artefact: the dictionary, how often its entries are used, coefficients, and filters.

matplotlib draws; it is an extra, ``plot``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from lcnn_compress import api
from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.artefact.report import LayerReport
from lcnn_compress.errors import FileError, MissingError, SettingsError
from lcnn_compress.files import write_atomically
from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d
from lcnn_compress.forms.int8 import Int8Conv2d
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.ordinary import ordinary
from lcnn_compress.progress import Progress, silent
from lcnn_compress.sources.source import Source, folded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png")
SHOWN = 3  # filters of a layer, unless others are asked for
BINS = 41
WIDTH, HEIGHT, DPI = 14.0, 2.8, 100  # of one layer, inches
# A PNG holds fewer than 2**16 lines of pixels.
MOST_IN_FILE = 200
Array = NDArray[np.float32]


@dataclass(frozen=True)
class LayerView:
    """What there is to see of one layer.

    Attributes:
        dictionary: (groups * k, C_in / groups).
        uses: (groups * k), how many coefficients that are not 0 each entry has.
        coefficients: (n), those that are not 0.
        filters: numbers of the filters that are shown.
        made: (filters, kH * kW, C_in / groups), their weights as the layer computes them.
        dense: the same in the net it was made from, batch norms folded; None where that is not at hand.
    """

    name: str
    dictionary: Array
    uses: NDArray[np.int64]
    coefficients: Array
    filters: tuple[int, ...]
    made: Array
    dense: Array | None

    @property
    def errors(self) -> list[float]:
        """|dense - made| / |dense| of each filter; none without the dense ones."""
        if self.dense is None:
            return []
        return [float(np.linalg.norm(d - m) / (np.linalg.norm(d) or 1)) for d, m in zip(self.dense, self.made, strict=True)]


def layer_view(row: LayerReport, net: fx.GraphModule, dense: fx.GraphModule | None, filters: Sequence[int] = ()) -> LayerView:
    """Return what there is to see of a layer that has a dictionary.

    Args:
        row: what the report says of it.
        net: the net of the artefact.
        dense: the net it was made from, batch norms folded; None where that is not at hand.
        filters: numbers of filters to show. Without any: the best, the middle and the worst, or evenly chosen ones where
            there is no dense net.

    Raises:
        SettingsError: the layer has no filter of such a number.
    """
    lookup = _as_lookup(net.get_submodule(row.name))
    if wrong := [number for number in filters if not 0 <= number < lookup.out_channels]:
        raise SettingsError(f"{row.name}: has no filter {wrong[0]}; its `filters` are 0 to {lookup.out_channels - 1}")
    weight = lookup.weight().detach()
    original = None if dense is None else _dense_weight(dense, row.name, weight.shape)
    chosen = list(filters) or _chosen(weight, original)
    kernel = (lookup.sparse_kernel * lookup.support).detach()
    used = kernel.unflatten(0, (lookup.geometry.groups, -1)) != 0  # (groups, C_out / groups, k, kH, kW)
    return LayerView(
        row.name, lookup.dictionary.detach().numpy(), used.sum((1, 3, 4)).flatten().numpy(), kernel[kernel != 0].numpy(),
        tuple(chosen), _by_position(weight[chosen]), None if original is None else _by_position(original[chosen]),
    )  # fmt: skip


def _as_lookup(layer: object) -> LookupConv2d:
    if isinstance(layer, (Int8Conv2d, Bfloat16Conv2d)):
        return layer.plain()
    assert isinstance(layer, LookupConv2d), type(layer)
    return layer


def _dense_weight(dense: fx.GraphModule, name: str, shape: torch.Size) -> Tensor | None:
    """Return the weight of a layer in the shape (C_out, C_in / groups, kH, kW) that it has as a lookup convolution."""
    weight = getattr(dict(dense.named_modules()).get(name), "weight", None)
    return weight.detach().reshape(shape) if isinstance(weight, Tensor) and weight.numel() == shape.numel() else None


def _chosen(weight: Tensor, original: Tensor | None) -> list[int]:
    """Return the numbers of a few filters: best, middle and worst, or evenly chosen."""
    order = torch.arange(len(weight))
    if original is not None:
        error = (weight - original).flatten(1).norm(dim=1) / original.flatten(1).norm(dim=1).clamp_min(1e-12)
        order = error.argsort(stable=True)
    places = np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)
    return [int(order[place]) for place in places]


def _by_position(weight: Tensor) -> Array:
    """Return weights (n, m, kH, kW) as (n, kH * kW, m): each row is what a position of the kernel adds up from entries."""
    rows: Array = weight.flatten(2).transpose(1, 2).numpy()
    return rows


@ordinary
def plot_layers(
    path: str | Path, to: str | Path, *, filters: Sequence[int] = (), trust_pickle: bool = False, progress: Progress = silent
) -> tuple[list[Path], list[str]]:
    """Draw the layers of an artefact that have a dictionary.

    Args:
        path: the artefact.
        to: a file that ends in .svg or .png, for all layers one below the other, or a folder, which gets NAME.svg for each
            layer and is made if it is not there.
        filters: see ``layer_view``.
        trust_pickle: let the file of the original net run code.
        progress: gets ("drawing", layers done, layers in total).

    Returns:
        The files, and notes on what could not be shown.

    Raises:
        ArtefactError, FileError: the artefact is damaged or missing, or a picture cannot be written.
        MissingError: matplotlib is not installed.
        SettingsError: ``to`` has another ending, no layer has a dictionary, or there is no such filter.
    """
    check_place(Path(to))
    path, to = Path(path), Path(to)
    artefact = api.load(path)
    rows = [row for row in artefact.report.layers if row.form.is_coded]
    if not rows:
        raise SettingsError(f"{path}: no layer has a dictionary, so there is nothing to draw; compress it with `dictionary`")
    found = api.find_dense(artefact, path, trust_pickle)
    dense = folded(found.net) if isinstance(found, Source) else None
    notes = [] if isinstance(found, Source) else [f"filters stand alone, without the original ones: {found}"]
    views = [layer_view(row, artefact.net, dense, filters) for row in rows]
    if is_file(to):
        if len(views) > MOST_IN_FILE:
            raise SettingsError(f"{to}: {len(views)} layers do not fit in one picture; give a folder")
        progress("drawing", 0, 1)
        _save(figure_of(views, _titles(artefact)), to)
        progress("drawing", 1, 1)
        return [to], notes
    try:
        to.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f"{to}: cannot be made: {error.strerror or error}; choose another folder") from error
    files = []
    for done, view in enumerate(views):
        progress("drawing", done, len(views))
        files.append(to / f"{view.name}.svg")
        _save(figure_of([view], _titles(artefact)), files[-1])
    progress("drawing", len(views), len(views))
    return files, notes


def is_file(to: Path) -> bool:
    """Tell whether a place for pictures is one file."""
    return to.suffix.lower() in SUFFIXES and not to.is_dir()


def check_place(to: Path) -> None:
    """Refuse, before any work, a place for pictures that is none, and a machine without matplotlib.

    Raises:
        SettingsError: the path ends in something else than .svg and .png, and is no folder.
        MissingError: matplotlib is not installed.
    """
    if not is_file(to) and not to.is_dir() and (to.suffix or to.exists()):
        raise SettingsError(f"{to}: pictures end in {' or '.join(SUFFIXES)}, or lie in a folder; choose another `plot`")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingError(
            f"matplotlib draws the pictures, and the package '{error.name}' is missing; run pip install matplotlib, or "
            "pip install '.[plot]' in a checkout of lcnn"
        ) from error


def _titles(artefact: Artefact) -> dict[str, str]:
    """Return what stands above each layer."""
    return {row.name: _title(row) for row in artefact.report.layers}


def _title(row: LayerReport) -> str:
    parts = [
        f"{row.in_channels} to {row.out_channels} channels, {'x'.join(map(str, row.kernel))}",
        row.kind if row.form.is_identity else f"{row.kind}, {row.dictionary_size} entries",
        f"{row.rows_used} used", f"{row.lookups_per_position or 0:.2f} lookups a position", row.arithmetic,
    ]  # fmt: skip
    return f"{row.name}:  " + ",  ".join(filter(None, parts))


def figure_of(views: Sequence[LayerView], titles: dict[str, str]) -> Figure:
    """Return a figure with one line of four panels for each layer."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure((WIDTH, HEIGHT * len(views)), dpi=DPI, layout="constrained")
        lines = figure.subfigures(len(views), 1, squeeze=False)
        for line, view in zip(lines[:, 0], views, strict=True):
            line.suptitle(titles[view.name], x=0.01, ha="left", parse_math=False)
            places = line.subplots(1, 4, width_ratios=(3, 2, 2, 4))
            for draw, axes in zip((_dictionary, _uses, _coefficients, _filters), places, strict=True):
                draw(axes, view)
    return figure


def _image(axes: Axes, values: Array) -> None:
    """Draw numbers so that red is above 0 and blue below, white where there is none."""
    largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes)


def _dictionary(axes: Axes, view: LayerView) -> None:
    _image(axes, view.dictionary)
    axes.set(title="dictionary", xlabel="channel", ylabel="entry")


def _uses(axes: Axes, view: LayerView) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.bar(np.arange(len(view.uses)), view.uses, width=1.0, color="#174f86")
    axes.set(title=f"use: {int((view.uses > 0).sum())} of {len(view.uses)} entries", xlabel="entry", ylabel="lookups")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _coefficients(axes: Axes, view: LayerView) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.hist(view.coefficients, bins=BINS, color="#174f86")
    axes.set(title=f"{len(view.coefficients):,} coefficients", xlabel="value", ylabel="number")
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _filters(axes: Axes, view: LayerView) -> None:
    """Draw each filter as a line for each position of the kernel, the dense one above the one that was made of entries."""
    parts: list[Array] = []
    places: list[float] = []
    labels: list[str] = []
    start = 0
    for i, number in enumerate(view.filters):
        shown = [] if view.dense is None else [(view.dense[i], f"{number} dense")]
        off = f", off {view.errors[i]:.2f}" if view.dense is not None else ""
        for values, label in (*shown, (view.made[i], f"{number} made{off}")):
            gap = np.full((1, values.shape[1]), np.nan, np.float32)
            parts += [values, gap]
            places.append(start + (len(values) - 1) / 2)
            labels.append(label)
            start += len(values) + 1
    _image(axes, np.concatenate(parts[:-1]))
    axes.set_yticks(places, labels)
    axes.set(title="filters, a line for each position of the kernel", xlabel="channel")


def _save(figure: Figure, path: Path) -> None:
    import matplotlib

    kind = path.suffix.lower().removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None  # the same picture has the same bytes
    with matplotlib.rc_context({"svg.hashsalt": "lcnn", "svg.fonttype": "none"}):
        write_atomically(path, lambda place: figure.savefig(place, format=kind, metadata=metadata))

"""Everything the command line shows: tables, progress, notes, JSON. It reaches the terminal through ``terminal`` alone.

Results go to stdout; progress and notes go to stderr.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from lcnn_compress.artefact.report import Json, Report
from lcnn_compress.cli import terminal
from lcnn_compress.cli.error_boundary import with_flags
from lcnn_compress.forms.kinds import KINDS, LOOKUP, Kind
from lcnn_compress.progress import Progress

METRICS = {"top1_percent": "top-1 accuracy in %", "labels_percent": "labels told right in %", "psnr_db": "PSNR in dB"}
# A pipe has no width, and columns shall not be cut.
PIPE_WIDTH = 1000


def out(whole_lines: bool = False) -> Console:
    """Return a console on stdout as it is now (tests replace it); ``whole_lines`` may be longer than a terminal is wide."""
    console = Console(highlight=False)
    return console if console.is_terminal and not whole_lines else Console(highlight=False, width=PIPE_WIDTH)


def text(line: str) -> None:
    """Print one line on stdout."""
    terminal.say(line)


def note(line: str | None) -> None:
    """Show a line, if there is one, on stderr; fields of settings in it are named as options."""
    if line is not None:
        terminal.notify(f"note: {with_flags(line)}")


def warn(line: str) -> None:
    """Show a warning on stderr."""
    terminal.notify(f"warning: {line}")


def print_json(values: Json) -> None:
    """Print one JSON object on stdout."""
    terminal.say_whole(json.dumps(values, indent=1, allow_nan=False))


class TextTable(Table):
    """A table whose cells are text of files and users: nothing in them is read as markup."""

    def add_row(self, *cells: str) -> None:  # type: ignore[override]
        """Add a row of cells, shown as ``terminal.as_line`` shows lines."""
        super().add_row(*(Text(terminal.as_line(cell)) for cell in cells))


def new_table(*names: str, left: int = 1, title: str | None = None) -> TextTable:
    """Return an empty table whose first ``left`` columns are words."""
    table = TextTable(box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="bold")
    table.title = None if title is None else Text(terminal.as_line(title))
    for position, name in enumerate(names):
        table.add_column(name, justify="left" if position < left else "right", overflow="fold", no_wrap=position > 0)
    return table


def show_table(table: TextTable, whole_lines: bool = False) -> None:
    """Print a table without blanks at the ends of its lines."""
    console = out(whole_lines)
    with console.capture() as captured:
        console.print(table)
    terminal.say_whole("\n".join(line.rstrip() for line in captured.get().splitlines()), styled=console.is_terminal)


class Stages:
    """Shows one bar with the time left for each stage of the work, on a terminal only."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps of a stage are done; a stage that starts again gets a fresh clock."""
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(terminal.as_line(stage), total=total)
        task = self.tasks[stage]
        if done < self.bars.tasks[task].completed or done == 0:
            self.bars.reset(task, total=total)
        self.bars.update(task, completed=done, total=total)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show how far the work is on stderr, if that is a terminal and the user does not want quiet."""
    console = Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=console, disable=terminal.is_quiet() or not console.is_terminal,
    )  # fmt: skip
    with bars:
        yield Stages(bars)


def layer_table(rows: Sequence[Json]) -> None:
    """Print what was done to each layer. Why layers stay dense follows below the table."""
    table = new_table("layer", "channels", "kernel", "k", "lookups", "error", *pair_titles(rows))
    for row in rows:
        kind = _kind(row)
        table.add_row(
            row["name"], f"{row['in_channels']}>{row['out_channels']}", by(row["kernel"]),
            kind.described(row.get("dictionary_size")), _number(row, "lookups_per_position", 2) if kind.is_coded else "",
            _number(row, "relative_error", 3), pair(row, "macs", "macs_dense", 1e6, 2),
            pair(row, "lookup_ms", "dense_ms", 1, 3),
        )  # fmt: skip
    show_table(table)
    reasons(rows)


def _kind(row: Json) -> Kind:
    """Return the kind of a layer; the ones a later version names in a file are shown as lookups."""
    return KINDS.get(row["kind"], LOOKUP)


def _number(row: Json, name: str, digits: int) -> str:
    return f"{row[name]:.{digits}f}" if row.get(name) is not None else ""


def pair_titles(rows: Sequence[Json]) -> list[str]:
    """Return the titles of the columns of ``pair``."""
    paired = any(_is_changed(row) for row in rows)
    return [f"{title}\nnow / dense" if paired else title for title in ("million MACs", "ms")]


def _is_changed(row: Json) -> bool:
    """Tell whether a layer is something else than in the dense net."""
    return _kind(row).is_coded or row.get("arithmetic") is not None


def pair(row: Json, now: str, dense: str, unit: float, digits: int) -> str:
    """Return a number of a layer and of the dense one, in ``unit``; of a layer that is dense the one number."""
    if row.get(now) is None or row.get(dense) is None:
        return ""
    if not _is_changed(row):
        return f"{row[now] / unit:.{digits}f}"
    return f"{row[now] / unit:.{digits}f} / {row[dense] / unit:.{digits}f}"


def reasons(rows: Sequence[Json]) -> None:
    """Print why layers stay dense, and notes, each with the layers it holds for."""
    grouped: dict[str, list[str]] = {}
    for row in rows:
        computed = row.get("arithmetic") and f"computed in {row['arithmetic']}"
        for remark in filter(None, (row["reason"] and f"dense, {row['reason']}", row.get("note", ""), computed)):
            grouped.setdefault(remark, []).append(row["name"])
    for remark, names in grouped.items():
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        text(f"{listed}: {remark}")


def compress_summary(report: Report, path: str) -> None:
    """Print the layer table and the totals of a compression."""
    layer_table([row.to_json() for row in report.layers])
    sums = report.totals
    lines = [
        f"MACs {sums.macs_dense / 1e6:.1f} -> {sums.macs / 1e6:.1f} million ({sums.macs_ratio:.2f}x fewer)",
        f"weights {size(sums.weight_bytes_dense)} -> {size(sums.weight_bytes)}",
    ]
    if sums.speedup is not None:
        lines.append(
            f"measured {sums.dense_ms:.3f} -> {sums.lookup_ms:.3f} ms in ONNX Runtime ({sums.speedup:.2f}x), "
            f"input {by(report.input_shape)}"
        )
    lines += _budget_lines(report)
    for line in (*lines, f"written {path}"):
        text(line)


def _budget_lines(report: Report) -> list[str]:
    """Say how well the forecast of a target held."""
    budget, speedup, lines = report.budget, report.totals.speedup, []
    if budget is None:
        return []
    if budget["predicted_speedup"] is not None and speedup is not None:
        lines.append(f"predicted {budget['predicted_speedup']:.2f}x, measured {speedup:.2f}x")
    if "measured_error" in budget:
        lines.append(
            f"error of the outputs, as a part of their spread: predicted {budget['predicted_error']:.3f}, measured "
            f"{budget['measured_error']:.3f}"
        )
    if trials := budget.get("trials"):
        losses = " and ".join(f"{trial['loss']:.4g}" for trial in trials)
        lines.append(f"two plans trained for a short while: losses {losses}, the smaller one was taken")
    if (drop := budget.get("drop")) is not None:
        unit = METRICS.get(drop["metric"], drop["metric"])
        lines.append(
            f"drop {drop['value']:.2f} (95 %: {drop['low']:.2f} to {drop['high']:.2f}) {unit} on {drop['n']} held-out images, "
            f"dense {drop['dense']:.2f}"
        )
    return lines


def forecast(report: Json) -> None:
    """Print the plan for a target."""
    table = new_table("layer", "kind", "k", "density", "ms\nnow / dense", "million MACs\nnow / dense", "error", left=2)
    for row in report["layers"]:
        coded = _kind(row).is_coded
        times = "" if row["predicted_ms"] is None else f"{row['predicted_ms']:.3f} / {row['dense_ms']:.3f}"
        table.add_row(
            row["name"], row["kind"], str(row["dictionary_size"]) if coded else "", f"{row['density']:.3f}" if coded else "",
            times, f"{row['macs'] / 1e6:.2f} / {row['macs_dense'] / 1e6:.2f}", f"{row['error']:.3f}" if row["error"] else "",
        )  # fmt: skip
    show_table(table)
    reasons(report["layers"])
    budget = report["budget"]
    what = (
        "outputs, measured layer by layer" if budget["effects"] == "outputs" else "filters (no data: --calib measures outputs)"
    )
    lines = [
        f"MACs {budget['macs_dense'] / 1e6:.1f} -> {budget['predicted_macs'] / 1e6:.1f} million",
        f"weights of layers {size(budget['predicted_weight_bytes'])}",
        f"error {budget['predicted_error']:.3f} of the {what}",
    ]
    if budget["predicted_ms"] is not None:
        lines.append(
            f"predicted {budget['dense_ms']:.3f} -> {budget['predicted_ms']:.3f} ms ({budget['predicted_speedup']:.2f}x), "
            f"{budget['threads']} thread{'s' if budget['threads'] > 1 else ''}; nothing was built or written"
        )
    for line in lines:
        text(line)


def sensitivity(result: Json) -> None:
    """Print the drop or error of every layer at every size."""
    sizes = result["sizes"]
    table = new_table(
        "layer", "dense\nmillion MACs", *(f"{size:g}\n" + ("drop" if result["metric"] else "error") for size in sizes)
    )
    for row in result["layers"]:
        cells = [f"{form['drop']:.2f}" if result["metric"] else f"{form['error']:.3f}" for form in row["forms"]]
        table.add_row(row["name"], f"{row['macs_dense'] / 1e6:.2f}", *cells)
    show_table(table)
    unit = METRICS.get(result["metric"], result["metric"]) if result["metric"] else None
    what = f"drop in {unit}, dense {result['dense']:.2f}" if unit else "error of the outputs as a part of their spread"
    text(
        f"one layer at a time, dictionary as a share of the channels, {result['lookups']:g} of it looked up; {what}, "
        f"{result['n']} images"
    )
    reasons([{"name": name, "reason": reason} for name, reason in result["dense_layers"].items()])


def scores(result: Json) -> None:
    """Print the answer of ``lcnn eval``."""
    shown = {key: f"{result[key]:.2f}" for key in ("dense", "lookup") if result[key] is not None}
    facts({"metric": METRICS.get(result["metric"], result["metric"]), **shown, "images": result["n"]})
    if labels := result.get("labels"):
        label_table(labels)


def label_table(labels: Json) -> None:
    """Print how each of several labels is told, and the mean average precision."""
    nets = {name: labels[name] for name in ("dense", "lookup") if labels[name] is not None}
    titles = [f"{name}\n{what}" for what in ("right in %", "average precision") for name in nets]
    table = new_table("label", "images", *titles)
    positives = next(iter(nets.values()))["positives"]
    for i, name in enumerate(labels["names"]):
        right = [f"{net['percent'][i]:.2f}" for net in nets.values()]
        precision = [_precision(net["average_precision"][i]) for net in nets.values()]
        table.add_row(name, f"{positives[i]:,}", *right, *precision)
    means = [_precision(net["mean_average_precision"]) for net in nets.values()]
    table.add_row("mean", "", *("" for _ in nets), *means)
    text("")
    show_table(table)


def _precision(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def facts(values: Json) -> None:
    """Print name and value pairs."""
    table = new_table("", "")
    table.show_header = False
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _value(name, value))
    show_table(table)


def _value(name: str, value: Any) -> str:
    if name.endswith("bytes") or name.endswith("bytes_dense"):
        return size(value)
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
        case list():
            return by(value)
        case dict():
            return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)


def by(sizes: Sequence[int]) -> str:
    """Format a size."""
    return "x".join(map(str, sizes))


def size(n_bytes: float) -> str:
    """Format a number of bytes: MB are 10**6 bytes."""
    return f"{n_bytes / 1e6:.2f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"

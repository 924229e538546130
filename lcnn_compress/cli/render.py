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
from lcnn_compress.forms.kinds import DENSE, KINDS, LOOKUP, Kind
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


class _Table(Table):
    """A table whose cells are text of files and users: nothing in them is read as markup."""

    def add_row(self, *cells: str) -> None:  # type: ignore[override]
        """Add a row of cells, shown as ``terminal.as_line`` shows lines."""
        super().add_row(*(Text(terminal.as_line(cell)) for cell in cells))


def _table(*names: str, left: int = 1, title: str | None = None) -> _Table:
    """Return an empty table whose first ``left`` columns are words."""
    table = _Table(box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="bold")
    table.title = None if title is None else Text(terminal.as_line(title))
    for position, name in enumerate(names):
        table.add_column(name, justify="left" if position < left else "right", overflow="fold", no_wrap=position > 0)
    return table


def _show(table: _Table, whole_lines: bool = False) -> None:
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
    table = _table("layer", "channels", "kernel", "k", "lookups", "error", *_pair_titles(rows))
    for row in rows:
        kind = _kind(row)
        table.add_row(
            row["name"], f"{row['in_channels']}>{row['out_channels']}", _by(row["kernel"]),
            kind.described(row.get("dictionary_size")), _number(row, "lookups_per_position", 2) if kind.is_coded else "",
            _number(row, "relative_error", 3), _pair(row, "macs", "macs_dense", 1e6, 2),
            _pair(row, "lookup_ms", "dense_ms", 1, 3),
        )  # fmt: skip
    _show(table)
    _reasons(rows)


def _kind(row: Json) -> Kind:
    """Return the kind of a layer; the ones a later version names in a file are shown as lookups."""
    return KINDS.get(row["kind"], LOOKUP)


def _number(row: Json, name: str, digits: int) -> str:
    return f"{row[name]:.{digits}f}" if row.get(name) is not None else ""


def _pair_titles(rows: Sequence[Json]) -> list[str]:
    paired = any(_kind(row).is_coded for row in rows)
    return [f"{title}\nnow / dense" if paired else title for title in ("million MACs", "ms")]


def _pair(row: Json, now: str, dense: str, unit: float, digits: int) -> str:
    if row.get(now) is None or row.get(dense) is None:
        return ""
    if not _kind(row).is_coded:
        return f"{row[now] / unit:.{digits}f}"
    return f"{row[now] / unit:.{digits}f} / {row[dense] / unit:.{digits}f}"


def _reasons(rows: Sequence[Json]) -> None:
    """Print why layers stay dense, and notes, each with the layers it holds for."""
    grouped: dict[str, list[str]] = {}
    for row in rows:
        for remark in filter(None, (row["reason"] and f"dense, {row['reason']}", row.get("note", ""))):
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
            f"input {_by(report.input_shape)}"
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
    table = _table("layer", "kind", "k", "density", "ms\nnow / dense", "million MACs\nnow / dense", "error", left=2)
    for row in report["layers"]:
        coded = _kind(row).is_coded
        times = "" if row["predicted_ms"] is None else f"{row['predicted_ms']:.3f} / {row['dense_ms']:.3f}"
        table.add_row(
            row["name"], row["kind"], str(row["dictionary_size"]) if coded else "", f"{row['density']:.3f}" if coded else "",
            times, f"{row['macs'] / 1e6:.2f} / {row['macs_dense'] / 1e6:.2f}", f"{row['error']:.3f}" if coded else "",
        )  # fmt: skip
    _show(table)
    _reasons([row for row in report["layers"] if not _kind(row).is_coded])
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
    table = _table(
        "layer", "dense\nmillion MACs", *(f"{size:g}\n" + ("drop" if result["metric"] else "error") for size in sizes)
    )
    for row in result["layers"]:
        cells = [f"{form['drop']:.2f}" if result["metric"] else f"{form['error']:.3f}" for form in row["forms"]]
        table.add_row(row["name"], f"{row['macs_dense'] / 1e6:.2f}", *cells)
    _show(table)
    unit = METRICS.get(result["metric"], result["metric"]) if result["metric"] else None
    what = f"drop in {unit}, dense {result['dense']:.2f}" if unit else "error of the outputs as a part of their spread"
    text(
        f"one layer at a time, dictionary as a share of the channels, {result['lookups']:g} of it looked up; {what}, "
        f"{result['n']} images"
    )
    _reasons([{"name": name, "reason": reason} for name, reason in result["dense_layers"].items()])


def bench_table(result: Json) -> None:
    """Print dense against lookup for each batch and thread count, then the layers."""
    kernels = result["isa"] or "no native library: the lookup file runs as dense convolutions"
    text(f"lookup: {result['lookup_source']}")
    text(f"dense: {result['dense_source']}")
    text(f"ONNX Runtime {result['onnxruntime']}, {kernels}; input {_by(result['input_shape'])}")
    for run in result["runs"]:
        text("")
        _show(run_table(run, f"batch {run['batch']}, {run['threads']} thread{'s' if run['threads'] > 1 else ''}"))
    if any(row["dense_ms"] is not None for row in result["layers"]):
        text("")
        bench_layers(result["layers"])


def run_table(run: Json, title: str, first_rows: Sequence[tuple[str, ...]] = ()) -> _Table:
    """Return one measurement as a table: dense, lookup and how they compare."""
    dense, lookup = run["dense"], run["lookup"]
    table = _table("", "dense", "lookup", "", title=title)
    table.columns[-1].justify, table.columns[-1].no_wrap = "left", False
    lo, hi = run["speedup_ci95"]
    against = f"{_times(run['speedup_p50'], 'faster', 'slower')} (95 %: {lo:.2f} to {hi:.2f})"
    rows = [*first_rows]
    for key in ("p50", "p90", "p99", "min"):
        times = [f"{net[f'latency_ms_{key}']:.3f} ms" for net in (dense, lookup)]
        rows.append((f"latency {key}", *times, against if key == "p50" else ""))
    rows += [
        ("images/s", f"{dense['throughput_per_s']:.0f}", f"{lookup['throughput_per_s']:.0f}", ""),
        ("MACs", f"{dense['macs'] / 1e6:.1f} M", f"{lookup['macs'] / 1e6:.1f} M",
         f"{_times(run['macs_ratio'], 'fewer', 'more')}, {100 * run['realised_fraction']:.0f} % of that realised"),
        ("peak memory", size(dense["peak_rss_bytes"]), size(lookup["peak_rss_bytes"]), ""),
        ("ONNX file", size(dense["file_bytes"]), size(lookup["file_bytes"]),
         _times(dense["file_bytes"] / lookup["file_bytes"], "smaller", "larger")),
    ]  # fmt: skip
    for row in rows:
        table.add_row(*row)
    return table


def suite_table(result: Json) -> None:
    """Print every form of every net for each batch and thread count, then what must be known to read it."""
    text(f"{result['label']}; ONNX Runtime {result['onnxruntime']}, {result['isa'] or 'no native library'}")
    for batch, threads in dict.fromkeys((row["batch"], row["threads"]) for row in result["rows"]):
        table = _table(
            "net", "form", "million\nMACs", "stage 1 + 2", "fewer", "than\nwide", "in the\npaper", "ms", "speed-up (95 %)",
            "rea-\nlised", "peak\nmemory", "file", left=2, title=f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}",
        )  # fmt: skip
        for row in result["rows"]:
            if (row["batch"], row["threads"]) == (batch, threads):
                table.add_row(*_suite_row(row))
        text("")
        # The table is wider than many terminals: it had better be wrapped than cut.
        _show(table, whole_lines=True)
    text("")
    for line in result["notes"]:
        text(line)


def _suite_row(row: Json) -> list[str]:
    lookup, (low, high) = "macs_stage1" in row, row["speedup_ci95"]
    stages = f"{row['macs_stage1'] / 1e6:.1f} + {row['macs_stage2'] / 1e6:.1f}" if lookup else ""
    ratios = [row.get(key) for key in ("macs_ratio_wide", "published_ratio")]
    return [
        row["net"], row["setting"] or row["form"], f"{row['macs'] / 1e6:.1f}", stages,
        f"{row['macs_ratio']:.2f}x" if lookup else "", *("" if ratio is None else f"{ratio:.1f}x" for ratio in ratios),
        f"{row['latency_ms_p50']:.2f}",
        "" if row["form"] == DENSE.name else f"{row['speedup_p50']:.2f}x ({low:.2f} to {high:.2f})",
        f"{row['realised_fraction']:.2f}" if lookup else "", size(row["peak_rss_bytes"]), size(row["file_bytes"]),
    ]  # fmt: skip


def _times(ratio: float, better: str, worse: str) -> str:
    """Say a ratio dense / lookup in words."""
    return f"{ratio:.2f}x {better}" if ratio >= 1 else f"{1 / ratio:.2f}x {worse}"


def bench_layers(rows: Sequence[Json]) -> None:
    """Print MACs and milliseconds of each layer."""
    table = _table("layer", "kind", *_pair_titles(rows), left=2)
    for row in rows:
        table.add_row(
            row["name"], row["kind"], _pair(row, "macs", "macs_dense", 1e6, 2), _pair(row, "lookup_ms", "dense_ms", 1, 3)
        )
    _show(table)
    _reasons(rows)


def scores(result: Json) -> None:
    """Print the answer of ``lcnn eval``."""
    shown = {key: f"{result[key]:.2f}" for key in ("dense", "lookup") if result[key] is not None}
    facts({"metric": METRICS.get(result["metric"], result["metric"]), **shown, "images": result["n"]})


def facts(values: Json) -> None:
    """Print name and value pairs."""
    table = _table("", "")
    table.show_header = False
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _value(name, value))
    _show(table)


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
            return _by(value)
        case dict():
            return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def size(n_bytes: float) -> str:
    """Format a number of bytes: MB are 10**6 bytes."""
    return f"{n_bytes / 1e6:.2f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"


def quickstart_table(result: Json) -> None:
    """Print dense against lookup for the embedded net."""
    change = f"{result['lookup'] - result['dense']:+.2f} points"
    accuracy = ("accuracy", f"{result['dense']:.2f} %", f"{result['lookup']:.2f} %", change)
    title = f"Fashion-MNIST, {result['n']} test images; batch 1, 1 thread"
    _show(run_table(result["bench"]["runs"][0], title, [accuracy]))
    text(f"written {result['artefact']}; open {result['artefact']}/report.html for the layers")

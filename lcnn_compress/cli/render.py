"""Everything the command line shows: tables, progress, notes, JSON. The only module that prints.

Results go to stdout; progress and notes go to stderr.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

Report = Callable[[str, int, int], None]


def out() -> Console:
    """Return a console on stdout as it is now (tests replace it)."""
    console = Console()
    return console if console.is_terminal else Console(width=160)  # a file has no width; do not cut its columns


def note(text: str, quiet: bool = False) -> None:
    """Show a line on stderr."""
    if not quiet:
        typer.echo(text, err=True)


def warn(text: str) -> None:
    """Show a warning that --quiet does not hide."""
    typer.echo(f"warning: {text}", err=True)


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    typer.echo(json.dumps(values, indent=1))


@contextmanager
def progress(quiet: bool) -> Iterator[Report]:
    """Show one bar with time left for each stage, on a terminal only."""
    console = Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, disable=quiet or not console.is_terminal,
    )  # fmt: skip
    tasks: dict[str, Any] = {}
    with bars:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def layer_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print what was done to each layer; pairs are now / dense. Why layers stay dense follows below the table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("layer", "channels", "kernel", "k", "lookups", "error", "million MACs", "ms"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in rows:
        lookup = row["kind"] == "lookup"
        table.add_row(
            row["name"], f"{row['in_channels']}>{row['out_channels']}", "x".join(map(str, row["kernel"])),
            str(row["dictionary_size"]) if lookup else "dense", f"{row['lookups_per_position']:.2f}" if lookup else "",
            f"{row['relative_error']:.3f}" if "relative_error" in row else "", _pair(row, "macs", "macs_dense", 1e6, 2),
            _pair(row, "lookup_ms", "dense_ms", 1, 3),
        )  # fmt: skip
    out().print(table)
    _reasons(rows)


def _pair(row: dict[str, Any], now: str, dense: str, unit: float, digits: int) -> str:
    if row.get(now) is None or row.get(dense) is None:
        return ""
    if row["kind"] != "lookup":
        return f"{row[now] / unit:.{digits}f}"
    return f"{row[now] / unit:.{digits}f} / {row[dense] / unit:.{digits}f}"


def _reasons(rows: Sequence[dict[str, Any]]) -> None:
    """Print why layers stay dense, and notes, each with the layers it holds for."""
    grouped: dict[str, list[str]] = {}
    for row in rows:
        for remark in filter(None, (row["reason"] and f"dense, {row['reason']}", row.get("note", ""))):
            grouped.setdefault(remark, []).append(row["name"])
    for remark, names in grouped.items():
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        out().print(f"{listed}: {remark}", highlight=False)


def compress_summary(report: dict[str, Any], path: str) -> None:
    """Print the layer table and the totals of a compression."""
    layer_table(report["layers"])
    sums = report["totals"]
    lines = [
        f"MACs {sums['macs_dense'] / 1e6:.1f} -> {sums['macs'] / 1e6:.1f} million ({sums['macs_ratio']:.2f}x fewer)",
        f"weights {size(sums['weight_bytes_dense'])} -> {size(sums['weight_bytes'])}",
    ]
    if "speedup" in sums:
        lines.append(
            f"measured {sums['dense_ms']:.3f} -> {sums['lookup_ms']:.3f} ms in ONNX Runtime ({sums['speedup']:.2f}x), "
            f"input {'x'.join(map(str, report['input_shape']))}"
        )
    lines.append(f"written {path}")
    out().print("\n".join(lines), highlight=False)


def bench_table(result: dict[str, Any]) -> None:
    """Print dense against lookup for each batch and thread count, then the layers."""
    kernels = result["isa"] or "no native library: the lookup file runs as dense convolutions"
    out().print(f"ONNX Runtime {result['onnxruntime']}, {kernels}; dense: {result['dense_source']}", highlight=False)
    for run in result["runs"]:
        out().print(run_table(run, f"batch {run['batch']}, {run['threads']} thread{'s' if run['threads'] > 1 else ''}"))
    if result["layers"]:
        bench_layers(result["layers"])


def run_table(run: dict[str, Any], title: str, first_rows: Sequence[tuple[str, ...]] = ()) -> Table:
    """Return one measurement as a table: dense, lookup and how they compare."""
    dense, lookup = run["dense"], run["lookup"]
    table = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")
    for name in ("", "dense", "lookup", ""):
        table.add_column(name, justify="left" if not name else "right")
    lo, hi = run["speedup_ci95"]
    against = f"{run['speedup_p50']:.2f}x faster (95 %: {lo:.2f} to {hi:.2f})"
    rows = [*first_rows]
    for key in ("p50", "p90", "p99", "min"):
        times = [f"{net[f'latency_ms_{key}']:.3f} ms" for net in (dense, lookup)]
        rows.append((f"latency {key}", *times, against if key == "p50" else ""))
    rows += [
        ("images/s", f"{dense['throughput_per_s']:.0f}", f"{lookup['throughput_per_s']:.0f}", ""),
        ("MACs", f"{dense['macs'] / 1e6:.1f} M", f"{lookup['macs'] / 1e6:.1f} M",
         f"{run['macs_ratio']:.2f}x fewer, {run['realised_fraction']:.2f} of it realised in time"),
        ("peak memory", size(dense["peak_rss_bytes"]), size(lookup["peak_rss_bytes"]), ""),
        ("ONNX file", size(dense["file_bytes"]), size(lookup["file_bytes"]),
         f"{dense['file_bytes'] / lookup['file_bytes']:.1f}x smaller"),
    ]  # fmt: skip
    for row in rows:
        table.add_row(*row)
    return table


def bench_layers(rows: Sequence[dict[str, Any]]) -> None:
    """Print MACs and milliseconds of each layer; pairs are now / dense."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("layer", "kind", "million MACs", "ms"):
        table.add_column(name, justify="left" if name in ("layer", "kind") else "right")
    for row in rows:
        table.add_row(
            row["name"], row["kind"], _pair(row, "macs", "macs_dense", 1e6, 2), _pair(row, "lookup_ms", "dense_ms", 1, 3)
        )
    out().print(table)
    _reasons(rows)


def facts(values: dict[str, Any]) -> None:
    """Print name and value pairs."""
    table = Table(box=None, show_header=False)
    for name, value in values.items():
        table.add_row(name, str(value))
    out().print(table)


def text(line: str) -> None:
    """Print one line on stdout."""
    out().print(line, highlight=False)


def size(n_bytes: float) -> str:
    """Format a number of bytes: MB are 10**6 bytes."""
    return f"{n_bytes / 1e6:.2f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"


def quickstart_table(result: dict[str, Any]) -> None:
    """Print dense against lookup for the embedded net."""
    change = f"{result['lookup'] - result['dense']:+.2f} points"
    accuracy = ("accuracy", f"{result['dense']:.2f} %", f"{result['lookup']:.2f} %", change)
    title = f"Fashion-MNIST, {result['n']} test images; batch 1, 1 thread"
    out().print(run_table(result["bench"]["runs"][0], title, [accuracy]))
    out().print(f"written {result['artefact']}; open {result['artefact']}/report.html for the layers", highlight=False)

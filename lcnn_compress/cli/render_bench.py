"""What ``lcnn bench`` and ``lcnn quickstart`` show: dense against lookup, and both against what else runs here."""

from __future__ import annotations

from collections.abc import Sequence

from lcnn_compress.artefact.report import Json
from lcnn_compress.cli.render import TextTable, by, new_table, pair, pair_titles, reasons, show_table, size, text
from lcnn_compress.forms.kinds import DENSE

# How forms are called that JSON names after what they are; rivals have names of their own.
FORM_TITLES = {"dense": "dense, ONNX Runtime float32", "lookup": "lookup (ours)"}


def bench_table(result: Json) -> None:
    """Print dense against lookup for each batch and thread count, then the layers."""
    kernels = result["isa"] or "no native library: the lookup file runs as dense convolutions"
    text(f"lookup: {result['lookup_source']}")
    text(f"dense: {result['dense_source']}")
    text(f"ONNX Runtime {result['onnxruntime']}, {kernels}; input {by(result['input_shape'])}")
    for run in result["runs"]:
        text("")
        show_table(run_table(run, f"batch {run['batch']}, {run['threads']} thread{'s' if run['threads'] > 1 else ''}"))
        if run["rivals"]:
            text("")
            rivals_table(run, {row["name"]: row for row in result["rivals"]})
    if result["rivals"]:
        text("")
        rival_notes(result)
    if any(row["dense_ms"] is not None for row in result["layers"]):
        text("")
        bench_layers(result["layers"])


def run_table(run: Json, title: str, first_rows: Sequence[tuple[str, ...]] = ()) -> TextTable:
    """Return one measurement as a table: dense, lookup and how they compare."""
    dense, lookup = run["dense"], run["lookup"]
    table = new_table("", "dense", "lookup", "", title=title)
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
         f"{_times(run['macs_ratio'], 'fewer', 'more')}, {_realised(run['realised_fraction'])}"),
        ("peak memory", size(dense["peak_rss_bytes"]), size(lookup["peak_rss_bytes"]), ""),
        ("ONNX file", size(dense["file_bytes"]), size(lookup["file_bytes"]),
         _times(dense["file_bytes"] / lookup["file_bytes"], "smaller", "larger")),
    ]  # fmt: skip
    for row in rows:
        table.add_row(*row)
    return table


def rivals_table(run: Json, made: dict[str, Json]) -> None:
    """Print every form of one measurement, how far the outputs of rivals are off, and which is fastest."""
    table = new_table("form", "ms", "over dense (95 %)", "outputs off by", "peak memory", "file")
    over_dense = {"dense": (1.0, (1.0, 1.0)), "lookup": (run["speedup_p50"], run["speedup_ci95"])}
    forms = {name: run[name] for name in over_dense} | {row["name"]: row for row in run["rivals"]}
    for name, row in forms.items():
        speedup, interval = over_dense.get(name) or (row["speedup_p50"], row["speedup_ci95"])
        off = f"{made[name]['output_error']:.3f}" if name in made else ""
        table.add_row(
            title_of(name), f"{row['latency_ms_p50']:.3f}", "" if name == "dense" else _over(speedup, interval),
            off, size(row["peak_rss_bytes"]), size(row["file_bytes"]),
        )  # fmt: skip
    show_table(table)
    text(verdict(run["best_other"]))


def title_of(form: str) -> str:
    """Return what a form is called in tables."""
    return FORM_TITLES.get(form, form)


def verdict(best: Json) -> str:
    """Say how lookup stands against the fastest of the other forms."""
    name, ratio, (low, high) = title_of(best["name"]), best["speedup_p50"], best["speedup_ci95"]
    if low > 1:
        return f"lookup is faster than the best of them, {name}: {ratio:.2f}x (95 %: {low:.2f} to {high:.2f})"
    if high < 1:
        return f"{name} wins: it is {1 / ratio:.2f}x faster than lookup (95 %: {1 / high:.2f} to {1 / low:.2f})"
    return f"lookup is about as fast as the best of them, {name}: {ratio:.2f}x (95 %: {low:.2f} to {high:.2f})"


def rival_notes(result: Json) -> None:
    """Print what rivals were calibrated with, what engines have no figures and why."""
    text(
        f"rivals run the dense net; ranges of int8 from {result['rival_images']}; outputs are off by a part of their spread on "
        "these"
    )
    for row in result["rivals"]:
        if row["problem"] is not None:
            text(f"{row['name']}: {row['problem']}")


def _over(ratio: float, interval: Sequence[float]) -> str:
    return f"{ratio:.2f}x ({interval[0]:.2f} to {interval[1]:.2f})"


def suite_table(result: Json) -> None:
    """Print every form of every net for each batch and thread count, then what must be known to read it."""
    text(f"{result['label']}; ONNX Runtime {result['onnxruntime']}, {result['isa'] or 'no native library'}")
    for batch, threads in dict.fromkeys((row["batch"], row["threads"]) for row in result["rows"]):
        table = new_table(
            "net", "form", "million\nMACs", "stage 1 + 2", "fewer", "than\nwide", "in the\npaper", "ms", "speed-up (95 %)",
            "over the\nbest other", "rea-\nlised", "peak\nmemory", "file", left=2,
            title=f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}",
        )  # fmt: skip
        for row in result["rows"]:
            if (row["batch"], row["threads"]) == (batch, threads):
                table.add_row(*_suite_row(row))
        text("")
        # The table is wider than many terminals: it had better be wrapped than cut.
        show_table(table, whole_lines=True)
    text("")
    for line in result["notes"]:
        text(line)


def _suite_row(row: Json) -> list[str]:
    lookup = "macs_stage1" in row
    stages = f"{row['macs_stage1'] / 1e6:.1f} + {row['macs_stage2'] / 1e6:.1f}" if lookup else ""
    ratios = [row.get(key) for key in ("macs_ratio_wide", "published_ratio")]
    return [
        row["net"], row["setting"] or row["form"], f"{row['macs'] / 1e6:.1f}", stages,
        f"{row['macs_ratio']:.2f}x" if lookup else "", *("" if ratio is None else f"{ratio:.1f}x" for ratio in ratios),
        f"{row['latency_ms_p50']:.2f}",
        "" if row["form"] == DENSE.name else _over(row["speedup_p50"], row["speedup_ci95"]),
        f"{row['best_other']['speedup_p50']:.2f}x" if lookup else "",
        f"{row['realised_fraction']:.2f}" if lookup else "", size(row["peak_rss_bytes"]), size(row["file_bytes"]),
    ]  # fmt: skip


def _times(ratio: float, better: str, worse: str) -> str:
    """Say a ratio dense / lookup in words."""
    return f"{ratio:.2f}x {better}" if ratio >= 1 else f"{1 / ratio:.2f}x {worse}"


def _realised(fraction: float) -> str:
    """Say how much of the cut in MACs is seen in time; narrow numbers make what is left faster."""
    return f"{100 * fraction:.0f} % of that realised" if fraction <= 1 else f"and each {fraction:.2f}x faster"


def bench_layers(rows: Sequence[Json]) -> None:
    """Print MACs and milliseconds of each layer."""
    table = new_table("layer", "kind", *pair_titles(rows), left=2)
    for row in rows:
        table.add_row(
            row["name"], row["kind"], pair(row, "macs", "macs_dense", 1e6, 2), pair(row, "lookup_ms", "dense_ms", 1, 3)
        )
    show_table(table)
    reasons(rows)


def quickstart_table(result: Json) -> None:
    """Print dense against lookup for the embedded net."""
    change = f"{result['lookup'] - result['dense']:+.2f} points"
    accuracy = ("accuracy", f"{result['dense']:.2f} %", f"{result['lookup']:.2f} %", change)
    title = f"Fashion-MNIST, {result['n']} test images; batch 1, 1 thread"
    show_table(run_table(result["bench"]["runs"][0], title, [accuracy]))
    text(f"written {result['artefact']}; open {result['artefact']}/report.html for the layers")

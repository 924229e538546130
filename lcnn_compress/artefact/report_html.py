"""The report of a compression as one HTML page: no script, no request to anywhere, every text escaped.

Fields that a report lacks (times without the native library, an accuracy without data) leave a dash or leave their chart out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Row = dict[str, Any]

# Three levels of darkness, so that a print in grey still tells them apart.
DENSE, LOOKUP, SECOND = "#b4bcc6", "#174f86", "#e39a33"
DASH = "\u2013"
CHART_WIDTH, NAME_WIDTH, VALUE_WIDTH, BAR_HEIGHT, GROUP_GAP = 860, 210, 150, 11, 7  # pixels
NAME_CHARACTERS = 32

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #14181d; background: #fff; }
body { max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
p.note, .facts { color: #4a5561; margin: .2rem 0 .6rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d5dae0; text-align: right; white-space: nowrap; }
th { background: #f1f3f6; } .text { text-align: left; } td.reason { white-space: normal; min-width: 9rem; }
.scroll { overflow-x: auto; } tr.dense td { color: #5d6873; } svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: #14181d; }
.key span { display: inline-block; width: .8rem; height: .8rem; margin: 0 .35rem 0 1rem; vertical-align: -1px; }
@media print { body { margin: 0; max-width: none; font-size: 10px; } .scroll { overflow: visible; }
  svg, tr { break-inside: avoid; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


@dataclass(frozen=True)
class _Bar:
    """One bar: its parts from left to right as (colour, length), and the text behind it."""

    parts: Sequence[tuple[str, float]]
    text: str


def html(report: dict[str, Any]) -> str:
    """Return the page for a report (``report.json``).

    Args:
        report: ``layers`` is a list of rows with at least ``name`` and ``kind``; everything else may be missing.
    """
    rows: list[Row] = report.get("layers") or []
    totals: Row = report.get("totals") or {}
    title = f"lcnn report: {report['model']}" if report.get("model") else "lcnn report"
    charts = [_macs_chart(rows), _time_chart(rows), _dictionary_chart(rows), _error_chart(rows)]
    body = [
        f"<h1>{escape(title)}</h1>", _facts(report), "<h2>Totals</h2>", _totals_table(totals, report.get("evaluation")),
        _budget(report.get("budget"), totals), *charts, "<h2>Layers</h2>", _layer_table(rows),
        _settings(report.get("settings")),
    ]  # fmt: skip
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    page = "\n".join(part for part in body if part)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{page}\n</body></html>\n'


def _facts(report: dict[str, Any]) -> str:
    machine = report.get("machine") or {}
    facts = {
        "command": report.get("command"), "date": report.get("date"), "input": _by(report.get("input_shape")),
        **{key: machine[key] for key in machine},
    }  # fmt: skip
    shown = " \u00b7 ".join(
        f"{escape(str(key))}: {escape(str(value))}" for key, value in facts.items() if value not in (None, "")
    )
    return f'<p class="facts">{shown}</p>' if shown else ""


def _totals_table(totals: Row, evaluation: Row | None) -> str:
    lines: list[tuple[str, float | None, float | None, Callable[[float | None], str]]] = [
        ("MACs of one image", totals.get("macs_dense"), totals.get("macs"), _count),
        ("weights", totals.get("weight_bytes_dense"), totals.get("weight_bytes"), _size),
        ("median time of one image", totals.get("dense_ms"), totals.get("lookup_ms"), _ms),
    ]
    cells = [
        _cells((name, show(dense), show(now), f"{dense / now:.2f}\u00d7" if dense and now else DASH), texts=1)
        for name, dense, now, show in lines
        if dense is not None or now is not None
    ]
    if evaluation:
        dense, now = evaluation.get("dense"), evaluation.get("lookup")
        change = f"change {now - dense:+.2f}" if dense is not None and now is not None else DASH
        name = str(evaluation.get("metric", "score")) + (f" on {evaluation['n']} examples" if evaluation.get("n") else "")
        cells.append(_cells((name, _number(dense), _number(now), change), texts=1))
    note = "" if totals.get("lookup_ms") is not None else '<p class="note">Times were not measured.</p>'
    if not cells:
        return note
    return _table(("", "dense", "now", "dense \u00f7 now"), cells, texts=1) + note


def _budget(budget: Row | None, totals: Row) -> str:
    """Return what was asked for, what was foreseen and what came of it; nothing where no target was given."""
    if not budget:
        return ""
    asked = ", ".join(f"{kind.replace('_', ' ')} {value:g}" for kind, value in (budget.get("target") or {}).items())
    lines = [
        ("dense \u00f7 now, time", _number(budget.get("predicted_speedup")), _number(totals.get("speedup"))),
        ("MACs of one image", _count(budget.get("predicted_macs")), _count(totals.get("macs"))),
        (f"error of the {budget.get('effects', 'outputs')}", _number(budget.get("predicted_error"), 3),
         _number(budget.get("measured_error"), 3)),
    ]  # fmt: skip
    drop: Row = budget.get("drop") or {}
    if drop:
        interval = f"{_number(drop['value'])} ({_number(drop['low'])} to {_number(drop['high'])})"
        lines.append((f"drop on {drop['n']} held-out images, 95 %", DASH, interval))
    table = _table(("", "predicted", "measured"), [_cells(line, texts=1) for line in lines], texts=1)
    return f"<h2>Target: {escape(asked)}</h2>{table}"


def _layer_table(rows: Sequence[Row]) -> str:
    titles = (
        "layer", "kind", "reason", "shape", "k", "lookups / position", "MACs dense", "MACs now", "ms dense", "ms now",
        "bytes dense", "bytes now", "relative error",
    )  # fmt: skip
    lines = []
    for row in rows:
        cells = (
            str(row.get("name", DASH)), str(row.get("kind", DASH)), str(row.get("reason") or row.get("note") or ""),
            _shape(row), _number(row.get("dictionary_size"), 0), _number(row.get("lookups_per_position")),
            _count(row.get("macs_dense")), _count(row.get("macs")), _number(row.get("dense_ms"), 3),
            _number(row.get("lookup_ms"), 3), _size(row.get("weight_bytes_dense")), _size(row.get("weight_bytes")),
            _number(row.get("relative_error"), 3),
        )  # fmt: skip
        lines.append(_cells(cells, texts=3, kind="dense" if row.get("kind", "dense") == "dense" else "lookup"))
    return f'<div class="scroll">{_table(titles, lines, texts=3)}</div>' if rows else '<p class="note">No layers.</p>'


def _macs_chart(rows: Sequence[Row]) -> str:
    shown = [row for row in rows if row.get("macs_dense") is not None]

    def bars(row: Row) -> list[_Bar]:
        before = _Bar([(DENSE, row["macs_dense"])], _count(row["macs_dense"]))
        macs: int | None = row.get("macs")
        if row.get("kind", "dense") == "dense" or macs is None:
            return [before]
        stage2: int = row.get("macs_stage2") or 0
        text = f"{_count(macs)} ({_count(macs - stage2)} + {_count(stage2)})" if stage2 else _count(macs)
        return [before, _Bar([(LOOKUP, macs - stage2), (SECOND, stage2)], text)]

    keys = ((DENSE, "dense"), (LOOKUP, "stage 1: dictionary"), (SECOND, "stage 2: lookups"))
    return _chart("Where the MACs went", "Multiply-adds for one image.", keys, shown, bars)


def _time_chart(rows: Sequence[Row]) -> str:
    shown = [row for row in rows if row.get("dense_ms") is not None and row.get("lookup_ms") is not None]

    def bars(row: Row) -> list[_Bar]:
        dense, now = row["dense_ms"], row["lookup_ms"]
        ratio = f" ({dense / now:.2f}\u00d7)" if now else ""
        return [_Bar([(DENSE, dense)], _ms(dense)), _Bar([(LOOKUP, now)], _ms(now) + ratio)]

    note = "Time of each layer in ONNX Runtime, changes of layout around lookups included."
    return _chart("Where the milliseconds went", note, ((DENSE, "dense net"), (LOOKUP, "compressed net")), shown, bars)


def _dictionary_chart(rows: Sequence[Row]) -> str:
    shown = [row for row in rows if row.get("rows_used") is not None and row.get("dictionary_size")]

    def bars(row: Row) -> list[_Bar]:
        size = row["dictionary_size"] * row.get("groups", 1)
        used = row["rows_used"]
        unused = max(0.0, 1 - used / size)
        return [_Bar([(LOOKUP, 1 - unused), (DENSE, unused)], f"{used} of {size} rows")]

    return _chart(
        "Dictionary use",
        "Share of the dictionary rows any filter looks up.",
        ((LOOKUP, "used"), (DENSE, "unused")),
        shown,
        bars,
    )


def _error_chart(rows: Sequence[Row]) -> str:
    shown = [row for row in rows if row.get("relative_error") is not None]

    def bars(row: Row) -> list[_Bar]:
        return [_Bar([(LOOKUP, row["relative_error"])], _number(row["relative_error"], 3))]

    return _chart(
        "Relative error", "Distance of the new weight from the dense one, over the norm of the dense one.", (), shown, bars
    )


def _chart(
    title: str, note: str, keys: Sequence[tuple[str, str]], rows: Sequence[Row], bars: Callable[[Row], list[_Bar]]
) -> str:
    """Return horizontal bars, one group for each row, all to one scale; nothing where there are no rows."""
    groups = [(str(row.get("name", DASH)), bars(row)) for row in rows]
    if not groups:
        return ""
    longest = max(sum(length for _, length in bar.parts) for _, group in groups for bar in group) or 1
    unit = (CHART_WIDTH - NAME_WIDTH - VALUE_WIDTH) / longest
    shapes, y = [], 4.0
    for name, group in groups:
        middle = y + BAR_HEIGHT * len(group) / 2 + 4
        short = name if len(name) <= NAME_CHARACTERS else "\u2026" + name[1 - NAME_CHARACTERS :]
        shapes.append(
            f'<text x="{NAME_WIDTH - 8}" y="{middle:.1f}" text-anchor="end">{escape(short)}<title>{escape(name)}</title></text>'
        )
        for bar in group:
            x = float(NAME_WIDTH)
            for colour, length in bar.parts:
                width = max(0.0, length * unit)
                shapes.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR_HEIGHT - 1}" fill="{colour}"></rect>'
                )
                x += width
            shapes.append(
                f'<text x="{x + 5:.1f}" y="{y + BAR_HEIGHT - 2:.1f}" style="font-size:10px">{escape(bar.text)}</text>'
            )
            y += BAR_HEIGHT
        y += GROUP_GAP
    legend = "".join(f'<span style="background:{colour}"></span>{escape(text)}' for colour, text in keys)
    heading = f'<h2>{escape(title)}</h2><p class="note key">{escape(note)}{legend}</p>'
    size = f'viewBox="0 0 {CHART_WIDTH} {y:.0f}" width="{CHART_WIDTH}"'
    return f'{heading}<svg role="img" aria-label="{escape(title)}" {size}>{"".join(shapes)}</svg>'


def _settings(settings: Row | None) -> str:
    if not settings:
        return ""
    lines = [_cells((str(key), str(value)), texts=2) for key, value in settings.items()]
    return "<h2>Settings</h2>" + _table(("setting", "value"), lines, texts=2)


def _table(titles: Sequence[str], lines: Sequence[str], *, texts: int) -> str:
    heads = "".join(f"<th{_TEXT if i < texts else ''}>{escape(title)}</th>" for i, title in enumerate(titles))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


_TEXT = ' class="text"'


def _cells(values: Sequence[str], *, texts: int, kind: str = "") -> str:
    """Return a table row; the first ``texts`` cells are words, the third of them may wrap."""
    classes = [_TEXT if i < texts else "" for i in range(len(values))]
    if texts > 2:
        classes[2] = ' class="text reason"'
    cells = "".join(f"<td{name}>{escape(value)}</td>" for name, value in zip(classes, values, strict=True))
    return f"<tr{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{cells}</tr>"


def _shape(row: Row) -> str:
    """Return "64 \u2192 128, 3x3"."""
    channels = [row.get("in_channels"), row.get("out_channels")]
    text = " \u2192 ".join(DASH if c is None else str(c) for c in channels)
    return text + (f", {_by(row['kernel'])}" if row.get("kernel") else "")


def _by(sizes: Sequence[int] | None) -> str:
    return "\u00d7".join(str(size) for size in sizes or ())


def _number(value: float | None, digits: int = 2) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _ms(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f} ms"


def _count(value: float | None) -> str:
    return _scaled(value, 1000, ("", " k", " M", " G"))


def _size(value: float | None) -> str:
    return _scaled(value, 1024, (" B", " KiB", " MiB", " GiB"))


def _scaled(value: float | None, base: int, units: Sequence[str]) -> str:
    if value is None:
        return DASH
    step = 0
    while step < len(units) - 1 and value >= base:
        value, step = value / base, step + 1
    return (
        f"{value:.0f}{units[0]}" if step == 0 else f"{value:.3g}{units[step]}" if value < 100 else f"{value:.0f}{units[step]}"
    )

"""The report of a compression as one HTML page: no script, no request to anywhere, every text escaped.

Where a report lacks something (times without the native library, lookups of a dense layer) the page has a dash or no chart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lcnn_compress.artefact.printable import printable
from lcnn_compress.artefact.report import Json, LayerReport, Report, Totals, TrainingReport

# Three levels of darkness, so that a print in grey still tells them apart.
DENSE, LOOKUP, SECOND = "#b4bcc6", "#174f86", "#e39a33"
DASH = "\u2013"
CHART_WIDTH, NAME_WIDTH, VALUE_WIDTH, BAR_HEIGHT, GROUP_GAP = 860, 210, 150, 11, 7  # pixels
NAME_CHARACTERS = 32
CURVE_HEIGHT, CURVE_MARGIN = 180, 20  # pixels

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #14181d; background: #fff; }
body { max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
p.note, .facts { color: #4a5561; margin: .2rem 0 .6rem; } h1, .facts { overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d5dae0; text-align: right; white-space: nowrap; }
th { background: #f1f3f6; } .text { text-align: left; } td.reason { white-space: normal; min-width: 9rem; }
td.value { white-space: normal; overflow-wrap: anywhere; }
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


def html(report: Report) -> str:
    """Return the page for a report."""
    title = f"lcnn report: {report.model_name}" if report.model_name else "lcnn report"
    rows = report.layers
    charts = [_macs_chart(rows), _time_chart(rows), _dictionary_chart(rows), _error_chart(rows)]
    body = [
        f"<h1>{_escaped(title)}</h1>", _facts(report), "<h2>Totals</h2>", _totals_table(report.totals),
        _budget(report.budget, report.totals), *charts, _training(report.training), "<h2>Layers</h2>", _layer_table(rows),
        _settings(report.settings),
    ]  # fmt: skip
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_escaped(title)}</title>'
    page = "\n".join(part for part in body if part)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{page}\n</body></html>\n'


def _escaped(text: str) -> str:
    """Return text that is nothing but text on the page, in attributes too."""
    return escape(printable(text))


def _facts(report: Report) -> str:
    facts = {
        "command": report.command, "model": report.model, "date": report.date, "input": _by(report.input_shape),
        **report.machine,
    }  # fmt: skip
    shown = " \u00b7 ".join(
        f"{_escaped(str(key))}: {_escaped(str(value))}" for key, value in facts.items() if value not in (None, "")
    )
    return f'<p class="facts">{shown}</p>'


def _totals_table(totals: Totals) -> str:
    lines: list[tuple[str, float | None, float | None, Callable[[float | None], str]]] = [
        ("MACs of one image", totals.macs_dense, totals.macs, _count),
        ("weights", totals.weight_bytes_dense, totals.weight_bytes, _size),
        ("median time of one image", totals.dense_ms, totals.lookup_ms, _ms),
    ]
    cells = [
        _cells((name, show(dense), show(now), f"{dense / now:.2f}\u00d7" if dense and now else DASH), texts=1)
        for name, dense, now, show in lines
        if now is not None
    ]
    note = "" if totals.lookup_ms is not None else '<p class="note">Times were not measured.</p>'
    return _table(("", "dense", "now", "dense \u00f7 now"), cells, texts=1) + note


def _budget(budget: Json | None, totals: Totals) -> str:
    """Return what was asked for, what was foreseen and what came of it, or nothing where no target was given."""
    if not budget:
        return ""
    asked = ", ".join(f"{kind.replace('_', ' ')} {value:g}" for kind, value in (budget.get("target") or {}).items())
    lines = [
        ("dense \u00f7 now, time", _number(budget.get("predicted_speedup")), _number(totals.speedup)),
        ("MACs of one image", _count(budget.get("predicted_macs")), _count(totals.macs)),
        (f"error of the {budget.get('effects', 'outputs')}", _number(budget.get("predicted_error"), 3),
         _number(budget.get("measured_error"), 3)),
    ]  # fmt: skip
    if drop := budget.get("drop"):
        interval = f"{_number(drop['value'])} ({_number(drop['low'])} to {_number(drop['high'])})"
        lines.append((f"drop on {drop['n']} held-out images, 95 %", DASH, interval))
    table = _table(("", "predicted", "measured"), [_cells(line, texts=1) for line in lines], texts=1)
    return f"<h2>Target: {_escaped(asked)}</h2>{table}"


def _layer_table(rows: Sequence[LayerReport]) -> str:
    titles = (
        "layer", "kind", "reason", "shape", "k", "lookups / position", "MACs dense", "MACs now", "ms dense", "ms now",
        "bytes dense", "bytes now", "relative error",
    )  # fmt: skip
    lines = []
    for row in rows:
        cells = (
            row.name, row.kind, row.reason or row.note, _shape(row), _number(row.dictionary_size, 0),
            _number(row.lookups_per_position), _count(row.macs_dense), _count(row.macs), _number(row.dense_ms, 3),
            _number(row.lookup_ms, 3), _size(row.weight_bytes_dense), _size(row.weight_bytes), _number(row.relative_error, 3),
        )  # fmt: skip
        lines.append(_cells(cells, texts=3, kind="lookup" if row.form.is_coded else "dense"))
    return f'<div class="scroll">{_table(titles, lines, texts=3)}</div>' if rows else '<p class="note">No layers.</p>'


def _macs_chart(rows: Sequence[LayerReport]) -> str:
    def bars(row: LayerReport) -> list[_Bar]:
        before = _Bar([(DENSE, row.macs_dense)], _count(row.macs_dense))
        if not row.form.is_coded:
            return [before]
        stage2 = row.macs_stage2 or 0
        stage1 = row.macs - stage2
        text = f"{_count(row.macs)} ({_count(stage1)} + {_count(stage2)})" if stage2 else _count(row.macs)
        return [before, _Bar([(LOOKUP, stage1), (SECOND, stage2)], text)]

    keys = ((DENSE, "dense"), (LOOKUP, "stage 1: dictionary"), (SECOND, "stage 2: lookups"))
    return _chart("Where the MACs went", "Multiply-adds for one image.", keys, [(row.name, bars(row)) for row in rows])


def _time_chart(rows: Sequence[LayerReport]) -> str:
    def bars(dense: float, now: float) -> list[_Bar]:
        ratio = f" ({dense / now:.2f}\u00d7)" if now else ""
        return [_Bar([(DENSE, dense)], _ms(dense)), _Bar([(LOOKUP, now)], _ms(now) + ratio)]

    groups = [
        (row.name, bars(row.dense_ms, row.lookup_ms)) for row in rows if row.dense_ms is not None and row.lookup_ms is not None
    ]
    note = "Time of each layer in ONNX Runtime, changes of layout around lookups included."
    return _chart("Where the milliseconds went", note, ((DENSE, "dense net"), (LOOKUP, "compressed net")), groups)


def _dictionary_chart(rows: Sequence[LayerReport]) -> str:
    def bars(used: int, size: int) -> list[_Bar]:
        unused = max(0.0, 1 - used / size)
        return [_Bar([(LOOKUP, 1 - unused), (DENSE, unused)], f"{used} of {size} rows")]

    groups = [
        (row.name, bars(row.rows_used, row.dictionary_size * row.groups))
        for row in rows
        if row.rows_used is not None and row.dictionary_size
    ]
    note = "Share of the dictionary rows any filter looks up."
    return _chart("Dictionary use", note, ((LOOKUP, "used"), (DENSE, "unused")), groups)


def _error_chart(rows: Sequence[LayerReport]) -> str:
    errors = [(row.name, row.relative_error) for row in rows if row.relative_error is not None]
    groups = [(name, [_Bar([(LOOKUP, error)], _number(error, 3))]) for name, error in errors]
    note = "Distance of the new weight from the dense one, over the norm of the dense one."
    return _chart("Relative error", note, (), groups)


def _chart(title: str, note: str, keys: Sequence[tuple[str, str]], groups: Sequence[tuple[str, Sequence[_Bar]]]) -> str:
    """Return horizontal bars, one group for each name, all to one scale, or nothing where there are none."""
    if not groups:
        return ""
    longest = max(sum(length for _, length in bar.parts) for _, group in groups for bar in group) or 1
    unit = (CHART_WIDTH - NAME_WIDTH - VALUE_WIDTH) / longest
    shapes, y = [], 4.0
    for name, group in groups:
        middle = y + BAR_HEIGHT * len(group) / 2 + 4
        short = name if len(name) <= NAME_CHARACTERS else "\u2026" + name[1 - NAME_CHARACTERS :]
        shapes.append(
            f'<text x="{NAME_WIDTH - 8}" y="{middle:.1f}" text-anchor="end">{_escaped(short)}'
            f"<title>{_escaped(name)}</title></text>"
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
                f'<text x="{x + 5:.1f}" y="{y + BAR_HEIGHT - 2:.1f}" style="font-size:10px">{_escaped(bar.text)}</text>'
            )
            y += BAR_HEIGHT
        y += GROUP_GAP
    legend = "".join(f'<span style="background:{colour}"></span>{_escaped(text)}' for colour, text in keys)
    heading = f'<h2>{_escaped(title)}</h2><p class="note key">{_escaped(note)}{legend}</p>'
    size = f'viewBox="0 0 {CHART_WIDTH} {y:.0f}" width="{CHART_WIDTH}"'
    return f'{heading}<svg role="img" aria-label="{_escaped(title)}" {size}>{"".join(shapes)}</svg>'


def _training(training: TrainingReport | None) -> str:
    """Return the loss of each epoch as a curve, or nothing where nothing was trained."""
    if training is None or not training.losses:
        return ""
    losses = training.losses
    low, high = min(losses), max(losses)
    across = (CHART_WIDTH - NAME_WIDTH) / max(1, len(losses) - 1)
    places = [
        (CURVE_MARGIN + 70 + i * across,
         CURVE_MARGIN + (CURVE_HEIGHT - 2 * CURVE_MARGIN) * ((high - loss) / (high - low) if high > low else 0.5))
        for i, loss in enumerate(losses)
    ]  # fmt: skip
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    shapes = [f'<polyline points="{line}" fill="none" stroke="{LOOKUP}" stroke-width="2"></polyline>']
    for number, (loss, (x, y)) in enumerate(zip(losses, places, strict=True), 1):
        shapes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{LOOKUP}"><title>epoch {number}: {loss:.4g}</title></circle>'
        )
    ends = {losses.index(high): high, losses.index(low): low, len(losses) - 1: losses[-1]}
    shapes += [
        f'<text x="{places[i][0] + 7:.1f}" y="{places[i][1] - 6:.1f}" style="font-size:10px">{loss:.4g}</text>'
        for i, loss in ends.items()
    ]
    title, count = "Training", f"{len(losses)} epoch{'s' if len(losses) > 1 else ''}, {training.steps:,} steps"
    note = f'<p class="note">Mean loss of each epoch; {count}. From {losses[0]:.4g} to {losses[-1]:.4g}.</p>'
    size = f'viewBox="0 0 {CHART_WIDTH} {CURVE_HEIGHT}" width="{CHART_WIDTH}"'
    return f'<h2>{title}</h2>{note}<svg role="img" aria-label="{title}: loss of each epoch" {size}>{"".join(shapes)}</svg>'


def _settings(settings: Json | None) -> str:
    """Return a row for each setting, nested ones by their path; what was decided for layers stands in the table of layers."""
    if not settings:
        return ""
    lines = [
        f'<tr><td class="text">{_escaped(name)}</td><td class="text value">{_escaped(_said(value))}</td></tr>'
        for name, value in _flat(settings)
        if name != "layers"
    ]
    note = '<p class="note">As in config.json, which also holds what was decided for each layer.</p>'
    return f"<h2>Settings</h2>{note}{_table(('setting', 'value'), lines, texts=2)}"


def _flat(settings: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value): ``{"finetune": {"epochs": 3}}`` gives ``("finetune.epochs", 3)``."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _said(value: Any) -> str:
    match value:
        case None:
            return DASH
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(_said, value))
    return str(value)


def _table(titles: Sequence[str], lines: Sequence[str], *, texts: int) -> str:
    heads = "".join(f"<th{_TEXT if i < texts else ''}>{_escaped(title)}</th>" for i, title in enumerate(titles))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


_TEXT = ' class="text"'


def _cells(values: Sequence[str], *, texts: int, kind: str = "") -> str:
    """Return a table row; the first ``texts`` cells are words, the third of them may wrap."""
    classes = [_TEXT if i < texts else "" for i in range(len(values))]
    if texts > 2:
        classes[2] = ' class="text reason"'
    cells = "".join(f"<td{name}>{_escaped(value)}</td>" for name, value in zip(classes, values, strict=True))
    return f"<tr{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{cells}</tr>"


def _shape(row: LayerReport) -> str:
    """Return "64 \u2192 128, 3\u00d73"."""
    return f"{row.in_channels} \u2192 {row.out_channels}, {_by(row.kernel)}"


def _by(sizes: Sequence[int]) -> str:
    return "\u00d7".join(map(str, sizes))


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

"""The HTML report: well formed, complete, escaped, self-contained, and right when fields are missing."""

from __future__ import annotations

import copy
import math
from html.parser import HTMLParser
from typing import Any

import pytest

from lcnn_compress.artefact.report_html import html

VOID = {"meta", "br", "hr", "img", "link", "input"}

REPORT: dict[str, Any] = {
    "model": "tiny", "command": "compress", "date": "2026-01-02", "input_shape": [1, 3, 8, 8], "settings": {"seed": 7},
    "layers": [
        {"name": "stem", "type": "Conv2d", "kind": "dense", "reason": "first layer", "in_channels": 3, "out_channels": 16,
         "kernel": [3, 3], "macs_dense": 27_648, "macs": 27_648, "weight_bytes_dense": 1792, "weight_bytes": 1792,
         "dense_ms": 0.25, "lookup_ms": 0.25},
        {"name": "block.conv1", "type": "Conv2d", "kind": "lookup", "reason": "", "in_channels": 16, "out_channels": 32,
         "kernel": [3, 5], "dictionary_size": 4, "n_nonzeros": 48, "lookups_per_position": 0.1, "macs_dense": 491_520,
         "macs_stage1": 4096, "macs_stage2": 3072, "macs": 7168, "weight_bytes_dense": 30_848, "weight_bytes": 528,
         "relative_error": 0.125, "rows_used": 3, "dense_ms": 2.0, "lookup_ms": 0.5},
    ],
    "totals": {"macs_dense": 519_168, "macs": 34_816, "macs_ratio": 14.9, "weight_bytes_dense": 32_640, "weight_bytes": 2320,
               "dense_ms": 2.25, "lookup_ms": 0.75, "speedup": 3.0},
    "evaluation": {"metric": "top1_percent", "dense": 91.5, "lookup": 90.25, "n": 500},
    "machine": {"cpu": "Test CPU", "isa": "avx2"},
}  # fmt: skip


class Page(HTMLParser):
    """Reads a page, checks that tags close in order, and keeps its text, table cells and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.bars: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag == "rect":
            self.bars.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self.open:
            self.texts.append(data.strip())


def test_the_page_is_balanced_and_shows_what_was_done() -> None:
    page = Page(html(REPORT))
    assert page.seen.count("svg") == 4
    for text in (
        "lcnn report: tiny",
        "block.conv1",
        "16 \u2192 32, 3\u00d75",
        "first layer",
        "3 of 4 rows",
        "0.125",
        "seed",
        "7",
    ):
        assert text in page.texts, text
    facts = (
        "command: compress \u00b7 date: 2026-01-02 \u00b7 input: 1\u00d73\u00d78\u00d78 \u00b7 cpu: Test CPU \u00b7 isa: avx2"
    )
    assert facts in page.texts


def test_totals_are_dense_over_now() -> None:
    texts = Page(html(REPORT)).texts
    # 519168 / 34816, 32640 / 2320, 2.25 / 0.75
    for line in (
        ["MACs of one image", "519 k", "34.8 k", "14.91\u00d7"], ["weights", "31.9 KiB", "2.27 KiB", "14.07\u00d7"],
        ["median time of one image", "2.250 ms", "0.750 ms", "3.00\u00d7"],
        ["top1_percent on 500 examples", "91.50", "90.25", "change -1.25"],
    ):  # fmt: skip
        start = texts.index(line[0])
        assert texts[start : start + 4] == line


def test_bars_are_in_proportion() -> None:
    """First chart: stem 27648, block.conv1 491520, then its two stages 4096 and 3072; the longest fills the width."""
    widths = [float(bar["width"] or "nan") for bar in Page(html(REPORT)).bars[:4]]
    full = widths[1]
    expected = [full * macs / 491_520 for macs in (27_648, 491_520, 4096, 3072)]
    assert all(abs(width - want) <= 0.05 for width, want in zip(widths, expected, strict=True))  # written with one digit


def test_the_use_of_grouped_dictionaries_counts_the_rows_of_all_groups() -> None:
    report = copy.deepcopy(REPORT)
    report["layers"][1] |= {"groups": 2, "rows_used": 7}
    assert "7 of 8 rows" in Page(html(report)).texts


def test_text_from_outside_is_escaped() -> None:
    evil = "<script>alert('x')</script>\"&"
    report = copy.deepcopy(REPORT)
    report |= {"model": evil, "command": evil, "settings": {evil: evil}, "machine": {evil: evil}}
    report["layers"][1] |= {"name": evil, "reason": evil, "kind": "lookup"}
    report["layers"][0] |= {"kind": evil}
    report["evaluation"]["metric"] = evil
    text = html(report)
    assert "<script" not in text
    page = Page(text)
    assert "script" not in page.seen
    assert page.texts.count(evil) >= 5  # layer table and each chart show the name as it is


@pytest.mark.parametrize("report", [REPORT, {}])
def test_the_page_asks_nobody_for_anything(report: dict[str, Any]) -> None:
    text = html(report)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.seen)
    assert not {"src", "href", "srcset", "action"} & {name for name, _ in page.attributes}


def without(report: dict[str, Any], *names: str) -> dict[str, Any]:
    report = copy.deepcopy(report)
    for part in (report, report["totals"], *report["layers"]):
        for name in names:
            part.pop(name, None)
    return report


@pytest.mark.parametrize(
    ("names", "charts"),
    [
        ((), 4),
        (("dense_ms", "lookup_ms"), 3),
        (("rows_used", "relative_error"), 2),
        (("macs_stage1", "macs_stage2"), 4),
        (("evaluation", "machine", "settings", "date", "model", "command", "input_shape", "totals"), 4),
        (("macs_dense", "macs", "dictionary_size", "kernel", "in_channels"), 2),
        (("layers",), 0),
    ],
)
def test_missing_fields_leave_gaps_not_errors(names: tuple[str, ...], charts: int) -> None:
    page = Page(html(without(REPORT, *names)))
    assert page.seen.count("svg") == charts
    assert not {"None", "nan"} & set(page.texts)
    assert ("Times were not measured." in page.texts) == bool({"dense_ms", "totals"} & set(names))


def test_every_field_may_be_none() -> None:
    layers = [{key: value if key in ("name", "kind") else None for key, value in row.items()} for row in REPORT["layers"]]
    page = Page(html(dict.fromkeys(REPORT) | {"layers": layers, "totals": dict.fromkeys(REPORT["totals"])}))
    assert "block.conv1" in page.texts
    assert "None" not in " ".join(page.texts)


def test_zeros_draw_no_broken_bars() -> None:
    report = copy.deepcopy(REPORT)
    for row in report["layers"]:
        row |= {key: 0 for key, value in row.items() if isinstance(value, int | float)}
    for bar in Page(html(report)).bars:
        assert math.isfinite(float(bar["width"] or "nan"))


def test_a_long_name_is_shortened_in_charts_and_whole_in_its_title() -> None:
    report = copy.deepcopy(REPORT)
    name = "encoder.stage." * 10 + "conv"
    report["layers"][1]["name"] = name
    texts = Page(html(report)).texts
    assert "\u2026" + name[-31:] in texts
    assert name in texts


def test_a_target_shows_what_was_foreseen_and_what_came_of_it() -> None:
    drop = {"value": 0.25, "low": -0.3, "high": 0.8, "n": 1200}
    budget = {
        "target": {"max_drop": 0.5}, "effects": "outputs", "predicted_speedup": 1.6, "predicted_macs": 16_900_000,
        "predicted_error": 0.135, "measured_error": 0.124, "drop": drop,
    }  # fmt: skip
    page = html(REPORT | {"budget": budget})
    assert "<h2>Target: max drop 0.5</h2>" in page
    for text in ("<td>1.60</td>", "<td>16.9 M</td>", "<td>0.135</td><td>0.124</td>", "<td>0.25 (-0.30 to 0.80)</td>"):
        assert text in page
    assert "Target:" not in html(REPORT)

"""The HTML report: well formed, complete, escaped, self-contained, and right when fields are missing."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest
from hostile import TEXTS, is_safe
from report_cases import CONV, REPORT, STEM, TOTALS

from lcnn_compress.artefact.report import LayerReport, Report, TrainingReport
from lcnn_compress.artefact.report_html import html

VOID = {"meta", "br", "hr", "img", "link", "input"}


def of(*layers: LayerReport, **changes: object) -> Report:
    return replace(REPORT, layers=layers or REPORT.layers, **changes)  # type: ignore[arg-type]


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


def test_the_losses_of_training_are_a_curve() -> None:
    page = Page(html(of(training=TrainingReport(steps=1200, losses=(0.5, 0.75, 0.25), nonzeros={}))))
    assert page.seen.count("svg") == 5
    assert "Mean loss of each epoch; 3 epochs, 1,200 steps. From 0.5 to 0.25." in page.texts
    (line,) = [value for name, value in page.attributes if name == "points" and value]
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert heights == [90.0, 20.0, 160.0]  # the largest loss is at the top
    assert [text for text in page.texts if text.startswith("epoch ")] == ["epoch 1: 0.5", "epoch 2: 0.75", "epoch 3: 0.25"]
    assert [page.texts.count(text) for text in ("0.75", "0.25")] == [1, 1]
    one = Page(html(of(training=TrainingReport(7, (0.5,), {}))))
    assert "Mean loss of each epoch; 1 epoch, 7 steps. From 0.5 to 0.5." in one.texts
    assert Page(html(of(training=TrainingReport(0, (), {})))).seen.count("svg") == 4


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
        "command: compress \u00b7 model: ../nets/tiny.pt \u00b7 date: 2026-01-02T03:04:05+00:00 "
        "\u00b7 input: 1\u00d73\u00d78\u00d78 \u00b7 cpu: Test CPU \u00b7 isa: avx2"
    )
    assert facts in page.texts


def test_totals_are_dense_over_now() -> None:
    texts = Page(html(REPORT)).texts
    # 519168 / 34816, 32640 / 2320, 2.25 / 0.75
    for line in (
        ["MACs of one image", "519 k", "34.8 k", "14.91\u00d7"], ["weights", "31.9 KiB", "2.27 KiB", "14.07\u00d7"],
        ["median time of one image", "2.250 ms", "0.750 ms", "3.00\u00d7"],
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
    assert "7 of 8 rows" in Page(html(of(replace(CONV, groups=2, rows_used=7)))).texts


def test_text_from_outside_is_escaped() -> None:
    evil = "<script>alert('x')</script>\"&"
    layers = replace(STEM, name=evil, reason=evil), replace(CONV, name=evil)
    text = html(of(*layers, model=evil, settings={evil: {evil: [evil]}}, machine={evil: evil}, budget={"effects": evil}))
    assert "<script" not in text
    page = Page(text)
    assert "script" not in page.seen
    assert page.texts.count(evil) >= 5  # layer table and each chart show the name as it is


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_from_outside_is_only_text(text: str) -> None:
    layers = replace(STEM, name=text, reason=text), replace(CONV, name=text, note=text)
    budget = {"target": {text: 1.0}, "effects": text}
    report = of(
        *layers, model=text, settings={text: {text: [text]}}, machine={text: text}, budget=budget, date=text, command=text
    )
    page = html(report)
    page.encode()
    assert is_safe(page)
    shown, usual = Page(page), Page(html(of(budget={"effects": "outputs"})))
    assert shown.seen == usual.seen
    assert {name for name, _ in shown.attributes} == {name for name, _ in usual.attributes}


def test_the_page_asks_nobody_for_anything() -> None:
    text = html(REPORT)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.seen)
    assert not {"src", "href", "srcset", "action"} & {name for name, _ in page.attributes}


def test_the_title_is_the_name_of_the_model_and_its_path_stands_below() -> None:
    path = "../lib/python3.12/site-packages/lcnn_compress/embedded/fashion_resnet.safetensors"
    page = html(of(model=path))
    assert "<h1>lcnn report: fashion_resnet</h1>" in page
    assert "<title>lcnn report: fashion_resnet</title>" in page
    assert f"model: {path} " in page
    assert "<h1>lcnn report</h1>" in html(of(model=None))


def test_nested_settings_are_rows_and_wrap() -> None:
    settings = {
        "init": "kmeans", "input_shape": [1, 3, 8, 8], "finetune": {"epochs": 3, "distill": True}, "data": None,
        "layers": [{"name": "stem", "kind": "dense"}],
    }  # fmt: skip
    page = html(of(settings=settings))
    shown = page[page.index("<h2>Settings</h2>") :]
    texts = Page(shown.replace("</body></html>", "")).texts
    rows = ["init", "kmeans", "input_shape", "1, 3, 8, 8", "finetune.epochs", "3", "finetune.distill", "yes", "data", "\u2013"]
    assert texts[texts.index("init") :][: len(rows)] == rows
    assert "stem" not in shown  # the layers are in a table of their own
    assert "{" not in shown
    assert shown.count('<td class="text value">') == 5
    assert "td.value { white-space: normal; overflow-wrap: anywhere; }" in page


def without(*names: str) -> Report:
    """Return the report with these values unknown, of the layers and the totals too."""

    def unknown(part: Report | LayerReport) -> dict[str, None]:
        return {field.name: None for field in fields(part) if field.name in names}

    layers = tuple(replace(row, **unknown(row)) for row in REPORT.layers)
    return replace(REPORT, layers=layers, totals=replace(TOTALS, **unknown(TOTALS)), **unknown(REPORT))


@pytest.mark.parametrize(
    ("names", "charts"),
    [
        ((), 4),
        (("dense_ms", "lookup_ms"), 3),
        (("rows_used", "relative_error"), 2),
        (("macs_stage1", "macs_stage2"), 4),
        (("settings", "date", "model"), 4),
        (("dictionary_size", "lookups_per_position"), 3),
    ],
)
def test_what_is_not_known_leaves_gaps_not_errors(names: tuple[str, ...], charts: int) -> None:
    page = Page(html(without(*names)))
    assert page.seen.count("svg") == charts
    assert not {"None", "nan"} & set(page.texts)
    assert ("Times were not measured." in page.texts) == ("dense_ms" in names)


def test_a_net_without_layers_has_no_charts() -> None:
    page = Page(html(replace(REPORT, layers=())))
    assert "svg" not in page.seen
    assert "No layers." in page.texts


def test_zeros_draw_no_broken_bars() -> None:
    zeros = {"macs_dense": 0, "macs": 0, "macs_stage1": 0, "macs_stage2": 0, "dense_ms": 0.0, "lookup_ms": 0.0, "rows_used": 0}
    bars = Page(html(of(replace(CONV, relative_error=0.0, **zeros)))).bars
    assert len(bars) == 3 + 2 + 2 + 1
    for bar in bars:
        assert math.isfinite(float(bar["width"] or "nan"))


def test_a_long_name_is_shortened_in_charts_and_whole_in_its_title() -> None:
    name = "encoder.stage." * 10 + "conv"
    texts = Page(html(of(STEM, replace(CONV, name=name)))).texts
    assert "\u2026" + name[-31:] in texts
    assert name in texts


def test_a_target_shows_what_was_foreseen_and_what_came_of_it() -> None:
    drop = {"value": 0.25, "low": -0.3, "high": 0.8, "n": 1200}
    budget = {
        "target": {"max_drop": 0.5}, "effects": "outputs", "predicted_speedup": 1.6, "predicted_macs": 16_900_000,
        "predicted_error": 0.135, "measured_error": 0.124, "drop": drop,
    }  # fmt: skip
    page = html(of(budget=budget))
    assert "<h2>Target: max drop 0.5</h2>" in page
    for text in ("<td>1.60</td>", "<td>16.9 M</td>", "<td>0.135</td><td>0.124</td>", "<td>0.25 (-0.30 to 0.80)</td>"):
        assert text in page
    assert "Target:" not in html(REPORT)

"""RESULTS.md: what is committed is what the JSON files give, and a difference is seen."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def make_results() -> Any:
    return importlib.import_module("make_results")


@pytest.fixture
def tables(make_results: Any) -> Any:
    return importlib.import_module("results_tables")


def test_the_committed_page_is_what_the_files_give(make_results: Any) -> None:
    assert (EXAMPLES / "RESULTS.md").read_text() == make_results.page(make_results.read(EXAMPLES / "results"))


def test_every_file_of_results_is_on_the_page(make_results: Any) -> None:
    text = make_results.page(make_results.read(EXAMPLES / "results"))
    names = [path.name for path in (EXAMPLES / "results").iterdir()]
    assert len(names) > 5
    assert [name for name in names if f"(results/{name})" not in text] == []


def test_check_ends_with_one_where_the_page_differs(
    make_results: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "RESULTS.md"
    check = ["--check", "--output", str(path)]
    assert make_results.main(check) == 1
    assert make_results.main(["--output", str(path)]) == 0
    assert make_results.main(check) == 0
    path.write_text(path.read_text().replace("93.79", "93.97"))
    assert make_results.main(check) == 1
    assert f"{path}: is not what results/ gives; run python examples/make_results.py" in capsys.readouterr().err


def test_what_a_file_does_not_say_is_not_invented(tables: Any) -> None:
    assert tables.origin("new.json", {}) == [
        "",
        "[new.json](results/new.json). Date: not recorded. Machine: not recorded.",
        "",
    ]


def test_scores_and_speeds_come_with_their_spread(tables: Any) -> None:
    assert tables.score_text([90.0, 92.0, 91.6]) == "91.20 (90.00 to 92.00, 3 seeds)"
    assert tables.score_text([90.0]) == "90.00 (one seed)"
    assert tables.speed({"speedup_p50": 2.5, "speedup_ci95": [2.25, 2.75]}) == "2.50x (2.25 to 2.75)"
    cells = tables.target_cells({
        "net": "net", "asked": {"max_drop": 0.5}, "predicted_speedup": 2.0, "speedup_p50": 2.5, "speedup_ci95": [2.25, 2.75],
        "macs_ratio": 3.0, "drop": {"value": 0.4, "low": 0.1, "high": 0.7, "n": 5000}, "seconds": 7.2,
    })  # fmt: skip
    assert cells[:5] == ["net", "`--max-drop 0.5`", "2.00x", "2.50x (2.25 to 2.75)", "3.00x"]
    assert cells[5:] == ["", "0.40 (0.10 to 0.70), 5,000 images", "7"]


def test_rivals_of_the_suite_have_their_own_rows(tables: Any) -> None:
    rest = {"net": "n", "threads": 1, "macs_ratio": 1, "latency_ms_p50": 2, "peak_rss_bytes": 0, "file_bytes": 0}
    rest |= {"speedup_p50": 1.5, "speedup_ci95": [1.4, 1.6]}
    forms = ("dense", None), ("int8", None), ("openvino", None), ("OpenVINO bfloat16", None), ("lookup", "10x")
    lines = tables.paper_table([{**rest, "form": form, "setting": setting} for form, setting in forms])
    assert [line.split("|")[2].strip() for line in lines if line.startswith("| n ")] == [
        "dense, ONNX Runtime", "int8, ONNX Runtime", "dense, OpenVINO", "OpenVINO bfloat16", "10x",
    ]  # fmt: skip


def test_a_target_is_shown_beside_the_best_other_form(tables: Any) -> None:
    best = {"name": "OpenVINO int8", "speedup_p50": 0.5, "speedup_ci95": [0.45, 0.55]}
    cells = tables.target_cells({
        "net": "net", "asked": {"speedup": 3}, "predicted_speedup": 3.1, "speedup_p50": 3, "speedup_ci95": [2.9, 3.1],
        "macs_ratio": 5, "accuracy_percent": 92.5, "seconds": 7.2, "best_other": best,
    })  # fmt: skip
    assert cells[5:] == ["92.50 %", "", "7", "0.50x (0.45 to 0.55), OpenVINO int8"]

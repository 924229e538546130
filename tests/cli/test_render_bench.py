"""What ``lcnn bench`` says of forms that were timed, of rivals that were not, and of who wins. The times are given."""

from __future__ import annotations

from typing import Any

import pytest

from lcnn_compress.cli import render_bench

OURS = {f"latency_ms_{key}": 2.0 for key in ("p50", "p90", "p99", "min")}
NET = {**OURS, "throughput_per_s": 500.0, "peak_rss_bytes": 2_000_000, "file_bytes": 1000, "macs": 10**6}
DENSE = {**NET, **dict.fromkeys(OURS, 8.0), "file_bytes": 4000}
RIVAL = {
    "name": "OpenVINO int8", **dict.fromkeys(OURS, 1.0), "throughput_per_s": 1000.0, "peak_rss_bytes": 3_000_000,
    "file_bytes": 1500, "speedup_p50": 8.0, "speedup_ci95": [7.5, 8.5],
}  # fmt: skip
RUN = {
    "batch": 1, "threads": 2, "dense": DENSE, "lookup": NET, "speedup_p50": 4.0, "speedup_ci95": [3.9, 4.1],
    "macs_ratio": 5.0, "realised_fraction": 0.8, "rivals": [RIVAL],
    "best_other": {"name": "OpenVINO int8", "speedup_p50": 0.5, "speedup_ci95": [0.4, 0.8]},
}  # fmt: skip
RESULT = {
    "isa": "avx2", "lookup_source": "n.lcnn", "dense_source": "original net n.pt", "onnxruntime": "1.31.1",
    "input_shape": [1, 3, 8, 8], "runs": [RUN], "layers": [], "rival_images": "4 random images",
    "rivals": [
        {"name": "OpenVINO int8", "output_error": 0.0234, "problem": None},
        {"name": "ONNX Runtime int8", "output_error": 1.4, "problem": "wrong: its outputs are off by 1.40"},
    ],
}  # fmt: skip


def printed(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    render_bench.bench_table(result)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_every_form_has_its_time_speed_up_and_what_its_outputs_are_off(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(RESULT, capsys)
    start = lines.index("form ms over dense (95 %) outputs off by peak memory file")
    assert lines[start + 1 :] == [
        "dense, ONNX Runtime float32 8.000 2.00 MB 4.0 kB",
        "lookup (ours) 2.000 4.00x (3.90 to 4.10) 2.00 MB 1.0 kB",
        "OpenVINO int8 1.000 8.00x (7.50 to 8.50) 0.023 3.00 MB 1.5 kB",
        "OpenVINO int8 wins: it is 2.00x faster than lookup (95 %: 1.25 to 2.50)",
        "",
        "rivals run the dense net; ranges of int8 from 4 random images; outputs are off by a part of their spread on these",
        "ONNX Runtime int8: wrong: its outputs are off by 1.40",
    ]


def test_where_no_rival_was_wanted_nothing_is_said_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed({**RESULT, "runs": [{**RUN, "rivals": []}], "rivals": []}, capsys)
    assert lines[-1] == "ONNX file 4.0 kB 1.0 kB 4.00x smaller"


@pytest.mark.parametrize(
    ("interval", "line"),
    [
        ([1.1, 1.5], "lookup is faster than the best of them, dense, ONNX Runtime float32: 1.25x (95 %: 1.10 to 1.50)"),
        ([0.9, 1.5], "lookup is about as fast as the best of them, dense, ONNX Runtime float32: 1.25x (95 %: 0.90 to 1.50)"),
        ([0.5, 0.8], "dense, ONNX Runtime float32 wins: it is 1.60x faster than lookup (95 %: 1.25 to 2.00)"),
    ],
)
def test_who_wins_is_said_where_the_interval_tells(interval: list[float], line: str) -> None:
    ratio = 0.625 if interval[1] < 1 else 1.25
    assert render_bench.verdict({"name": "dense", "speedup_p50": ratio, "speedup_ci95": interval}) == line

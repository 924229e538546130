"""The table and the curves of compare_methods.py, from its JSON.

python examples/method_report.py examples/results/methods.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from methods import METHODS, OURS, UNIFORM

COLOURS = ("#c0392b", "#e59866", "#b7950b", "#2471a3", "#7d3c98", "#1e8449", "#7f8c8d", "#5d4037", "#00838f")
SHOWN = 12  # points or dB below the dense net; what is worse is in the table only
MARKERS = ("o", ".", "v", "s", "^", "D", "x", "P", "*")


@dataclass(frozen=True)
class Point:
    """One method at one speed. ``scores`` has one value for each seed."""

    method: str
    speed: float
    scores: tuple[float, ...]
    ms: float
    speedup: float
    macs: float  # mean over the seeds
    bytes: int
    choice: str

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(np.mean(self.scores))


def points(content: dict[str, Any], net: str) -> list[Point]:
    """Return everything scored and timed of a net, by method and then by speed."""
    found = []
    times = content["times"].get(net, {})
    for method in METHODS:
        speeds = sorted(float(name.split("/")[1]) for name in times if name.startswith(f"{method}/"))
        for speed in speeds:
            prefix = f"{net}/{method}/{speed:g}/"
            runs = [run for key, run in content["runs"].items() if key.startswith(prefix) and "/search/" not in key]
            runs = [run for run in runs if run["score"] is not None]
            timed = times[f"{method}/{speed:g}"]
            found.append(Point(
                method, speed, tuple(run["score"] for run in runs), timed["ms"], timed["speedup"],
                float(np.mean([run["macs"] for run in runs])), next(run["bytes"] for run in runs if "bytes" in run),
                runs[0]["choice"],
            ))  # fmt: skip
    return found


def best_at(ms: float, others: list[Point]) -> tuple[float, str] | None:
    """Return the best mean score of ``others`` in ``ms`` milliseconds, and whose; None where nothing is as fast.

    Between two speeds of a method its curve is a line over the logarithm of time; a point that is faster than needed counts.
    """
    best: tuple[float, str] | None = None
    for method in dict.fromkeys(point.method for point in others):
        curve = sorted((point.ms, point.mean) for point in others if point.method == method)
        reached = [score for at, score in curve if at <= ms]
        if not reached:
            continue
        score = max(*reached, float(np.interp(np.log(ms), *zip(*((np.log(at), s) for at, s in curve), strict=True))))
        if best is None or score > best[0]:
            best = score, method
    return best


def table(content: dict[str, Any]) -> str:
    """Return Markdown: a table for each net, and below it what is better than ours in the same time."""
    lines = []
    for net in content["times"]:
        dense = content["dense"][net]
        found = points(content, net)
        lines += [
            f"\n{net}: dense {dense['score']:.2f} ({dense['metric']}), {content['times'][net]['dense']['ms']:.2f} ms, "
            f"{dense['macs'] / 1e6:.1f} million MACs, {dense['bytes'] / 1e3:.0f} kB; "
            f"{content['timed_on'][net]['date']}, {content['timed_on'][net]['machine']['cpu']}\n",
            f"| method | ms | faster | fewer MACs | kB | {dense['metric']} | range |", "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        lines += [
            f"| {p.method} | {p.ms:.3f} | {p.speedup:.2f}x | {dense['macs'] / p.macs:.1f}x | {p.bytes / 1e3:.0f} | "
            f"{p.mean:.2f} | {min(p.scores):.2f} to {max(p.scores):.2f}, {len(p.scores)} |"
            for p in found
        ]
        lines += ["", *at_equal_time(found)]
    return "\n".join(lines)


def at_equal_time(found: list[Point]) -> list[str]:
    """Return a line for each speed of ours: the best of the others in the same milliseconds, and the difference."""
    others, lines = [p for p in found if p.method not in (OURS, UNIFORM)], []  # one rule is ours too
    for ours in (p for p in found if p.method == OURS):
        best = best_at(ours.ms, others)
        start = f"* {ours.ms:.3f} ms: {OURS} {ours.mean:.2f}"
        if best is None:
            lines.append(f"{start}, nothing else is as fast")
        else:
            lines.append(f"{start}, best other {best[0]:.2f} ({best[1]}): {ours.mean - best[0]:+.2f}")
    return lines


def draw(content: dict[str, Any], path: Path) -> None:
    """Write one panel for each net: milliseconds (logarithmic) against the mean score, bars from the worst seed to the best."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "lcnn", "font.size": 9, "svg.fonttype": "none"}
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    nets = list(content["times"])
    figure, axes = pyplot.subplots(1, len(nets), figsize=(4.2 * len(nets), 3.8), squeeze=False, layout="constrained")
    for axis, net in zip(axes[0], nets, strict=True):
        found, dense = points(content, net), content["dense"][net]
        axis.axhline(dense["score"], color="#bbbbbb", linewidth=0.8)
        axis.plot(content["times"][net]["dense"]["ms"], dense["score"], "k*", markersize=9, label="dense")
        for method, colour, marker in zip(METHODS, COLOURS, MARKERS, strict=True):
            curve = [p for p in found if p.method == method]
            if not curve:
                continue
            spread = np.array([[p.mean - min(p.scores), max(p.scores) - p.mean] for p in curve]).T
            axis.errorbar(
                [p.ms for p in curve], [p.mean for p in curve], spread, color=colour, marker=marker, markersize=4,
                linewidth=1.6 if method == OURS else 1.0, capsize=2, label=method,
            )  # fmt: skip
        axis.set(title=net, xscale="log", xlabel="ms for one image, 1 thread", ylabel=dense["metric"])
        axis.set_ylim(bottom=max(axis.get_ylim()[0], dense["score"] - SHOWN))
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(color="#eeeeee", which="both")
    labels = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    saved = Path(sys.argv[1])
    stored = json.loads(saved.read_text())
    print(table(stored))
    draw(stored, saved.with_suffix(".svg"))

"""Seconds of a training step, dense and with lookup convolutions at LCNN-fast sizes, forward, backward and update.

The same net, batch and recipe in one process; steps of both alternate, so that a busy machine slows both. Batches are random
numbers: what a step costs does not depend on them. Kernels are those of the start, which hardly have a zero: torch computes
with all entries of P, so that training does not get cheaper as they die.

    python examples/time_training_steps.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from lcnn_compress import TrainSettings, machine, zoo
from lcnn_compress.net.layers import Captured
from lcnn_compress.scratch.presets import choose
from lcnn_compress.scratch.start import gaussian_start
from lcnn_compress.sources.source import open_source
from lcnn_compress.train.loop import Training

RESULTS = Path(__file__).parent / "results" / "training_steps.json"
CLASSES = 1000


@dataclass(frozen=True)
class Case:
    net: str
    preset: str
    batch: int
    size: int = 224


CASES = (Case("resnet18", "lcnn-fast", 32), Case("alexnet_lcnn", "lcnn-fast", 32))


def training(captured: Captured, preset: str, batch: int) -> Training:
    settings = TrainSettings(preset=preset, batch_size=batch, timetable="alexnet")
    chosen = choose(captured.layers, settings)
    net = gaussian_start(captured, chosen.plans, 0).train()
    return Training(net, settings.recipe(chosen.published, "alexnet"), 100 * batch, nonzeros={})


def seconds(step: Training, x: Tensor, y: Tensor) -> float:
    began = time.perf_counter()
    step.take(x, y)
    return time.perf_counter() - began


def measure(case: Case, repeats: int) -> dict[str, object]:
    shape = (1, 3, case.size, case.size)
    captured = open_source(getattr(zoo, case.net)(CLASSES), shape).captured
    x, y = torch.randn(case.batch, *shape[1:]), torch.randint(CLASSES, (case.batch,))
    both = {preset: training(captured, preset, case.batch) for preset in ("dense", case.preset)}
    times: dict[str, list[float]] = {preset: [] for preset in both}
    for repeat in range(repeats + 1):
        for preset, step in both.items():
            found = seconds(step, x, y)
            if repeat:  # the first one allocates
                times[preset].append(found)
    dense, lookup = times.values()
    ratios = [b / a for a, b in zip(dense, lookup, strict=True)]
    return {
        **asdict(case), "dense_s": statistics.median(dense), "lookup_s": statistics.median(lookup),
        "ratio": statistics.median(ratios), "lowest_ratio": min(ratios), "highest_ratio": max(ratios), "repeats": repeats,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = []
    for case in CASES:
        rows.append(measure(case, options.repeats))
        print(json.dumps(rows[-1]), flush=True)
    facts = {
        "machine": asdict(machine.machine()), "date": time.strftime("%Y-%m-%d"), "threads": options.threads, "seed": 0,
        "torch": torch.__version__, "rows": rows,
    }  # fmt: skip
    options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()

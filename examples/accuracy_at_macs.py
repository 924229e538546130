"""What is lost at a given number of MACs: plans of least effect on the outputs, calibrated without labels, and fine-tuned.

Each layer becomes dense, sparse, lookups or low rank, so that the sum of the measured effects on the outputs is least within
the MACs; every filter has a pattern of its own. Calibration sees the images of compare_methods.py (512, or 56 patches), and
training those that are not held out for validation; learning rates and epochs were chosen on the latter. At 1x the dense net is
trained likewise, which tells what training alone gives (not in results/macs.json). Test images are scored once. Seeds are of
calibration images and of the order of training. Writes results/macs.json after each result; a rerun goes on.

    apt-get install dataset-fashion-mnist
    pip install --no-deps demosaicnet==0.0.14 scikit-image==0.26.0 foolbox==3.3.4
    python examples/accuracy_at_macs.py
    python examples/accuracy_at_macs.py --validate --nets fashion_resnet --cuts 10 --seeds 1 --output trial.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from method_nets import CASES, Case
from method_tasks import Part
from results_file import Results

from lcnn_compress import api
from lcnn_compress.compression.plan import PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.data.score import torch_runner
from lcnn_compress.net.layers import Captured
from lcnn_compress.search.problem import Choice, Problem, prepare
from lcnn_compress.train.recipe import FinetuneSettings

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Recipe:
    """What a net is asked for, and how it is trained."""

    cuts: tuple[float, ...]  # times fewer MACs
    images: int
    tuning: FinetuneSettings


RECIPES = {
    "fashion_resnet": Recipe((1, 6, 10, 16), 50_000, FinetuneSettings(3, 128, 3e-3)),
    "demosaicnet": Recipe((1, 4), 5_600, FinetuneSettings(6, 8, 3e-4)),
}


def own_patterns(problem: Problem) -> Problem:
    """Leave out forms whose filters share patterns: at equal MACs they lose more."""
    kept = [[i for i, c in enumerate(listed) if c.plan.filters_per_pattern == 1] for listed in problem.options]
    options = [[listed[i] for i in chosen] for listed, chosen in zip(problem.options, kept, strict=True)]
    effects = [[listed[i] for i in chosen] for listed, chosen in zip(problem.effects, kept, strict=True)]
    return replace(problem, options=options, effects=effects)


def plan(case: Case, cut: float) -> Choice:
    settings, shape = CompressSettings(PlanSettings(skip=case.skip)), case.source.input_shape
    problem = own_patterns(prepare(Captured.of(case.source.net, shape), settings, case.calibrate(0), with_times=False))
    total = sum(layer.dense_macs for layer in problem.captured.layers)
    choice = problem.within_macs(total / cut)
    if choice is None:
        raise SystemExit(f"{case.name}: {cut:g}x fewer MACs cannot be had")
    return choice


def make(case: Case, recipe: Recipe, choice: Choice, seed: int, *, trained: bool, score_on: str) -> dict[str, Any]:
    """Compress, and train if wanted; return the score."""
    started = time.perf_counter()
    settings = CompressSettings(init="svd", seed=seed, measure=False)
    data = TrainingData(case.calibrate(seed))
    if trained:
        settings = replace(settings, finetune=replace(recipe.tuning, seed=seed))
        data = replace(data, examples=Part(case.train, recipe.images, seed))
    artefact = api.compress_source(case.source, settings, data, choice.plans)
    total = sum(row.macs_dense for row in artefact.report.layers)
    return {
        "score": case.scores[score_on](torch_runner(artefact.net)), "seconds": time.perf_counter() - started,
        "cut": total / sum(row.macs for row in artefact.report.layers),
    }  # fmt: skip


def table(content: dict[str, Any]) -> str:
    lines = []
    for name, dense in content["dense"].items():
        found: dict[str, list[float]] = {}
        for key, run in content["runs"].items():
            net, cut, variant, _ = key.split("/")
            if net == name:
                found.setdefault(f"{cut}x {variant}", []).append(run["score"])
        lines.append(f"{name}: dense {dense['score']:.2f} {dense['metric']}")
        for what, scores in found.items():
            mean = statistics.mean(scores)
            spread = f"{min(scores):.2f} to {max(scores):.2f}, seeds: {len(scores)}"
            lines.append(f"  {what:<16} {mean:.2f} ({spread}), drop {dense['score'] - mean:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--cuts", nargs="+", type=float, help="times fewer MACs [default: 1, 6, 10, 16; demosaicnet: 1, 4]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of training; 0 only calibrates [default: 3; demosaicnet: 6]")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--precision", default="float32", help="bfloat16 is faster where the processor has AMX")
    parser.add_argument("--validate", action="store_true", help="score on held-out training images instead of test images")
    parser.add_argument("--work", type=Path, default=Path("compare_work"))
    parser.add_argument("--output", type=Path, default=RESULTS / "macs.json")
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # gradients of a squared error are small enough to slow training down
    options.work.mkdir(parents=True, exist_ok=True)
    results, score_on = Results(options.output), "validation" if options.validate else "test"
    for name in options.nets:
        case, recipe = CASES[name](None, options.work), RECIPES[name]
        asked = {"epochs": options.epochs, "lr": options.lr, "precision": options.precision}
        tuning = replace(recipe.tuning, **{key: value for key, value in asked.items() if value})
        recipe = replace(recipe, tuning=tuning)
        results.check_settings(name, {
            "epochs": tuning.epochs, "lr": tuning.lr, "batch_size": tuning.batch_size, "precision": tuning.precision,
            "images": recipe.images, "scored_on": score_on,
        })  # fmt: skip
        dense = case.scores[score_on](torch_runner(case.source.net))
        results.put("dense", name, {"score": dense, "metric": case.metric})
        case.source.net.to(memory_format=torch.channels_last)
        for cut in options.cuts or recipe.cuts:
            choice = plan(case, cut)
            for variant in (*(["calibrated"] if cut > 1 else []), *(["fine-tuned"] if options.epochs != 0 else [])):
                for seed in range(options.seeds):
                    key = f"{name}/{cut:g}/{variant}/{seed}"
                    run = results.get(
                        "runs", key,
                        lambda: make(case, recipe, choice, seed, trained=variant == "fine-tuned", score_on=score_on),  # noqa: B023
                    )  # fmt: skip
                    print(
                        f"{key}: {run['score']:.2f} (dense {dense:.2f}), {run['cut']:.2f}x, {run['seconds']:.0f} s", flush=True
                    )
    print(table(json.loads(options.output.read_text())))


if __name__ == "__main__":
    main()

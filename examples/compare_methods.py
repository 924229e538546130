"""Lookup convolutions beside other ways to make a net faster: accuracy or PSNR against measured milliseconds, three nets.

methods.py says what the methods are, method_nets.py what the nets. Every method gets two settings of its own kind times two
learning rates to choose from, on images that are neither trained nor tested on, with the first seed. Refitting, batch norms and
fine-tuning are the same for all plans, on the same number of images; a narrower net trains for as many seconds of processor
time as "lookup (ours)" took after planning. Seeds are of k-means, calibration images, first weights and the order of images.
Each net is scored on the test images once. Milliseconds are of one image, one thread, in ONNX Runtime or, by methods of that
name, in OpenVINO: all files of a net run in turn, each twice, and the second run counts, as in a stream of images.

Writes results/methods.json after each result (a rerun goes on from there) and results/methods.svg. All of it takes about five
hours of one core; RESULTS.md says what its figures were run with.

    apt-get install dataset-fashion-mnist
    pip install --no-deps demosaicnet==0.0.14 scikit-image==0.26.0 foolbox==3.3.4 && pip install matplotlib openvino nncf
    python examples/compare_methods.py
    python examples/compare_methods.py --precision bfloat16 --nets fashion_resnet fashion_alexnet   # a processor with AMX
    python examples/compare_methods.py --images 3000 --search-speeds 6 --nets fashion_resnet
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from method_files import engine_of, other_form
from method_nets import CASES, Case
from method_report import draw, table
from method_tasks import Choice, Made, Part, Task, choices
from methods import (
    CANDIDATES,
    FROM_FILES,
    INSTALLED,
    METHODS,
    NARROWER,
    OURS,
    Planned,
    Rewriting,
    module_macs,
    solve,
    start_from_slices,
)
from results_file import Results
from torch import fx

from lcnn_compress import api
from lcnn_compress.benchmark.rivals import file_bytes
from lcnn_compress.benchmark.timing import EngineFile, open_file, ratio_interval, time_in_turn
from lcnn_compress.compression.plan import LayerPlan, PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.data.score import torch_runner
from lcnn_compress.errors import ModelError, SettingsError
from lcnn_compress.machine import machine
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.search.budget_report import as_json
from lcnn_compress.search.meet_target import fit
from lcnn_compress.search.problem import Problem, prepare
from lcnn_compress.search.target import Target
from lcnn_compress.search.trained_choice import RECOVERIES
from lcnn_compress.train.loop import finetune
from lcnn_compress.train.recipe import FinetuneSettings

RESULTS = Path(__file__).parent / "results"
PROBED_BATCHES = 4  # that time a training step
LEAST_BATCHES = 8  # of a training
SPEEDUP_POWER = 0.45  # how the speed-up grows with the cut of MACs, about
ROUNDS = 15, 300  # of the timing


class Comparison:
    """All methods on one net. ``make`` makes one net; by default as the methods say."""

    def __init__(
        self, case: Case, options: argparse.Namespace, results: Results, make: Callable[[Task, Choice], Made] | None = None
    ) -> None:
        self.case, self.options, self.results = case, options, results
        self.step: Callable[[str], None] = print
        self.make = make or self._made
        self.speeds = options.speeds or case.speeds
        self.rates = options.rates or case.rates
        self.images = max(LEAST_BATCHES * case.batch_size, round(case.share * options.images))
        case.source.net.to(memory_format=torch.channels_last)
        searched = [s for s in (options.search_speeds or self.speeds) if s in self.speeds] or self.speeds[:1]
        self.searched: tuple[float, ...] = tuple(searched)
        results.check_settings(case.name, {
            "images": self.images, "epochs": options.epochs, "precision": options.precision, "rates": self.rates,
            "searched_speeds": self.searched,
            "scored_images": options.scored_images, "calibration_images": case.calibration,
        })  # fmt: skip
        self.rewriting = Rewriting(layers(case.source.net, torch.zeros(case.source.input_shape)), case.skip)
        self.problem: Problem | None = None  # what the layers can become
        self.kept: dict[tuple[Task, Choice], Made] = {}  # the best net of a search is the first seed's result

    def missing(self) -> list[str]:
        """Return the keys of the results that are not there yet, and one for the timing."""
        keys = ["times"]
        for method in self.options.methods:
            keys += [
                f"{method}/{speed:g}/search/{choice}"
                for speed in self._searched(method)
                for choice in choices(method, self.rates)
            ]
            speeds = (1.0, *self.speeds) if method in FROM_FILES else self.speeds
            keys += [f"{method}/{speed:g}/{seed}" for speed in speeds for seed in range(self.options.seeds)]
        return [key for key in keys if f"{self.case.name}/{key}" not in self.results.content["runs"]]

    def run(self) -> None:
        """Make and score everything that is not in the results."""
        dense = self.options.work / f"{self.case.name}-dense.onnx"
        if not dense.is_file():
            api.export_dense(self.case.dense(), dense, [])
        self.results.get("dense", self.case.name, lambda: {
            "score": self.case.scores["test"](torch_runner(self.case.source.net)), "metric": self.case.metric,
            "macs": self.rewriting.total, "bytes": dense.stat().st_size,
        })  # fmt: skip
        for method in self.options.methods:
            for speed in (1.0, *self.speeds) if method in FROM_FILES else self.speeds:
                choice = self._choose(method, speed)
                for seed in range(self.options.seeds):
                    self._final(Task(method, speed, seed), choice)

    def _searched(self, method: str) -> tuple[float, ...]:
        return (1.0,) if method in FROM_FILES else self.searched  # the ranges of int8 are chosen on the dense net

    def _choose(self, method: str, speed: float) -> Choice | None:
        """Return the candidate that is best on the validation images at the nearest speed that is searched."""
        task = Task(method, min(self._searched(method), key=lambda s: abs(math.log(s / speed))), 0)
        scores: dict[Choice, float] = {}
        for choice in choices(method, self.rates):
            key = f"{self.case.name}/{method}/{task.speed:g}/search/{choice}"
            found = self.results.get("runs", key, lambda choice=choice: self._tried(task, choice))
            if found["score"] is not None:
                scores[choice] = found["score"]
                if scores[choice] < max(scores.values()):
                    self.kept.pop((task, choice), None)
        if not scores:
            return None
        best = max(scores, key=lambda choice: scores[choice])
        self.kept = {key: made for key, made in self.kept.items() if key == (task, best)}
        return best

    def _tried(self, task: Task, choice: Choice) -> dict[str, Any]:
        try:
            made = self.make(task, choice)
        except (SettingsError, ModelError) as error:  # out of reach, or training diverged
            found: dict[str, Any] = {"score": None, "reason": str(error)}
        else:
            self.kept[task, choice] = made
            found = made.facts | {"score": self.case.scores["validation"](made.run)}
        self.step(f"{self.case.name} {task.method} {task.speed:g}x, {choice}: {found['score']} on validation")
        return found

    def _final(self, task: Task, choice: Choice | None) -> None:
        key = f"{self.case.name}/{task.method}/{task.speed:g}/{task.seed}"
        if key in self.results.content["runs"]:
            return
        try:
            if choice is None:
                raise SettingsError("no candidate worked")
            made = self.kept.pop((task, choice), None) or self.make(task, choice)
        except (SettingsError, ModelError) as error:
            found: dict[str, Any] = {"score": None, "reason": str(error)}
        else:
            found = made.facts | {"choice": str(choice), "score": self.case.scores["test"](made.run)}
            if task.seed == 0 or task.method == NARROWER:  # int8 is made of the narrower nets
                path = task.path(self.options.work, self.case.name)
                made.write(path)
                found["bytes"] = file_bytes(path)
        self.results.put("runs", key, found)
        self.step(f"{self.case.name} {task.method} {task.speed:g}x seed {task.seed}: {found['score']}")

    def _made(self, task: Task, choice: Choice) -> Made:
        makers = {NARROWER: self._narrowed} | dict.fromkeys(FROM_FILES, self._from_file)
        return makers.get(task.method, self._compressed)(task, choice)

    def _tuning(self, choice: Choice, seed: int, threshold: float | None = None) -> FinetuneSettings:
        epochs, batch = self.options.epochs, self.case.batch_size
        settings = FinetuneSettings(epochs, batch, choice.rate, seed=seed, precision=self.options.precision)
        return settings if threshold is None else replace(settings, sparsity="threshold", threshold_c=threshold)

    def _compressed(self, task: Task, choice: Choice) -> Made:
        """Compress by a plan, refit and fine-tune."""
        planned = self._plan(task, choice)
        started = time.process_time()
        tuning = self._tuning(choice, task.seed, planned.threshold)
        settings = CompressSettings(init=planned.init, seed=task.seed, measure=False, finetune=tuning)
        data = TrainingData(self.case.calibrate(task.seed), Part(self.case.train, self.images, task.seed))
        artefact = api.compress_source(self.case.source, settings, data, planned.plans)
        facts = {
            "macs": sum(row.macs for row in artefact.report.layers), "images": self.images * self.options.epochs,
            "cpu_seconds": time.process_time() - started,
        }  # fmt: skip

        def write(path: Path) -> None:
            api.export_onnx(artefact, path)

        return Made(torch_runner(artefact.net), write, facts)

    def _plan(self, task: Task, choice: Choice) -> Planned:
        if task.method != OURS:
            return self.rewriting.plan(task.method, choice.candidate, task.speed, task.seed)
        key = f"{self.case.name}/{task.speed:g}/{choice.candidate}"
        found = self.results.get("plans", key, lambda: self._fitted(task.speed, choice.candidate))
        return Planned([LayerPlan.from_json(plan) for plan in found["plans"]], "svd", None, found["macs"])

    def _fitted(self, speed: float, candidate: str) -> dict[str, Any]:
        """Plan for milliseconds: about as much faster as other ways of cutting MACs ``speed`` times make a net."""
        if self.problem is None:
            settings = CompressSettings(PlanSettings(skip=self.case.skip))
            net, shape = self.case.source.net, self.case.source.input_shape
            self.problem = prepare(Captured.of(net, shape), settings, self.case.calibrate(0), cache=self.options.work.parent)
        recovery = dict(zip(CANDIDATES[OURS], RECOVERIES, strict=True))[candidate]
        fitted = fit(replace(self.problem, recovery_exponent=recovery), Target("speedup", speed**SPEEDUP_POWER))
        plans = [plan.to_json() for plan in fitted.choice.plans]
        return {"plans": plans, "macs": fitted.choice.macs, "rounds": [as_json(done) for done in fitted.rounds]}

    def _narrowed(self, task: Task, choice: Choice) -> Made:
        """Train a narrower net for as long as "lookup (ours)" took at the same speed and seed."""
        shape, started = self.case.source.input_shape, time.process_time()
        width = solve(lambda share: module_macs(self.case.narrow, share, shape), self.rewriting.total / task.speed)
        torch.manual_seed(task.seed)
        module = self.case.narrow(width)
        if choice.candidate == "sliced start":
            start_from_slices(module, self.case.source.net.state_dict())
        source = api.open_model(module.to(memory_format=torch.channels_last), shape)
        images, per_image = self.images * self.options.epochs, self._seconds_per_image(source.net, choice)
        budget = self._seconds_of_ours(task)
        if budget is not None:
            images = max(LEAST_BATCHES * self.case.batch_size, int((budget - time.process_time() + started) / per_image))
        part = Part(self.case.train, images, task.seed)
        settings = replace(self._tuning(choice, task.seed), epochs=round(images / len(part)))
        finetune(source.net, self.case.source.net, part, settings)
        rows = api.dense_rows(source.net, shape)
        facts = {
            "macs": sum(row["macs"] for row in rows), "images": settings.epochs * len(part), "width": width,
            "cpu_seconds": time.process_time() - started,
        }  # fmt: skip
        return Made(torch_runner(source.net), lambda path: api.export_dense(source, path, rows), facts)

    def _seconds_per_image(self, net: fx.GraphModule, choice: Choice) -> float:
        probe = fx.GraphModule(net, net.graph)  # a copy: what times a step must not train the net
        probe.load_state_dict({name: tensor.clone() for name, tensor in net.state_dict().items()}, assign=True)
        part = Part(self.case.train, PROBED_BATCHES * self.case.batch_size, 0)
        seconds = []
        for _ in range(2):  # the first one pays for what PyTorch sets up
            started = time.process_time()
            finetune(probe, self.case.source.net, part, replace(self._tuning(choice, 0), epochs=1))
            seconds.append(time.process_time() - started)
        return seconds[-1] / len(part)

    def _seconds_of_ours(self, task: Task) -> float | None:
        prefix = f"{self.case.name}/{OURS}/{task.speed:g}/"
        found = [
            run["cpu_seconds"] for key, run in self.results.content["runs"].items() if key.startswith(prefix) and run["score"]
        ]
        return float(np.median(found)) if found else None

    def _from_file(self, task: Task, choice: Choice) -> Made:
        """Run the file of the dense net (speed 1), or of the narrower net of the same seed, in another way."""
        narrow = Task(NARROWER, task.speed, task.seed)
        key = f"{self.case.name}/{NARROWER}/{task.speed:g}/{task.seed}"
        dense = self.options.work / f"{self.case.name}-dense.onnx"
        if task.speed != 1:
            dense = narrow.path(self.options.work, self.case.name)
            if not dense.is_file():
                raise SettingsError(f"{dense}: {task.method} at this speed is made of it; add narrower to --methods")
        macs = self.results.content["runs"][key]["macs"] if task.speed != 1 else self.rewriting.total
        # Each candidate has a file of its own: it is read again for every size of batch.
        path = task.path(self.options.work, self.case.name)
        path = path.with_name(f"{path.stem}-{choice.candidate.replace(' ', '-')}{path.suffix}")
        started = time.process_time()
        return Made(*other_form(dense, path, task.method, choice.candidate, self.case.calibrate(task.seed)), {
            "macs": macs, "images": 0, "cpu_seconds": time.process_time() - started,
        })  # fmt: skip

    def time(self) -> None:
        """Time all files of the first seed in turn."""
        tasks = [Task(m, s, 0) for m in METHODS for s in (1.0, *self.speeds)]
        files = {"dense": EngineFile(self.options.work / f"{self.case.name}-dense.onnx")} | {
            f"{task.method}/{task.speed:g}": EngineFile(task.path(self.options.work, self.case.name), engine_of(task.method))
            for task in tasks
            if f"{self.case.name}/{task.method}/{task.speed:g}/0" in self.results.content["runs"]
        }
        files = {name: file for name, file in files.items() if file.path.is_file()}
        shape = list(self.case.source.input_shape)
        runs = [open_file(file, shape, 1, 0) for file in files.values()]
        trial = 2 * sum(min(ms) for ms in time_in_turn(runs, (2, 1)))  # a turn is two runs
        rounds = int(np.clip(1000 * self.options.timing_seconds / trial, *ROUNDS))
        ms = dict(zip(files, time_in_turn(runs, (rounds, 2)), strict=True))
        found = {
            name: {
                "ms": float(np.median(values)), "speedup": float(np.median(ms["dense"]) / np.median(values)),
                "speedup_ci95": ratio_interval(ms["dense"], values, 0), "rounds": rounds,
            }
            for name, values in ms.items()
        }  # fmt: skip
        self.results.put("times", self.case.name, found)
        self.results.put("timed_on", self.case.name, {"date": time.strftime("%Y-%m-%d"), "machine": asdict(machine())})
        self.step(f"{self.case.name}: {len(files)} files timed {rounds} times")


def progress(total: int) -> Callable[[str], None]:
    """Return what prints a line with the share done and the minutes left, going by the results of this run."""
    started, done = time.perf_counter(), itertools.count(1)

    def step(line: str) -> None:
        n = next(done)
        left = (time.perf_counter() - started) / n * max(0, total - n)
        print(f"[{n}/{total}, {left / 60:.0f} min left] {line}", flush=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(INSTALLED), help="[default: all installed]")
    parser.add_argument("--speeds", nargs="+", type=float, help="times fewer MACs [default: four for each net]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--images", type=int, default=20_000, help="training images; photos take a share of it as small patches"
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", default="float32", help="of products in training: float32 or bfloat16")
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates to choose from [default: two for each net]")
    parser.add_argument("--search-speeds", nargs="+", type=float, help="search only there, the others take the nearest choice")
    parser.add_argument(
        "--scored-images", type=int, help="of the classifiers' validation and test images [default: all 10,000]"
    )
    parser.add_argument("--timing-seconds", type=float, default=60, help="for each net")
    parser.add_argument("--output", type=Path, default=RESULTS / "methods.json")
    parser.add_argument("--work", type=Path, default=Path("build/compare_methods"), help="folder for the ONNX files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # gradients of a squared error are small enough to slow training down fivefold
    results = Results(options.output)
    options.work = options.work / options.output.stem
    options.work.mkdir(parents=True, exist_ok=True)
    cases = [CASES[name](options.scored_images, options.work.parent) for name in options.nets]
    comparisons = [Comparison(case, options, results) for case in cases]
    step = progress(sum(len(comparison.missing()) for comparison in comparisons))
    for comparison in comparisons:
        comparison.step = step
    for comparison in comparisons:
        comparison.run()
    for comparison in comparisons:
        comparison.time()
    print(table(results.content))
    draw(results.content, options.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()

"""How near ``--target-speedup`` lands, and what ``--max-drop`` keeps: a classifier, a restoration net, ResNet-18.

The search chooses the arithmetic of each layer, too. The embedded net is planned and calibrated on 512 training images without
labels, or, for a largest drop, judged on 5,000 labelled training images; accuracy is on all 10,000 test images. demosaicnet is
calibrated and scored on photos as in ``compress_demosaicnet.py``. ResNet-18 has random weights: only its times say something.
Every finished net is exported and measured anew beside the dense net and what else runs that (int8, and OpenVINO where it is
installed), in a process of their own, at batch 1 with one thread. Nothing is trained. Writes results/targets.json.

    apt-get install dataset-fashion-mnist
    pip install openvino nncf
    pip install --no-deps demosaicnet==0.0.14 scikit-image==0.26.0 foolbox==3.3.4
    python examples/meet_targets.py
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import compress_demosaicnet
import torch
from compare_fashion import Images, calibration, load, measure, open_net
from datasets import bayer, patches
from torch import nn

from lcnn_compress import api, zoo
from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.machine import machine
from lcnn_compress.search.target import Target

RESULTS = Path(__file__).resolve().parent / "results"
SPEEDUPS = {"fashion_resnet": (2.0, 3.0, 4.0, 5.0, 6.0, 8.0), "demosaicnet": (2.0, 3.0), "resnet18": (4.0, 8.0)}
LARGEST_DROPS = (0.5, 1.0)
HELD_OUT = 5000
RANDOM_IMAGES = 64  # for the net with random weights, where only time says something
SETTINGS = CompressSettings(init="ksvd")  # as the command does


def made(source: api.Source, target: Target, data: TrainingData) -> tuple[Any, dict[str, Any]]:
    """Return the net for a target, and what was foreseen on the way."""
    started = time.perf_counter()
    artefact = api.compress_to_target(source, SETTINGS, target, data)
    budget = artefact.report.budget
    kinds = [row.kind + (f", {row.arithmetic}" if row.arithmetic else "") for row in artefact.report.layers]
    facts = {"asked": {target.kind: target.value}, "seconds": time.perf_counter() - started, "kinds": kinds}
    facts |= {key: budget[key] for key in ("predicted_speedup", "predicted_error", "measured_error", "drop") if key in budget}
    return artefact, facts


def embedded(train: Images, test: Images, speedups: Sequence[float], drops: Sequence[float]) -> list[dict[str, Any]]:
    rows = []
    held_out = Images(train.x[-HELD_OUT:], train.y[-HELD_OUT:])
    train = Images(train.x[:-HELD_OUT], train.y[:-HELD_OUT])
    unlabelled = TrainingData(calibration(train, 0))
    labelled = TrainingData(calibration(train, 0), held_out=held_out)
    wanted = [(Target("speedup", value), unlabelled) for value in speedups]
    wanted += [(Target("max_drop", value), labelled) for value in drops]
    for target, data in wanted:
        artefact, facts = made(open_net(), target, data)
        run = measure(open_net(), artefact, BenchSettings(iterations=200, per_layer=False), torch.cat(calibration(train, 0)))
        facts |= {"accuracy_percent": api.evaluate(artefact.net, test).value} | run
        rows.append({"net": "fashion_resnet"} | facts)
        print(line(rows[-1]), flush=True)
    return rows


def demosaicnet(speedups: Sequence[float]) -> list[dict[str, Any]]:
    train, test, _ = compress_demosaicnet.split()
    given = bayer(patches(train, compress_demosaicnet.CALIBRATION_SIZE, 4, 0))
    few = list(torch.from_numpy(given).split(8))

    def score(net: nn.Module) -> float:
        return sum(compress_demosaicnet.psnr(compress_demosaicnet.restore(net, crop), crop) for crop in test) / len(test)

    rows = []
    for value in speedups:
        source = compress_demosaicnet.open_net()
        artefact, facts = made(source, Target("speedup", value), TrainingData(few))
        facts |= measure(source, artefact, BenchSettings(iterations=30, per_layer=False), torch.cat(few))
        rows.append({"net": "demosaicnet"} | facts | {"psnr_db": score(artefact.net), "psnr_db_dense": score(source.net)})
        print(line(rows[-1]), flush=True)
    return rows


def resnet18(speedups: Sequence[float]) -> list[dict[str, Any]]:
    rows = []
    for value in speedups:
        torch.manual_seed(0)
        source = api.open_model(zoo.resnet18(), (1, 3, 224, 224))
        noise = list(torch.randn(RANDOM_IMAGES, 3, 224, 224).split(8))
        artefact, facts = made(source, Target("speedup", value), TrainingData(noise))
        facts |= measure(source, artefact, BenchSettings(iterations=50, per_layer=False))
        rows.append({"net": "resnet18, random weights, random images"} | facts)
        print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """Return a line to print for a finished net."""
    asked = ", ".join(f"{key} {value:g}" for key, value in row["asked"].items())
    low, high = row["speedup_ci95"]
    accuracy = f"{row['accuracy_percent']:.2f}" if "accuracy_percent" in row else ""
    accuracy = f"{row['psnr_db']:.2f} dB of {row['psnr_db_dense']:.2f}" if "psnr_db" in row else accuracy
    drop = "held out: {value:.2f} ({low:.2f} to {high:.2f})".format(**row["drop"]) if "drop" in row else ""
    best = row["best_other"]
    speed = f"{row['speedup_p50']:.2f}x ({low:.2f} to {high:.2f}), over {best['name']} {best['speedup_p50']:.2f}x"
    return f"| {row['net']} | {asked} | {speed} | {row['macs_ratio']:.2f}x | {accuracy} | {drop} | {row['seconds']:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=SPEEDUPS, default=list(SPEEDUPS))
    parser.add_argument("--speedups", nargs="+", type=float, help="targets of all nets, in place of those of each")
    parser.add_argument("--drops", nargs="*", type=float, default=list(LARGEST_DROPS), help="largest drops of fashion_resnet")
    parser.add_argument("--output", type=Path, default=RESULTS / "targets.json")
    options = parser.parse_args()
    train, test = load(False, None)
    dense = api.evaluate(open_net().net, test)
    print(f"dense {dense.value:.2f} % on {dense.n} images")
    wanted = {net: options.speedups or SPEEDUPS[net] for net in options.nets}
    rows = embedded(train, test, wanted["fashion_resnet"], options.drops) if "fashion_resnet" in wanted else []
    rows += demosaicnet(wanted["demosaicnet"]) if "demosaicnet" in wanted else []
    rows += resnet18(wanted["resnet18"]) if "resnet18" in wanted else []
    result = {
        "dense_percent": dense.value,
        "n": dense.n,
        "rows": rows,
        "machine": asdict(machine()),
        "date": time.strftime("%Y-%m-%d"),
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""ResNet-18, AlexNet and VGG-16 with RANDOM weights: how much faster lookup is than dense, and how much memory it takes.

Speed does not depend on what the weights are, accuracy does: nothing here says how well such a net would still work. Layers
that are not measured faster stay dense, as always. Every pair of files is measured several times, each with the tool's own
95 % interval. The linear layers of AlexNet and VGG stay dense (``--skip 'classifier.*'``), so that the figures are those of the
convolutions. Writes results/zoo.json.

    python examples/speed_zoo.py
    python examples/speed_zoo.py --nets resnet18 --dicts fast --batches 1
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lcnn_compress import api, benchmark, zoo
from lcnn_compress.machine import machine
from lcnn_compress.pipeline import CompressSettings
from lcnn_compress.plan import PlanSettings

RESULTS = Path(__file__).parent / "results"
SHAPE = (1, 3, 224, 224)
NETS = {"resnet18": zoo.resnet18, "alexnet": zoo.alexnet, "vgg16": zoo.vgg16}
SKIP = {"resnet18": (), "alexnet": ("classifier.*",), "vgg16": ("classifier.*",)}
LARGE = ("vgg16",)  # measured at batch 1 only


def measure(net: str, dictionary: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compress one net with one dictionary size, data-free, and compare the exported files ``--repeats`` times."""
    torch.manual_seed(options.seed)
    source = api.open_model(NETS[net](), SHAPE)
    started = time.perf_counter()
    settings = CompressSettings(PlanSettings(dictionary, skip=SKIP[net]), seed=options.seed)
    artefact = api.compress_source(source, settings)
    seconds = time.perf_counter() - started
    batches = (1,) if net in LARGE else tuple(options.batches)
    with tempfile.TemporaryDirectory(prefix="lcnn-zoo-") as folder:
        dense, lookup = Path(folder) / "dense.onnx", Path(folder) / "lookup.onnx"
        api.export_onnx(artefact, lookup)
        api.export_dense(source, dense, api.layer_rows(artefact.report))
        repeats = [
            benchmark.compare(
                dense, lookup,
                benchmark.BenchSettings(tuple(options.threads), batches, options.iterations, 3, per_layer=False, seed=seed),
            )["runs"]
            for seed in range(options.repeats)
        ]  # fmt: skip
    kinds = [row["kind"] for row in artefact.report["layers"]]
    return {
        "seconds_compress": seconds, "layers_lookup": kinds.count("lookup"), "layers": len(kinds),
        "runs": [summary(run) for run in zip(*repeats, strict=True)],
    }  # fmt: skip


def summary(runs: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Put the repeats of one batch size and number of threads together; the middle one by speed-up stands for all."""
    middle = sorted(runs, key=lambda run: run["speedup_p50"])[len(runs) // 2]
    files = {
        f"{net}_{key}": middle[net][key]
        for net in ("dense", "lookup")
        for key in ("latency_ms_p50", "latency_ms_p90", "peak_rss_bytes", "file_bytes", "macs")
    }
    keys = ("batch", "threads", "speedup_p50", "speedup_ci95", "macs_ratio", "realised_fraction", "baseline_rss_bytes")
    return {key: middle[key] for key in keys} | {"speedup_p50_repeats": [run["speedup_p50"] for run in runs]} | files


def line(net: str, dictionary: str, run: dict[str, Any]) -> str:
    low, high = run["speedup_ci95"]
    spread = f"{min(run['speedup_p50_repeats']):.2f}-{max(run['speedup_p50_repeats']):.2f}"
    memory, size = (
        f"{run[f'dense_{key}'] / 1e6:.0f} -> {run[f'lookup_{key}'] / 1e6:.0f} MB" for key in ("peak_rss_bytes", "file_bytes")
    )
    return (
        f"{net:<9} {dictionary:<5} batch {run['batch']} threads {run['threads']}  {run['macs_ratio']:5.2f}x fewer MACs  "
        f"{run['dense_latency_ms_p50']:7.1f} -> {run['lookup_latency_ms_p50']:6.1f} ms  {run['speedup_p50']:.2f}x "
        f"[{low:.2f}, {high:.2f}], repeats {spread}  realised {run['realised_fraction']:.2f}  memory {memory}  file {size}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--dicts", nargs="+", default=["fast", "0.25"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], help="VGG-16 is measured at batch 1 only")
    parser.add_argument("--iterations", type=int, default=20, help="pairs of runs in each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "zoo.json")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "weights": "random", "input_shape": SHAPE, "date": time.strftime("%Y-%m-%d"), "machine": machine(),
        "settings": {key: value for key, value in vars(options).items() if key != "output"}, "nets": {},
    }  # fmt: skip
    started = time.perf_counter()
    for net in options.nets:
        result["nets"][net] = {}
        for dictionary in options.dicts:
            result["nets"][net][dictionary] = found = measure(net, dictionary, options)
            print("\n".join(line(net, dictionary, run) for run in found["runs"]), flush=True)
    result["seconds"] = time.perf_counter() - started
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

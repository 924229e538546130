"""The embedded Fashion-MNIST net at several sizes: accuracy on all 10,000 test images beside the measured speed-up.

Each size is made data-free, calibrated on 512 unlabelled training images, and fine-tuned on training images after that; seeds
(k-means start, calibration images, order of examples) show the spread. The sizes are three steps of the tool's own
options, fixed beforehand; nothing was chosen on test images. To choose, use ``--validate``: it scores on 10,000 training images
and leaves them out of fine-tuning. The dense net was trained on them, so they rank settings but flatter every score.
Writes results/fashion.json.

    apt-get install dataset-fashion-mnist
    python examples/compare_fashion.py
    python examples/compare_fashion.py --validate --epochs 0
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from datasets import FASHION_MNIST, read_mnist_like
from torch import Tensor

from lcnn_compress import api
from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.benchmark.compare import BenchSettings
from lcnn_compress.benchmark.compare import compare as compare_files
from lcnn_compress.compression.plan import LayerPlan, PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.machine import machine
from lcnn_compress.quickstart import ARCH, EMBEDDED, INPUT_SHAPE
from lcnn_compress.train.recipe import FinetuneSettings

RESULTS = Path(__file__).parent / "results"
SIZES: dict[str, PlanSettings] = {
    "large": PlanSettings("0.5", 0.5),
    "middle": PlanSettings("0.5", 0.25),
    "small": PlanSettings("30", 2),
}
CALIBRATION_IMAGES = 512
VALIDATION_IMAGES = 10_000


class Images:
    """Images (n, 1, 28, 28) in [0, 1] with class numbers (n,)."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.x[indices], self.y[indices]


def load(validate: bool, images: int | None) -> tuple[Images, Images]:
    """Return what to train on and what to score on."""
    x, y = map(torch.from_numpy, read_mnist_like(FASHION_MNIST, "train"))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    if validate:
        held, order = order[:VALIDATION_IMAGES], order[VALIDATION_IMAGES:]
        scored = Images(x[held], y[held])
    else:
        scored = Images(*map(torch.from_numpy, read_mnist_like(FASHION_MNIST, "t10k")))
    chosen = order[:images].sort().values
    return Images(x[chosen], y[chosen]), scored


def calibration(train: Images, seed: int) -> list[Tensor]:
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:CALIBRATION_IMAGES]
    return list(train.x[chosen].split(64))


def measure(source: api.Source, artefact: Artefact, settings: BenchSettings, images: Tensor | None = None) -> dict[str, Any]:
    """Compare the exported file with the dense one, and with its rivals if the settings want them.

    Args:
        source: the dense net.
        artefact: the compressed one.
        settings: the first number of threads and batch size count.
        images: that rivals take ranges from; random ones if None.
    """
    with tempfile.TemporaryDirectory(prefix="lcnn-fashion-") as folder:
        dense, lookup = Path(folder) / "dense.onnx", Path(folder) / "lookup.onnx"
        api.export_onnx(artefact, lookup)
        api.export_dense(source, dense, api.layer_rows(artefact.report))
        compared = compare_files(dense, lookup, settings, None if images is None else lambda _: images.numpy())
        run = asdict(compared.runs[0])
    keys = ("speedup_p50", "speedup_ci95", "macs_ratio", "realised_fraction")
    sizes = ("latency_ms_p50", "file_bytes", "peak_rss_bytes", "macs")
    found = {key: run[key] for key in keys} | {f"{net}_{key}": run[net][key] for net in ("dense", "lookup") for key in sizes}
    if settings.rivals:
        found |= {"best_other": run["best_other"], "rivals": run["rivals"], "made": [asdict(row) for row in compared.rivals]}
    return found


def open_net() -> api.Source:
    return api.open_model(EMBEDDED / "fashion_resnet.safetensors", INPUT_SHAPE, arch=ARCH)


def compare(name: str, train: Images, scored: Images, options: argparse.Namespace) -> dict[str, Any]:
    """Make every variant of one size with every seed; all share the layers measured faster in the first run."""
    plans: list[LayerPlan] | None = None
    variants: dict[str, dict[str, Any]] = {}
    wanted = ["data-free", "calibrated", *(["fine-tuned"] if options.epochs else [])]
    for variant in wanted:
        seeds = options.seeds if variant != "fine-tuned" else options.tuned_seeds
        found: dict[str, Any] = {"accuracy_percent": [], "seconds": []}
        for seed in range(seeds):
            source, started = open_net(), time.perf_counter()
            settings = CompressSettings(SIZES[name], init=options.init, seed=seed, measure=plans is None)
            data = TrainingData() if variant == "data-free" else TrainingData(calibration(train, seed))
            if variant == "fine-tuned":
                tuning = FinetuneSettings(epochs=options.epochs, batch_size=options.batch_size, lr=options.lr, seed=seed)
                settings, data = replace(settings, finetune=tuning), replace(data, examples=train)
            artefact = api.compress_source(source, settings, data, plans)
            plans = plans or [LayerPlan.from_json(layer) for layer in artefact.config["layers"]]
            found["seconds"].append(time.perf_counter() - started)
            accuracy = api.evaluate(artefact.net, scored).value
            found["accuracy_percent"].append(accuracy)
            print(f"{name} {variant} seed {seed}: {accuracy:.2f} %, {found['seconds'][-1]:.0f} s", flush=True)
        variants[variant] = found | measure(
            open_net(), artefact, BenchSettings(iterations=options.iterations, per_layer=False, rivals=False)
        )
    layers = [
        {key: getattr(row, key) for key in ("name", "kind", "reason", "dictionary_size")} for row in artefact.report.layers
    ]
    return {"dictionary": SIZES[name].dictionary, "lookups": SIZES[name].lookups, "layers": layers, "variants": variants}


def table(result: dict[str, Any]) -> str:
    lines = [f"dense {result['dense_percent']:.2f} % on {result['n']} images"]
    for name, size in result["sizes"].items():
        for variant, row in size["variants"].items():
            scores = row["accuracy_percent"]
            spread = f"{min(scores):.2f}-{max(scores):.2f}, {len(scores)} seed{'s' if len(scores) > 1 else ''}"
            low, high = row["speedup_ci95"]
            lines.append(
                f"{name:<7} {variant:<11} {statistics.mean(scores):6.2f} % ({spread})  {row['macs_ratio']:5.2f}x fewer MACs  "
                f"{row['dense_latency_ms_p50']:.3f} -> {row['lookup_latency_ms_p50']:.3f} ms  "
                f"{row['speedup_p50']:.2f}x [{low:.2f}, {high:.2f}]"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--init", default="ksvd")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuned-seeds", type=int, default=1, help="fine-tuning takes minutes for each")
    parser.add_argument("--epochs", type=int, default=1, help="0 leaves fine-tuning out")
    parser.add_argument("--images", type=int, help="fine-tune on so many training images [default: all]")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--validate", action="store_true", help="score on held-out training images instead of test images")
    parser.add_argument("--output", type=Path, default=RESULTS / "fashion.json")
    options = parser.parse_args()
    started = time.perf_counter()
    train, scored = load(options.validate, options.images)
    dense = api.evaluate(open_net().net, scored)
    result: dict[str, Any] = {
        "net": "fashion_resnet", "dense_percent": dense.value, "n": dense.n, "training_images": len(train),
        "date": time.strftime("%Y-%m-%d"), "machine": asdict(machine()),
        "settings": {key: value for key, value in vars(options).items() if key != "output"}, "sizes": {},
    }  # fmt: skip
    for name in options.sizes:
        result["sizes"][name] = compare(name, train, scored, options)
    result["seconds"] = time.perf_counter() - started
    print(table(result))
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

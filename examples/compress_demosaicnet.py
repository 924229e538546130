"""demosaicnet (Bayer): compress a pretrained restoration net data-free, calibrated and fine-tuned, and look at it.

PSNR is the mean over 384x384 crops of five photos from scikit-image and scikit-learn; the net learns from other photos (20 from
foolbox). Milliseconds are for one 3x256x256 mosaic in ONNX Runtime, dense and lookup in turn. Writes results/demosaicnet.json
and one restored picture of each kind.

    pip install --no-deps demosaicnet==0.0.14 scikit-image==0.26.0 foolbox==3.3.4
    python examples/compress_demosaicnet.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import bayer, package_file, patches, photos
from PIL import Image
from torch import Tensor, fx

from lcnn_compress import api, benchmark
from lcnn_compress.artefact import Artefact
from lcnn_compress.evaluation import score, torch_runner
from lcnn_compress.finetune import FinetuneSettings
from lcnn_compress.machine import machine
from lcnn_compress.pipeline import CompressSettings, TrainingData
from lcnn_compress.plan import PlanSettings

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SHAPE = (1, 3, 256, 256)
CROP = 384


class Mosaics:
    """Mosaics of photo patches with the photos as targets."""

    def __init__(self, images: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        self.targets = torch.from_numpy(images)
        self.mosaics = torch.from_numpy(bayer(images))

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.mosaics[indices], self.targets[indices]


def test_crops() -> list[Mosaics]:
    """Centre crops of the test photos, each on its own: they differ in size where a photo is smaller than the crop."""
    crops = []
    for image in photos("test"):
        height, width = (min(CROP, length) // 2 * 2 for length in image.shape[1:])
        top, left = ((length - crop) // 4 * 2 for length, crop in zip(image.shape[1:], (height, width), strict=True))
        crops.append(Mosaics(image[None, :, top : top + height, left : left + width]))
    return crops


def psnr(net: fx.GraphModule, crops: list[Mosaics]) -> list[float]:
    run = torch_runner(net)
    return [score(lambda x: run(x).clamp(0, 1), crop).value for crop in crops]


def variants(source: api.Source, options: argparse.Namespace) -> dict[str, Artefact]:
    """Compress three times with the same dictionaries: without data, with calibration, and fine-tuned after that."""
    plan = PlanSettings(options.dict, options.lookups, only=tuple(options.only))
    settings = CompressSettings(plan, init=options.init, seed=options.seed)
    train = photos("train")
    few = torch.from_numpy(bayer(patches(train, 128, 2, options.seed)))
    examples = Mosaics(patches(train, 96, options.patches, options.seed + 1))
    made = {"data-free": api.compress_source(source, settings)}
    made["calibrated"] = api.compress_source(source, settings, TrainingData(list(few.split(8))))
    tuning = FinetuneSettings(epochs=options.epochs, batch_size=16, lr=options.lr, seed=options.seed)
    tuned = CompressSettings(plan, init=options.init, seed=options.seed, finetune=tuning)

    def show(stage: str, done: int, total: int) -> None:
        if stage == "fine-tuning" and done % 50 == 0:
            print(f"{stage} {done}/{total}", flush=True)

    made["fine-tuned"] = api.compress_source(source, tuned, TrainingData(list(few.split(8)), examples), progress=show)
    return made


def measure(source: api.Source, artefact: Artefact, folder: Path) -> dict[str, Any]:
    dense, lookup = folder / "dense.onnx", folder / "lookup.onnx"
    api.export_onnx(artefact, lookup)
    api.export_dense(source, dense, api.layer_rows(artefact.report))
    run = benchmark.compare(dense, lookup, benchmark.BenchSettings(iterations=20, warmup=3, per_layer=False))["runs"][0]
    return {key: run[key] for key in ("speedup_p50", "speedup_ci95", "macs_ratio", "realised_fraction")} | {
        f"{name}_{key}": run[name][key]
        for name in ("dense", "lookup")
        for key in ("latency_ms_p50", "file_bytes", "peak_rss_bytes")
    }


@torch.no_grad()
def save_picture(net: fx.GraphModule, crop: Mosaics, name: str) -> None:
    restored = net(crop.mosaics)[0].clamp(0, 1).permute(1, 2, 0)
    Image.fromarray((restored.numpy() * 255).round().astype(np.uint8)).save(RESULTS / f"demosaicnet_{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dict", default="0.5")
    parser.add_argument("--lookups", type=float, default=0.25)
    parser.add_argument("--init", default="ksvd")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--patches", type=int, default=100, help="training patches from each photo")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    arch = f"{HERE / 'nets.py'}:demosaicnet"
    source = api.open_model(package_file("demosaicnet", "data", "bayer.pth"), SHAPE, arch=arch)
    crops = test_crops()
    save_picture(source.net, crops[0], "dense")
    result: dict[str, Any] = {
        "net": "demosaicnet Bayer", "photos": len(crops), "psnr_db_dense": psnr(source.net, crops), "settings": vars(options),
        "date": time.strftime("%Y-%m-%d"), "machine": machine(), "variants": {},
    }  # fmt: skip
    for name, artefact in variants(source, options).items():
        values = psnr(artefact.net, crops)
        with tempfile.TemporaryDirectory() as folder:
            timing = measure(
                api.open_model(package_file("demosaicnet", "data", "bayer.pth"), SHAPE, arch=arch), artefact, Path(folder)
            )
        result["variants"][name] = {"psnr_db": values, "psnr_db_mean": float(np.mean(values)), **timing}
        save_picture(artefact.net, crops[0], name)
        print(f"{name}: {np.mean(values):.2f} dB (dense {np.mean(result['psnr_db_dense']):.2f}), {timing}", flush=True)
    (RESULTS / "demosaicnet.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

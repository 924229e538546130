"""demosaicnet (Bayer): compress a pretrained restoration net data-free, calibrated and fine-tuned, and look at it.

PSNR is the mean over crops of eight photos the compressed net never saw: five from scikit-image and scikit-learn, three from
foolbox. It learns from 14 other foolbox photos; three more are for ``--validate``, which scores on them instead and is how the
settings were chosen. Layers at full resolution stay dense: one codes vectors of 6 numbers, and a dictionary of fewer entries
ruins the picture. Milliseconds are for one 3x256x256 mosaic in ONNX Runtime, one thread, dense and lookup in turn. Bilinear
interpolation is the floor. Writes results/demosaicnet.json and results/demosaicnet.png (dense and the variants, side by side).

    pip install --no-deps demosaicnet==0.0.14 scikit-image==0.26.0 foolbox==3.3.4
    python examples/compress_demosaicnet.py
    python examples/compress_demosaicnet.py --validate --epochs 0 --dict 64 --lookups 12
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import bayer, package_file, patches, photos
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from lcnn_compress import api
from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.benchmark.compare import BenchSettings, compare
from lcnn_compress.compression.plan import LayerPlan, PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.machine import machine
from lcnn_compress.train.recipe import FinetuneSettings

RESULTS = Path(__file__).resolve().parent / "results"
SHAPE = (1, 3, 256, 256)
CROP = 384
CALIBRATION_SIZE, TRAINING_SIZE = 128, 64  # pixels of a patch
N_TRAIN, N_VALIDATION = 14, 3  # of the 20 foolbox photos; the last three are test photos
ZOOM_AT, ZOOM = (150, 150), 96  # corner and size of the part of the picture that is enlarged


class Mosaics:
    """Mosaics of photo patches (n, 3, h, w) with the photos as targets."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self.targets = torch.from_numpy(images)
        self.mosaics = torch.from_numpy(bayer(images))

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.mosaics[indices], self.targets[indices]


def centre(image: NDArray[np.float32]) -> Tensor:
    """Return the centre (1, 3, h, w) of a photo, at most CROP pixels each way, from an even corner: the pattern stays."""
    height, width = (min(CROP, length) // 2 * 2 for length in image.shape[1:])
    top, left = ((length - crop) // 4 * 2 for length, crop in zip(image.shape[1:], (height, width), strict=True))
    return torch.from_numpy(image[None, :, top : top + height, left : left + width].copy())


def split() -> tuple[list[NDArray[np.float32]], list[Tensor], list[Tensor]]:
    """Return training photos, and crops to test and to validate on."""
    foolbox = photos("train")
    last = N_TRAIN + N_VALIDATION
    test = photos("test") + foolbox[last:]
    return foolbox[:N_TRAIN], [centre(photo) for photo in test], [centre(photo) for photo in foolbox[N_TRAIN:last]]


@torch.no_grad()
def restore(net: nn.Module, crop: Tensor) -> Tensor:
    restored: Tensor = net(torch.from_numpy(bayer(crop.numpy()))).clamp(0, 1)
    return restored


def psnr(restored: Tensor, photo: Tensor) -> float:
    return float(-10 * (restored - photo).double().square().mean().log10())


def bilinear(crop: Tensor) -> Tensor:
    """Interpolate each colour from its neighbours in the mosaic."""
    mosaic, seen = (torch.from_numpy(bayer(values)) for values in (crop.numpy(), np.ones_like(crop)))
    tent = torch.tensor([1.0, 2.0, 1.0]) / 2
    kernel = torch.outer(tent, tent).expand(3, 1, 3, 3)
    sums, weights = (nn.functional.conv2d(values, kernel, padding=1, groups=3) for values in (mosaic, seen))
    return sums / weights


def open_net() -> api.Source:
    return api.open_model(package_file("demosaicnet", "data", "bayer.pth"), SHAPE, arch="lcnn_compress.zoo:demosaicnet")


def variants(options: argparse.Namespace, train: list[NDArray[np.float32]]) -> dict[str, tuple[Artefact, float]]:
    """Compress with the same layers and dictionary sizes: without data, with calibration, and fine-tuned after that.

    Returns:
        Artefact and seconds by name.
    """
    plan = PlanSettings(options.dict, options.lookups, skip=("fullres_processor.*",))
    settings = CompressSettings(plan, options.init, options.seed)
    tuning = FinetuneSettings(options.epochs or 1, batch_size=options.batch_size, lr=options.lr, seed=options.seed)
    few = list(torch.from_numpy(bayer(patches(train, CALIBRATION_SIZE, 4, options.seed))).split(8))
    examples = Mosaics(patches(train, TRAINING_SIZE, options.patches, options.seed + 1))
    wanted = {
        "data-free": (settings, TrainingData()),
        "calibrated": (settings, TrainingData(few)),
        "fine-tuned": (CompressSettings(plan, options.init, options.seed, finetune=tuning), TrainingData(few, examples)),
    }
    if not options.epochs:
        del wanted["fine-tuned"]
    made: dict[str, tuple[Artefact, float]] = {}
    plans: list[LayerPlan] | None = None
    for name, (how, data) in wanted.items():
        started = time.perf_counter()
        artefact = api.compress_source(open_net(), how, data, plans)
        plans = [LayerPlan.from_json(layer) for layer in artefact.config["layers"]]
        made[name] = artefact, time.perf_counter() - started
        print(f"{name}: made in {made[name][1]:.0f} s", flush=True)
    return made


def measure(artefact: Artefact, iterations: int) -> dict[str, Any]:
    """Compare the exported file with the dense one at batch 1, one thread."""
    with tempfile.TemporaryDirectory(prefix="lcnn-demosaicnet-") as folder:
        dense, lookup = Path(folder) / "dense.onnx", Path(folder) / "lookup.onnx"
        api.export_onnx(artefact, lookup)
        api.export_dense(open_net(), dense, api.layer_rows(artefact.report))
        run = asdict(compare(dense, lookup, BenchSettings(iterations=iterations, per_layer=False)).runs[0])
    keys = ("speedup_p50", "speedup_ci95", "macs_ratio", "realised_fraction")
    sizes = ("latency_ms_p50", "file_bytes", "peak_rss_bytes", "macs")
    return {key: run[key] for key in keys} | {f"{net}_{key}": run[net][key] for net in ("dense", "lookup") for key in sizes}


def save_picture(restored: list[Tensor], path: Path) -> None:
    """Write pictures (1, 3, h, w) side by side, and below each a part of it four times enlarged; 256 colours to stay small."""
    top, left = ZOOM_AT
    columns = []
    for picture in restored:
        part = picture[..., top : top + ZOOM, left : left + ZOOM]
        columns.append(torch.cat([picture, nn.functional.interpolate(part, scale_factor=CROP / ZOOM, mode="nearest")], 2))
    row = torch.cat(columns, 3)[0].permute(1, 2, 0)
    image = Image.fromarray((row.numpy() * 255).round().astype(np.uint8))
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dict", default="48")
    parser.add_argument("--lookups", type=int, default=8)
    parser.add_argument("--init", default="ksvd")
    parser.add_argument("--epochs", type=int, default=3, help="0 leaves fine-tuning out")
    parser.add_argument("--patches", type=int, default=100, help="training patches from each photo")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--validate", action="store_true", help="score on the validation photos and write nothing")
    options = parser.parse_args()
    started = time.perf_counter()
    train, test, validation = split()
    crops = validation if options.validate else test
    pictures = {"dense": restore(open_net().net, crops[0])}
    reference = {
        name: [psnr(f(crop), crop) for crop in crops]
        for name, f in (("bilinear", bilinear), ("dense", lambda crop: restore(open_net().net, crop)))
    }
    result: dict[str, Any] = {
        "net": "demosaicnet Bayer", "photos": len(crops), "psnr_db": reference, "settings": vars(options),
        "date": time.strftime("%Y-%m-%d"), "machine": asdict(machine()), "variants": {},
    }  # fmt: skip
    print({name: f"{np.mean(values):.2f} dB" for name, values in reference.items()}, flush=True)
    for name, (artefact, seconds) in variants(options, train).items():
        values = [psnr(restore(artefact.net, crop), crop) for crop in crops]
        pictures[name] = restore(artefact.net, crops[0])
        found = {"psnr_db": values, "psnr_db_mean": float(np.mean(values)), "seconds": seconds}
        result["variants"][name] = found | measure(artefact, options.iterations)
        run = result["variants"][name]
        print(
            f"{name}: {np.mean(values):.2f} dB, {run['dense_latency_ms_p50']:.1f} -> {run['lookup_latency_ms_p50']:.1f} ms, "
            f"{run['speedup_p50']:.2f}x {run['speedup_ci95']}, {run['macs_ratio']:.2f}x fewer MACs",
            flush=True,
        )
    result["seconds"] = time.perf_counter() - started
    if not options.validate:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "demosaicnet.json").write_text(json.dumps(result, indent=1) + "\n")
        save_picture(list(pictures.values()), RESULTS / "demosaicnet.png")


if __name__ == "__main__":
    main()

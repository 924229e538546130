"""Do the main job on what ships with the package: a small residual net and a part of Fashion-MNIST.

The net was trained on all 60,000 images by ``examples/train_fashion_mnist.py``; 4,000 of them and 2,000 test images are here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnn_compress import api, runtime
from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.benchmark.compare import compare
from lcnn_compress.compression.settings import CompressSettings, PlanSettings, TrainingData
from lcnn_compress.data.data_settings import CALIBRATION_BATCH, CALIBRATION_IMAGES
from lcnn_compress.data.examples import batches
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.data.score import onnx_runner, score
from lcnn_compress.errors import SettingsError
from lcnn_compress.progress import Progress, silent
from lcnn_compress.search.target import Target
from lcnn_compress.train.recipe import FinetuneSettings

log = logging.getLogger(__name__)
EMBEDDED = Path(__file__).parent / "embedded"
INPUT_SHAPE = (1, 1, 28, 28)
ARCH = "lcnn_compress.zoo:fashion_resnet"
# How many times faster the net shall be: the first of these that this machine can reach.
SPEEDUPS = (5.0, 3.0, 2.0)
TRAINING = f"{__name__}:training_images"


def training_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the images (n, 1, 28, 28) and classes that ship with the package; the configuration names this function."""
    with np.load(EMBEDDED / "fashion_mnist_train.npz") as held:
        return held["x"], held["y"]


def run(
    output: Path,
    epochs: int = 3,
    progress: Progress = silent,
    *,
    plan: PlanSettings = PlanSettings(),
    speedups: Sequence[float] = SPEEDUPS,
    images: int = CALIBRATION_IMAGES,
) -> dict[str, Any]:
    """Compress, export, score and time the embedded net; return the figures of the table.

    Args:
        output: the artefact to write.
        epochs: passes over the 4,000 training images.
        progress: called as work goes on.
        plan: which layers may be compressed.
        speedups: targets; the first one that can be reached is met.
        images: how many of them calibrate.
    """
    training = load_examples(TRAINING, INPUT_SHAPE)
    test = load_examples(str(EMBEDDED / "fashion_mnist_test.npz"), INPUT_SHAPE)
    few = load_examples(TRAINING, INPUT_SHAPE, limit=images)
    source = api.open_model(EMBEDDED / "fashion_resnet.safetensors", INPUT_SHAPE, arch=ARCH)
    finetune = FinetuneSettings(epochs=epochs) if epochs else None
    settings = CompressSettings(plan=plan, init="ksvd", finetune=finetune)
    origin = {"calib": TRAINING, "samples": images, "data": TRAINING if epochs else None, "mean": None, "std": None}
    data = TrainingData([x for x, _ in batches(few, CALIBRATION_BATCH)], training if epochs else None, origin=origin)
    artefact = _compressed(source, settings, speedups, data, progress)
    api.save(artefact, output)
    lookup_file, dense_file = output / "model.onnx", output / "dense.onnx"
    api.export_onnx(artefact, lookup_file)
    api.export_dense(source, dense_file, api.layer_rows(artefact.report))
    scores = [score(onnx_runner(runtime.session(path)), test, progress).value for path in (dense_file, lookup_file)]
    timing = compare(dense_file, lookup_file, BenchSettings(iterations=200, per_layer=False, rivals=False))
    return {
        "command": "quickstart", "artefact": str(output), "metric": "top1_percent", "n": len(test),
        "dense": scores[0], "lookup": scores[1], "totals": artefact.report.totals.to_json(), "bench": asdict(timing),
    }  # fmt: skip


def _compressed(
    source: api.Source, settings: CompressSettings, speedups: Sequence[float], data: TrainingData, progress: Progress
) -> Artefact:
    *others, last = speedups
    for speedup in others:
        try:
            return api.compress_to_target(source, settings, Target("speedup", speedup), data, progress)
        except SettingsError as error:
            log.warning("%s", error)
    return api.compress_to_target(source, settings, Target("speedup", last), data, progress)

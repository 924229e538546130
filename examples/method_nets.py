"""The nets of compare_methods.py: narrower forms of each, training data, and a validation split not tested on.

* ``fashion_resnet``: the embedded residual classifier on Fashion-MNIST. It was trained on the images held out for validation,
  so they rank settings but flatter every score; the test images are new to it.
* ``demosaicnet``: the published net on photos (see compress_demosaicnet.py); 14 photos to learn from, 3 to validate, 8 to test.
* ``fashion_alexnet``: AlexNet's shape for 28x28 images, trained here once with a fixed seed and cached in the work folder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import compress_demosaicnet as demosaic
import nets
import torch
from compare_fashion import Images
from datasets import FASHION_MNIST, bayer, patches, read_mnist_like
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lcnn_compress import api
from lcnn_compress.data.examples import Examples
from lcnn_compress.data.score import score
from lcnn_compress.quickstart import ARCH, EMBEDDED
from lcnn_compress.zoo import BayerDemosaick, fashion_resnet

Run = Callable[[Tensor], Tensor]
VALIDATION_IMAGES = 10_000
ALEXNET_EPOCHS, ALEXNET_BATCH, ALEXNET_LR = 4, 64, 1e-3
TRAINING_PATCH, CALIBRATION_PATCH = 32, 64  # pixels of a patch of a photo
PATCHES_PER_PHOTO = 1000


@dataclass(frozen=True)
class Case:
    """A dense net and everything needed to compress it and to score what comes out.

    ``narrow`` builds the architecture at a share of its widths. ``train`` is the pool a training takes its images from.
    ``scores`` has "validation" and "test", each from a net that maps a batch to outputs. ``skip`` are layers kept dense by
    every method.
    """

    name: str
    metric: str
    source: api.Source
    narrow: Callable[[float], nn.Module]
    train: Examples
    scores: dict[str, Callable[[Run], float]]
    batch_size: int
    calibration: int  # images for refitting, batch norms and the ranges of int8
    calibration_batch: Callable[[Tensor], Tensor]  # from indices
    skip: tuple[str, ...] = ()
    speeds: tuple[float, ...] = (3, 6, 10, 16)  # times fewer MACs
    rates: tuple[float, ...] = (1e-3, 3e-3)  # learning rates every method chooses from
    share: float = 1.0  # of --images that a training of this net takes

    def calibrate(self, seed: int) -> list[Tensor]:
        """Return calibration batches of at most 64 images, chosen by the seed."""
        order = torch.randperm(self.calibration, generator=torch.Generator().manual_seed(seed))
        return [self.calibration_batch(indices) for indices in order.split(min(64, self.calibration))]

    def dense(self) -> api.Source:
        """Return the dense net once more; what is done to it changes no other."""
        return api.Source(copy.deepcopy(self.source.net), self.source.input_shape, self.source.origin)


def _fashion(scored_images: int | None) -> tuple[Images, dict[str, Callable[[Run], float]]]:
    x, y = map(torch.from_numpy, read_mnist_like(FASHION_MNIST, "train"))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held, kept = order[:VALIDATION_IMAGES], order[VALIDATION_IMAGES:]
    test = Images(*map(torch.from_numpy, read_mnist_like(FASHION_MNIST, "t10k")))
    scored = {"validation": Images(x[held], y[held]), "test": test}
    scored = {name: Images(images.x[:scored_images], images.y[:scored_images]) for name, images in scored.items()}
    return Images(x[kept], y[kept]), {
        name: lambda run, images=images: score(run, images).value for name, images in scored.items()
    }


def resnet_case(scored_images: int | None, work: Path) -> Case:  # noqa: ARG001  # all cases are made alike
    source = api.open_model(EMBEDDED / "fashion_resnet.safetensors", (1, 1, 28, 28), arch=ARCH)
    train, scores = _fashion(scored_images)

    def narrow(width: float) -> nn.Module:
        widths = [max(1, round(width * channels)) for channels in (32, 64, 128)]
        return fashion_resnet((widths[0], widths[1], widths[2]))

    return Case("fashion_resnet", "top-1, %", source, narrow, train, scores, 64, 512, lambda indices: train.x[indices])


def alexnet_case(scored_images: int | None, work: Path) -> Case:
    train, scores = _fashion(scored_images)
    path = work / "fashion_alexnet.safetensors"
    model = nets.fashion_alexnet()
    if path.is_file():
        model.load_state_dict(load_file(path))
    else:
        model = train_alexnet(train)
        save_file(model.state_dict(), path)
    source = api.open_model(model, (1, 1, 28, 28))
    return Case(
        "fashion_alexnet", "top-1, %", source, nets.fashion_alexnet, train, scores, 64, 512, lambda indices: train.x[indices],
        rates=(3e-4, 1e-3),
    )  # fmt: skip


def train_alexnet(train: Images, epochs: int = ALEXNET_EPOCHS) -> nn.Module:
    """Train the AlexNet for 28x28 images; minutes on one core."""
    torch.manual_seed(0)
    model = nets.fashion_alexnet().to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=ALEXNET_LR)
    steps = len(train) // ALEXNET_BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, ALEXNET_LR, epochs * steps)
    for epoch in range(epochs):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        for indices in order[: steps * ALEXNET_BATCH].split(ALEXNET_BATCH):
            x = train.x[indices]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(model(x), train.y[indices])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"fashion_alexnet: epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}", flush=True)
    return model.to(memory_format=torch.contiguous_format).eval()


def demosaicnet_case(scored_images: int | None, work: Path) -> Case:  # noqa: ARG001
    photos, test, validation = demosaic.split()
    calibration = torch.from_numpy(bayer(patches(photos, CALIBRATION_PATCH, 4, 0)))
    train = demosaic.Mosaics(patches(photos, TRAINING_PATCH, PATCHES_PER_PHOTO, 1))

    def psnr(crops: list[Tensor], run: Run) -> float:
        restored = [run(torch.from_numpy(bayer(crop.numpy()))).clamp(0, 1) for crop in crops]
        return sum(map(demosaic.psnr, restored, crops)) / len(crops)

    return Case(
        "demosaicnet", "PSNR, dB", demosaic.open_net(), lambda width: BayerDemosaick(width=max(1, round(64 * width))),
        train, {"validation": lambda run: psnr(validation, run), "test": lambda run: psnr(test, run)}, 8, len(calibration),
        lambda indices: calibration[indices], ("fullres_processor.*",), (2, 4, 6, 10), (1e-4, 3e-4), share=0.1,
    )  # fmt: skip


CASES: dict[str, Callable[[int | None, Path], Case]] = {
    "fashion_resnet": resnet_case, "demosaicnet": demosaicnet_case, "fashion_alexnet": alexnet_case,
}  # fmt: skip

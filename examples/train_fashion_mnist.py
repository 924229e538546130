"""Train the embedded default: a residual classifier on all 60,000 images of Fashion-MNIST, scored on all 10,000 test images.

Writes the weights, a stratified subset of the data (400 training and 200 test images a class) and the score into
``lcnn_compress/embedded``. No model selection: the last epoch is what ships. About 15 minutes on 2 cores with AMX.

    python examples/train_fashion_mnist.py
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch
from datasets import FASHION_MNIST, read_mnist_like, stratified
from safetensors.torch import save_file
from torch import Tensor, nn

from lcnn_compress.zoo import fashion_resnet

EMBEDDED = Path(__file__).parent.parent / "lcnn_compress" / "embedded"


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images left to right and shift all by up to 2 pixels."""
    n = len(x)
    flip = torch.rand(n, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    top, left = torch.randint(0, 5, (2, n), generator=generator)
    rows = top[:, None] + torch.arange(28)
    cols = left[:, None] + torch.arange(28)
    return padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], cols[:, None, :]][:, None]


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    hits = sum(int((model(xs).argmax(1) == ys).sum()) for xs, ys in zip(x.split(500), y.split(500), strict=True))
    return hits / len(x)


def train(epochs: int, seed: int) -> tuple[nn.Module, float]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = map(torch.from_numpy, read_mnist_like(FASHION_MNIST, "train"))
    x_test, y_test = map(torch.from_numpy, read_mnist_like(FASHION_MNIST, "t10k"))
    model = fashion_resnet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(x) // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.2, epochs * steps, pct_start=0.2)
    for epoch in range(epochs):
        started, model = time.time(), model.train()
        for batch in torch.randperm(len(x), generator=generator)[: steps * 128].split(128):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(augment(x[batch], generator).to(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits.float(), y[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}, {time.time() - started:.0f} s", flush=True)
    model = model.to(memory_format=torch.contiguous_format)
    return model, accuracy(model, x_test, y_test)


def write_subset() -> None:
    arrays = {}
    for name, split, per_class in (("train", "train", 400), ("test", "t10k", 200)):
        x, y = read_mnist_like(FASHION_MNIST, split)
        keep = stratified(y, per_class, seed=0)
        np.savez_compressed(
            EMBEDDED / f"fashion_mnist_{name}.npz", x=np.round(x[keep] * 255).astype(np.uint8), y=y[keep].astype(np.uint8)
        )
        arrays[name] = len(keep)
    print("subset written:", arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    EMBEDDED.mkdir(exist_ok=True)
    write_subset()
    model, score = train(options.epochs, options.seed)
    save_file(model.state_dict(), EMBEDDED / "fashion_resnet.safetensors")
    facts = {
        "test_accuracy": score, "n": 10000, "epochs": options.epochs, "seed": options.seed,
        "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    (EMBEDDED / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"test accuracy {score:.4f} on 10,000 images")


if __name__ == "__main__":
    main()

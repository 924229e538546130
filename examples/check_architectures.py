"""The same answer as the net, or a clear no: nets of timm and torchvision, compressed, exported and held against the original.

Every net has random weights (architectures.py) and a process of its own, with a limit of time and of memory. It is opened,
compressed with settings that represent every layer exactly, saved, loaded and exported, and the file runs with and without
the native library: at the size that was traced, and, where the file leaves height and width open, at an even and an odd one
that the net itself takes; with 1 and 3 images. What is expected is what the net answered before it was handed over.

right           no answer differs by more than a share of how much the net's answers differ from image to image
refused         an error of exit code 2, and the seconds until it came
wrong           another answer than the net's, or none where the file says that it takes the input
internal error  any other exception, or a process that died
too slow        not done in time
unfit           nothing was checked: the net fails by itself, answers every image alike, or a layer is not exact

Ends with 1 if anything is wrong, an internal error or unfit, or was refused too late. Writes no file unless asked to.

    pip install --no-deps torchvision==0.29.1 timm==1.0.31 && pip install huggingface_hub pyyaml
    python examples/check_architectures.py --json architectures.json
    python examples/check_architectures.py timm/resnet18 torchvision/vit_b_16
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import architectures
import torch
from results_file import Results
from torch import Tensor, nn

from lcnn_compress import api, runtime
from lcnn_compress.errors import LcnnError

SEED = 0
# Of the standard deviation of the net's answers from image to image; float32 alone makes up to an eighth of it.
TOLERANCE = 5e-3
LATEST_REFUSAL = 30.0  # seconds from the call on
EXACT = api.CompressSettings(
    plan=api.PlanSettings(dictionary="0.5", lookups=0.5, keep_slow=True), init="svd", measure=False, storage="float32"
)
INEXACT = 1e-4  # relative error of a layer that the settings should represent exactly
BAD = ("wrong", "internal error", "unfit")
Answers = list[tuple[Tensor, list[Tensor]]]


def answers(net: nn.Module, side: int) -> Answers:
    """Return inputs and what the net answers to them: 3 images and the first of them, at the traced size and two others.

    Raises:
        ValueError: it answers all images alike.
    """
    found: Answers = []
    for height, width in ((side, side), (side + 32, side + 64), (side + 11, side + 27)):
        x = architectures.images(3, height, width, SEED)
        try:
            with torch.no_grad():
                both = [(part, [y.clone() for y in architectures.leaves(net(part.clone()))]) for part in (x, x[:1])]
        except (RuntimeError, AssertionError, ValueError):
            if not found:
                raise
            continue  # another size than the net takes
        for y in both[0][1]:
            if not (spread(y) > 1e-4 * y.abs().max() and torch.isfinite(y).all()):
                raise ValueError(f"answers to unlike images spread by {spread(y):.1e} around {float(y.abs().max()):.1e}")
        found += both
    return found


def spread(answer: Tensor) -> float:
    """Return the standard deviation of answers (n, ...) around their mean over the images."""
    return float((answer.double() - answer.double().mean(dim=0)).square().mean().sqrt())


def examine(name: str, dense: bool, stage: Callable[[str], None]) -> dict[str, Any]:
    """Return what became of a net: its outcome, the stage it came in, and what there is to say.

    Args:
        name: a key of ``architectures.NETS``.
        dense: leave every layer as it is.
        stage: told the work that begins.
    """
    side = architectures.NETS[name]
    stage("build")
    torch.manual_seed(SEED)
    try:
        net = architectures.build(name)
        architectures.enliven(net, side)
        expected = answers(net, side)
    except Exception as error:
        return {"outcome": "unfit", "says": said(error)}
    skip = ("*",) if dense else architectures.DENSE_LAYERS.get(name, ())
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lcnn-architectures-") as folder:
        file = Path(folder) / "net.onnx"
        try:
            artefact = made(net, side, skip, file, stage)
        except LcnnError as error:
            outcome = "refused" if error.exit_code == 2 else "internal error"
            return {"outcome": outcome, "refused_after": time.perf_counter() - started, "says": said(error)}
        inexact = [row.name for row in artefact.report.layers if (row.relative_error or 0.0) > INEXACT]
        if inexact:
            return {"outcome": "unfit", "says": f"not exact: {', '.join(inexact[:4])}"}
        stage("compare")
        taken, held = held_against(file, expected)
    worst = max(held.values())
    differences = {size: value if math.isfinite(value) else None for size, value in held.items()}
    coded = sum(row.kind == "lookup" for row in artefact.report.layers)
    facts = {"layers": len(artefact.report.layers), "lookup_layers": coded, "input": taken, "differences": differences}
    if worst <= TOLERANCE:
        return {"outcome": "right", "difference": worst, **facts}
    says = ", ".join(f"{size}: {value:.1e}" for size, value in held.items() if value > TOLERANCE)
    return {"outcome": "wrong", "difference": worst if math.isfinite(worst) else None, "says": says, **facts}


def made(net: nn.Module, side: int, skip: tuple[str, ...], file: Path, stage: Callable[[str], None]) -> api.Artefact:
    """Open, compress, save, load and export a net; return the artefact as it was loaded."""
    stage("open")
    source = api.open_model(net, (1, 3, side, side))
    stage("compress")
    artefact = api.compress(source, settings=replace(EXACT, plan=replace(EXACT.plan, skip=skip)))
    stage("save and load")
    api.save(artefact, file.with_suffix(".lcnn"))
    artefact = api.load(file.with_suffix(".lcnn"))
    stage("export")
    api.export_onnx(artefact, file)
    return artefact


def held_against(file: Path, expected: Answers) -> tuple[list[int | str], dict[str, float]]:
    """Return the input that the file declares, and the largest difference, in units of the spread, at each size it takes.

    Raises:
        ValueError: it takes none of the inputs.
    """
    held: dict[str, float] = {}
    spreads: list[float] = []
    for native in sorted({False, runtime.library_path() is not None}):
        session = runtime.session(file, threads=1, native=native)
        (taken,) = session.get_inputs()
        for x, want in expected:
            spreads = [spread(y) for y in want] if len(x) > 1 else spreads  # one image comes after three of its size
            if all(isinstance(axis, str) or axis == size for axis, size in zip(taken.shape, x.shape, strict=True)):
                size = "x".join(map(str, x.shape))
                try:
                    got = [torch.from_numpy(y) for y in session.run(None, {taken.name: x.numpy()})]
                except runtime.ORT_ERRORS:
                    got = []  # it says that it takes the input, and does not
                held[size] = max(held.get(size, 0.0), largest(got, want, spreads))
    if not held:
        raise ValueError(f"the file takes {taken.shape}, none of the inputs that the net takes")
    return taken.shape, held


def largest(got: Sequence[Tensor], want: Sequence[Tensor], spreads: Sequence[float]) -> float:
    """Return the largest difference in units of the spread; infinite where shapes differ or a value is not a number."""
    if [y.shape for y in got] != [y.shape for y in want]:
        return math.inf
    off = [float((g.double() - w.double()).abs().max()) / s for g, w, s in zip(got, want, spreads, strict=True)]
    return math.inf if any(map(math.isnan, off)) else max(off)


def said(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['nothing'])[0]}"[:400]


def child(name: str, dense: bool, gigabytes: float, sender: Connection) -> None:
    """Examine one net; send the stages of the work with the seconds since the start, and at last the result."""
    os.setsid()  # a group of its own, so that whatever is started here ends with it
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(1)
    started = time.perf_counter()
    begun: dict[str, float] = {}

    def stage(name: str) -> None:
        begun[name] = round(time.perf_counter() - started, 1)
        sender.send({"stage": name, "begun": begun})

    try:
        result = examine(name, dense, stage)
    except Exception as error:
        traceback.print_exc()
        result = {"outcome": "internal error", "says": said(error)}
    sender.send(result)


def outcome_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Examine a net in a process of its own and return what became of it."""
    started = time.perf_counter()
    context = multiprocessing.get_context("fork")  # torch and timm are imported already
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(name, options.dense, options.gigabytes, sender))
    process.start()
    sender.close()
    result: dict[str, Any] = {}
    try:
        while receiver.poll(max(0.0, started + options.seconds - time.perf_counter())):
            result |= receiver.recv()
        result |= {"outcome": "too slow", "says": f"not done after {options.seconds:g} s"}
        os.killpg(process.pid, signal.SIGKILL)
    except EOFError:  # the child has ended
        pass
    process.join()
    if "outcome" not in result:
        result |= {"outcome": "internal error", "says": f"the process ended with {process.exitcode}"}
    return result | {"seconds": time.perf_counter() - started}


def is_bad(result: dict[str, Any]) -> bool:
    """Whether an outcome is none that a user may meet."""
    return result["outcome"] in BAD or result.get("refused_after", 0.0) > LATEST_REFUSAL


def line(name: str, result: dict[str, Any]) -> str:
    """Return a line of the table."""
    sizes = " ".join(dict.fromkeys(size.split("x", 2)[2] for size in result.get("differences", {})))
    difference = f"{result['difference']:.1e}" if result.get("difference") is not None else ""
    late = f"after {result['refused_after']:.0f} s" if "refused_after" in result else ""
    where = "" if result["outcome"] == "right" else f"{result.get('stage', '')}: {result.get('says', '')}"
    says = " ".join(filter(None, [late, where]))
    return f"{name:<44} {result['outcome']:<15} {difference:>8}  {result['seconds']:4.0f} s  {sizes:<24} {says[:200]}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", help="names such as timm/resnet18; all without any")
    parser.add_argument("--json", type=Path, help="file of the results; what it holds is not done again")
    parser.add_argument("--dense", action="store_true", help="leave all layers dense: quicker, and tests the capture alone")
    parser.add_argument("--seconds", type=float, default=300, help="limit of time for each net")
    parser.add_argument("--gigabytes", type=float, default=10, help="limit of memory for each net")
    options = parser.parse_args()
    unknown = sorted({*options.nets} - {*architectures.NETS})
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(architectures.NETS)}")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    architectures.import_packages()
    for package in ("onnx.reference", "onnxscript", "torch.onnx.ops", "torch._dynamo", "torch._inductor"):
        importlib.import_module(package)  # once here, and not again in every child
    with tempfile.TemporaryDirectory(prefix="lcnn-architectures-") as folder:
        results = Results(options.json or Path(folder) / "results.json")
        versions = {package: version(package) for package in ("timm", "torchvision")}
        kept = {"seed": SEED, "tolerance": TOLERANCE, "dense": options.dense, **versions}
        results.check_settings("architectures", kept)
        found = {}
        for name in options.nets or architectures.NETS:
            found[name] = results.get("runs", name, lambda name=name: outcome_of(name, options))
            print(line(name, found[name]), flush=True)
    print(", ".join(f"{n} {outcome}" for outcome, n in Counter(row["outcome"] for row in found.values()).most_common()))
    sys.exit(any(map(is_bad, found.values())))


if __name__ == "__main__":
    main()

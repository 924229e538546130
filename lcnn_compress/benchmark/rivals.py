"""What else a user could run the dense net with on this machine: int8 in ONNX Runtime, OpenVINO as it comes, OpenVINO int8.

Each rival is made in a child process and held there against the float32 net, on the images its ranges come from: int8 kernels
of some releases compute something else on some processors, and the time of a wrong net says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcnn_compress import runtime
from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.benchmark.child import run_child
from lcnn_compress.benchmark.timing import ONNXRUNTIME, OPENVINO, EngineFile, Outputs, openvino_request, random_values
from lcnn_compress.errors import DataError, LcnnError
from lcnn_compress.machine import int8_extensions

# The ranges of int8 activations are taken from this many random images where no others are given.
RANDOM_IMAGES = 4
# Outputs are checked on so many batches at most.
CHECKED_BATCHES = 16
# Outputs further off than this part of their spread are not those of the net: an answer that knows nothing of the image, the
# mean of all outputs, is off by 1.
LARGEST_ERROR = 0.5
# What OpenVINO computes in is known when it has compiled a net.
DEFAULT, INT8 = "default", "int8"
_NO_NUMBERS = "its outputs are not finite"


@dataclass(frozen=True)
class Rival:
    """One way to run the dense net.

    ``output_error`` is the root mean square of what its outputs are off those of the float32 net, as a part of the standard
    deviation of these. ``problem`` says why it has no times, and is None where it has.
    """

    name: str
    engine: str
    precision: str
    output_error: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Rivals:
    """What was made of one net: ``files`` has those that may be timed, by name; ``images`` says what ranges were taken from."""

    rows: tuple[Rival, ...]
    files: dict[str, EngineFile]
    images: str


@dataclass(frozen=True)
class RivalKind:
    """An engine, the precision it shall compute in, and the packages that takes besides ours."""

    engine: str
    precision: str
    packages: tuple[str, ...] = ()

    @property
    def is_installed(self) -> bool:
        """Whether the packages are here."""
        return all(find_spec(package) is not None for package in self.packages)

    @property
    def name(self) -> str:
        """Engine and precision."""
        return f"{self.engine} {self.precision}"


KINDS = (
    RivalKind(ONNXRUNTIME, INT8),
    RivalKind(OPENVINO, DEFAULT, ("openvino",)),
    RivalKind(OPENVINO, INT8, ("openvino", "nncf")),
)
ONNX_INT8, OPENVINO_DEFAULT, OPENVINO_INT8 = KINDS


def make_rivals(
    dense: Path,
    folder: Path,
    shape: Sequence[int],
    settings: BenchSettings,
    images: NDArray[np.float32] | None = None,
    kinds: Sequence[RivalKind] = KINDS,
) -> Rivals:
    """Make and check what may run instead of a dense net. One that fails is a row that says so.

    Args:
        dense: a float32 ONNX file, batch norms folded.
        folder: where files go.
        shape: (1, C, H, W) or (1, features) of the input.
        settings: whether there are rivals at all; the seed of random images and the time limit.
        images: (n, C, H, W) or (n, features) as the net takes them; None takes random ones.
        kinds: those to make; those that lack a package are rows too.
    """
    rows, files, stored = [], {}, None
    if images is not None:
        stored = folder / "images.npy"
        np.save(stored, images)
    for kind in kinds if settings.rivals else ():
        row = Rival(kind.name, kind.engine, kind.precision)
        if not kind.is_installed:
            lacking = f"not installed (pip install {' '.join(kind.packages)})"
            rows.append(replace(row, problem=lacking))
            continue
        path = dense if kind.precision == DEFAULT else folder / f"{kind.engine} int8.onnx".replace(" ", "_").lower()
        path = path.with_suffix(".xml") if kind is OPENVINO_INT8 else path
        given = {
            "engine": kind.engine, "precision": kind.precision, "dense": dense, "path": path, "shape": shape, "images": stored,
            "seed": settings.seed,
        }  # fmt: skip
        try:
            made = MadeRival(**run_child(make_rival, given, f"{kind.name} of {dense.name}", settings.timeout_s))
        except LcnnError as error:  # a net an engine cannot take leaves the others to be compared with
            rows.append(replace(row, problem=f"cannot be made ({error})"))
            continue
        name = f"{kind.engine} {made.precision}"
        row = replace(row, name=name, precision=made.precision, output_error=made.output_error, problem=_problem(made))
        rows.append(row)
        if row.problem is None:
            files[name] = EngineFile(path, kind.engine)
    source = f"{RANDOM_IMAGES} random images" if images is None else f"{len(images)} images given"
    return Rivals(tuple(rows), files, source)


def _problem(made: MadeRival) -> str | None:
    if made.output_error is None:
        return f"wrong: {_NO_NUMBERS}"
    if made.output_error > LARGEST_ERROR:
        return f"wrong: its outputs are off by {made.output_error:.2f} of their spread, more than {LARGEST_ERROR:g}"
    return None


def file_bytes(path: Path) -> int:
    """Return the bytes of a file of a rival, those of its weights beside it included."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)


# The functions below run in child processes, so they take and return what JSON holds; examples call some of them too.


@dataclass(frozen=True)
class MadeRival:
    """What a rival computes in and how far it is off; None where its outputs are not finite."""

    precision: str
    output_error: float | None


def make_rival(
    engine: str, precision: str, dense: str, path: str, shape: list[int], images: str | None, seed: int
) -> MadeRival:
    """Write the file of a rival, if it has one of its own, and hold its outputs against those of the float32 net."""
    batches = calibration_batches(Path(dense), shape, images, seed)
    if precision == INT8 and engine == ONNXRUNTIME:
        quantise_onnx(Path(dense), Path(path), batches)
    elif precision == INT8:
        quantise_openvino(Path(dense), Path(path), batches)
    batches = batches[:CHECKED_BATCHES]
    want = _outputs_of_onnx(Path(dense), batches)
    if engine == ONNXRUNTIME:
        return MadeRival(precision, output_error(want, _outputs_of_onnx(Path(path), batches)))
    request, computed = openvino_request(Path(path), batches[0].shape, 1)
    got = [list(request.infer([x]).values()) for x in batches]
    return MadeRival(INT8 if precision == INT8 else computed, output_error(want, got))


def calibration_batches(
    dense: Path, shape: Sequence[int], images: str | None = None, seed: int = 0
) -> list[NDArray[np.float32]]:
    """Return the images that ranges are taken from, in batches as the file takes them: of one image where it leaves them open.

    Raises:
        DataError: there are fewer images than the file takes at once.
    """
    batch = runtime.session(dense, threads=1).get_inputs()[0].shape[0]
    size = batch if isinstance(batch, int) else 1
    if images is None:
        return [random_values((size, *shape[1:]), seed + i) for i in range(RANDOM_IMAGES)]
    found = np.load(images)
    if len(found) < size:
        raise DataError(f"{len(found)} images to calibrate with; {dense.name} takes {size} at once: give more")
    return [found[i : i + size] for i in range(0, len(found) - size + 1, size)]


def quantise_onnx(
    dense: Path, path: Path, batches: Sequence[NDArray[np.float32]], *, entropy: bool = False, signed: bool = False
) -> None:
    """Write a float32 file as int8 for ONNX Runtime: static QDQ, weights per channel.

    Args:
        dense: the file, batch norms folded.
        path: the file to write.
        batches: inputs whose activations are seen.
        entropy: choose ranges by entropy, not by the extremes seen.
        signed: activations are int8 that lie around 0, not uint8 with a zero point.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    name = runtime.session(dense, threads=1).get_inputs()[0].name

    class Images(CalibrationDataReader):  # type: ignore[misc]  # a class without types
        def __init__(self) -> None:
            self.left: Iterator[NDArray[np.float32]] = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            x = next(self.left, None)
            return None if x is None else {name: x}

    quantize_static(
        dense, path, Images(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8 if signed else QuantType.QUInt8, weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.Entropy if entropy else CalibrationMethod.MinMax,
        # Without such instructions ONNX Runtime adds products of 8-bit weights in 16 bits, which do not hold them.
        reduce_range=not int8_extensions(),
        extra_options={"ActivationSymmetric": signed},
    )  # fmt: skip


def quantise_openvino(dense: Path, path: Path, batches: Sequence[NDArray[np.float32]], *, mixed: bool = False) -> None:
    """Write a float32 file as int8 for OpenVINO, by NNCF's quantisation after training.

    Args:
        dense: the file.
        path: the file to write, .xml; its weights go beside it.
        batches: inputs whose activations are seen.
        mixed: activations have a zero point, which is slower; otherwise they lie around 0.
    """
    os.environ.setdefault("NNCF_CI", "1")  # without it NNCF reports its use over the network
    import nncf
    import openvino

    preset = nncf.QuantizationPreset.MIXED if mixed else nncf.QuantizationPreset.PERFORMANCE
    net = openvino.Core().read_model(dense)
    openvino.save_model(nncf.quantize(net, nncf.Dataset(list(batches)), preset=preset, subset_size=len(batches)), path)


def _outputs_of_onnx(path: Path, batches: Sequence[NDArray[np.float32]]) -> list[Outputs]:
    session: Any = runtime.session(path, threads=1)
    name = session.get_inputs()[0].name
    return [session.run(None, {name: x}) for x in batches]


def output_error(want: Sequence[Outputs], got: Sequence[Outputs]) -> float | None:
    """Return how far outputs are off: root mean square as a part of the spread, of the worst output; None if not finite.

    The spread is the standard deviation over everything; of an output that is one number everywhere, that number; of zeros, 1.
    """
    worst = 0.0
    for right, found in zip(zip(*want, strict=True), zip(*got, strict=True), strict=True):
        a, b = (np.concatenate([np.ravel(y) for y in outputs]).astype(np.float64) for outputs in (right, found))
        off = float(np.sqrt(np.mean((a - b) ** 2)))
        if not np.isfinite(off):
            return None
        worst = max(worst, off / (float(a.std()) or float(np.sqrt(np.mean(a**2))) or 1.0))
    return worst

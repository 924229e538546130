"""Time lookup convolutions of a given shape with the native library on this machine, and remember the times. No torch.

What a lookup convolution costs depends on how many rows and lookups it has and not on their values, so factors are random and
a time holds for every layer of that shape. All forms of one shape are nodes of one model and run in turn: each finds its input
warm and its own factors cold, as in a net. The ordinary convolution is one of them: other work on the machine, and its clock,
change all times within minutes, and what was measured at different times is compared by that one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress import runtime
from lcnn_compress.bench.profile import layer_times
from lcnn_compress.errors import FileError
from lcnn_compress.export.rewrite import matrix_product, split_full
from lcnn_compress.files import sha256_of, write_atomically
from lcnn_compress.forms.kinds import LOOKUP, SPARSE, settled
from lcnn_compress.geometry import ConvGeometry, lookup_macs
from lcnn_compress.machine import machine
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.lookup_conv import OP_TYPE, node_attributes
from lcnn_compress.progress import Progress, silent

log = logging.getLogger(__name__)
ROUNDS = 5
RUNS = (3, 30)  # of a round
ROUND_MS = 80.0  # about how long a round of all forms of a shape may take
METHOD = 5  # of timing; times taken by another one are not used
MACS_PER_MS = 1e7  # of one slow core: only sets how often a shape is run


@dataclass(frozen=True)
class Shape:
    """What a layer is run on: channels, geometry, (height, width) and the images of one call.

    ``linear`` layers are matrix products where they are not lookups; their filters cover the plane.
    """

    in_channels: int
    out_channels: int
    geometry: ConvGeometry
    size: tuple[int, int]
    batch: int = 1
    linear: bool = False

    @property
    def weights(self) -> int:
        """Values of the ordinary convolution's weight."""
        return self.out_channels * self.in_channels // self.geometry.groups * self.geometry.taps

    @property
    def key(self) -> str:
        """The shape as text."""
        g = self.geometry
        parts = (
            self.in_channels,
            self.out_channels,
            g.kernel,
            g.stride,
            g.padding,
            g.dilation,
            g.groups,
            self.size,
            self.batch,
            int(self.linear),
        )
        return " ".join(",".join(map(str, p)) if isinstance(p, tuple) else str(p) for p in parts)


@dataclass(frozen=True, order=True)
class Form:
    """One way to code a layer: k dictionary rows of each group, 0 for an identity, and the non-zeros of all filters.

    ``filters_per_pattern`` neighbouring filters have the same pattern.
    """

    rows: int
    nonzeros: int
    filters_per_pattern: int = 1


DENSE = Form(-1, 0)  # the ordinary convolution


def default_cache() -> Path:
    """Return this user's cache folder: ``$XDG_CACHE_HOME/lcnn``, by default ``~/.cache/lcnn``."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache") / "lcnn"


def time_forms(
    wanted: Mapping[Shape, Iterable[Form]], *, threads: int = 1, cache: Path | None = None, progress: Progress = silent
) -> dict[Shape, dict[Form, float]]:
    """Return the ms of every form of every shape; what was measured before on this machine is not measured again.

    Those of a shape are as if measured together where ``DENSE`` is among them.

    Args:
        wanted: forms of each shape.
        threads: of one operator.
        cache: folder that keeps times; None is ``default_cache()``.
        progress: gets ("timing layers", shapes done, in total).

    Raises:
        MissingError: the native library is not there.
    """
    store = _Store(cache or default_cache(), threads)
    answer: dict[Shape, dict[Form, float]] = {}
    for done, (shape, listed) in enumerate(wanted.items()):
        progress("timing layers", done, len(wanted))
        forms = sorted(set(listed))
        known = store.read(shape)
        missing = [form for form in forms if form not in known]
        if missing:
            new = _measure(shape, sorted({*missing, *({DENSE} & set(forms))}), threads)
            then = known[DENSE] / new[DENSE] if DENSE in known and DENSE in new else 1.0
            known |= {form: then * new[form] for form in missing}
            store.add(shape, known)
        answer[shape] = {form: known[form] for form in forms}
    progress("timing layers", len(wanted), len(wanted))
    store.write()
    return answer


class _Store:
    """Times as JSON, one file for each processor, library, ONNX Runtime and number of threads.

    A cache that cannot be read is measured anew, one that cannot be written is logged: neither stops the work.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        facts = machine()
        self.conditions: dict[str, Any] = {key: facts[key] for key in ("cpu", "cores", "isa", "onnxruntime")}
        self.conditions |= {"method": METHOD, "threads": threads, "library": sha256_of(runtime.require_library())}
        name = hashlib.sha256(json.dumps(self.conditions, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / f"layer-times-{name}.json"
        self.times = self._load()
        self.changed = False

    def _load(self) -> dict[str, dict[str, float]]:
        if not self.path.is_file():
            return {}
        try:
            values = json.loads(self.path.read_bytes())
            return {str(s): {str(f): float(ms) for f, ms in forms.items()} for s, forms in values["times"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: cannot be used (%s); layers are timed anew", self.path, error)
            return {}

    def read(self, shape: Shape) -> dict[Form, float]:
        known = self.times.get(shape.key, {})
        return {Form(*map(int, key.split())): ms for key, ms in known.items()}

    def add(self, shape: Shape, times: Mapping[Form, float]) -> None:
        self.times[shape.key] = {f"{form.rows} {form.nonzeros} {form.filters_per_pattern}": ms for form, ms in times.items()}
        self.changed = True

    def write(self) -> None:
        if not self.changed:
            return
        values = {"conditions": self.conditions, "times": {**self._load(), **self.times}}  # another run may have added some
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(values, indent=1, sort_keys=True).encode())
        except (OSError, FileError) as error:
            log.warning("layer times are not kept: %s", error)


def _measure(shape: Shape, forms: Sequence[Form], threads: int) -> dict[Form, float]:
    macs = shape.batch * sum(_macs(shape, form) for form in forms)
    runs = int(np.clip(ROUND_MS * MACS_PER_MS / max(1, macs), *RUNS))
    with tempfile.TemporaryDirectory(prefix="lcnn-") as folder:
        path = Path(folder) / "forms.onnx"
        write_atomically(path, forms_model(shape, forms).SerializeToString())
        times = layer_times(path, threads=threads, runs=runs, rounds=ROUNDS)
    return {form: times[str(i)] for i, form in enumerate(forms)}


def _macs(shape: Shape, form: Form) -> int:
    if form == DENSE:
        return lookup_macs(shape.in_channels, 0, shape.weights, shape.geometry, shape.size)
    return lookup_macs(shape.in_channels, form.rows, form.nonzeros, shape.geometry, shape.size)


def forms_model(shape: Shape, forms: Sequence[Form]) -> onnx.ModelProto:
    """Return a model in which every form, with random factors, reads the same input; node i is forms[i].

    Only the first value of what a form gives leaves the model, so that the next one writes to the same memory, as in a net.
    """
    nodes, constants, outputs = [], [numpy_helper.from_array(np.zeros(1, np.float32), "residual")], []
    n_dims = 2 if shape.linear else 4
    constants += [numpy_helper.from_array(np.full(n_dims, value, np.int64), name) for value, name in ((0, "start"), (1, "end"))]
    constants.append(numpy_helper.from_array(np.array([-1, shape.out_channels], np.int64), "features"))
    constants.append(numpy_helper.from_array(np.zeros(shape.out_channels, np.float32), "bias"))
    for i, form in enumerate(forms):
        attributes = node_attributes(shape.geometry)
        if form == DENSE:
            weight = np.random.default_rng(0).standard_normal(
                (shape.out_channels, shape.in_channels // shape.geometry.groups, *shape.geometry.kernel), np.float32
            )
            constants.append(numpy_helper.from_array(weight, f"{i}.weight"))
            inputs = ["X", f"{i}.weight", "bias"]
            plain = {key: attributes[key] for key in ("kernel_shape", "strides", "pads", "dilations", "group")}
            conv = helper.make_node("Conv", inputs, [f"Y{i}"], name=str(i), **plain)
            nodes += matrix_product(inputs, f"Y{i}", str(i)) if shape.linear else [conv]
        else:
            dictionary, gaps, coefficients = _random_factors(shape, form)
            for name, values in (("D", dictionary), ("gaps", gaps), ("coefficients", coefficients)):
                constants.append(numpy_helper.from_array(values, f"{i}.{name}"))
            inputs = ["X", f"{i}.D", f"{i}.gaps", f"{i}.coefficients", "bias", "residual"]
            nodes.append(helper.make_node(OP_TYPE, inputs, [f"Y{i}"], name=str(i), domain=DOMAIN, **attributes))
        result = f"Y{i}"
        if shape.linear:
            nodes.append(helper.make_node("Reshape", [result, "features"], [f"features{i}"]))
            result = f"features{i}"
        nodes.append(helper.make_node("Slice", [result, "start", "end"], [f"first{i}"], name=f"first{i}"))
        outputs.append(helper.make_tensor_value_info(f"first{i}", TensorProto.FLOAT, [1] * n_dims))
    entry = helper.make_tensor_value_info("X", TensorProto.FLOAT, (shape.batch, shape.in_channels, *shape.size))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    graph = helper.make_graph(nodes, "forms", [entry], outputs, constants)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    split_full(model, {str(i) for i, form in enumerate(forms) if _is_full(shape, form)})
    return model


def _is_full(shape: Shape, form: Form) -> bool:
    slots = shape.out_channels * shape.geometry.taps * max(0, form.rows)
    channels = shape.in_channels // shape.geometry.groups
    kind = SPARSE if form.rows <= 0 else LOOKUP
    return settled(kind, nonzeros=form.nonzeros, slots=slots, dictionary_size=form.rows, channels=channels).is_full


def _random_factors(shape: Shape, form: Form) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    groups, m = shape.geometry.groups, shape.in_channels // shape.geometry.groups
    size = form.rows or m
    dictionary = rng.standard_normal((groups * size, m)) if form.rows else np.tile(np.eye(m), (groups, 1))
    kernel = np.zeros((shape.out_channels, size, *shape.geometry.kernel), np.float32)
    blocks = -(-shape.out_channels // form.filters_per_pattern)
    used = np.zeros(blocks * (kernel.size // shape.out_channels), bool)
    used[rng.choice(used.size, min(used.size, -(-form.nonzeros // form.filters_per_pattern)), replace=False)] = True
    pattern = used.reshape(blocks, -1).repeat(form.filters_per_pattern, axis=0)[: shape.out_channels].reshape(kernel.shape)
    kernel[pattern] = rng.uniform(0.5, 1.5, pattern.sum()) * rng.choice((-1, 1), pattern.sum())
    gaps, coefficients = encode_positions(kernel)
    return dictionary.astype(np.float16), gaps, coefficients.astype(np.float16)

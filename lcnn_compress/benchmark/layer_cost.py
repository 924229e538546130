"""Time forms of a layer of a given shape with the native library on this machine, and remember the times. No torch.

What a lookup convolution costs depends on how many rows and lookups it has and not on their values, so factors are random and
a time holds for every layer of that shape. All forms of one shape are nodes of one model and run in turn: each finds its input
warm and its own factors cold, as in a net. The ordinary convolution is one of them: other work on the machine, and its clock,
change all times within minutes, so times of different occasions are scaled by what the ordinary convolution took on each.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lcnn_compress import runtime
from lcnn_compress.artefact.field_rules import fits
from lcnn_compress.artefact.strict_json import parse_json
from lcnn_compress.benchmark.layer_forms import (
    NARROW,
    ORDINARY,
    Form,
    LookupForm,
    NarrowForm,
    Rounding,
    Shape,
    form_macs,
    forms_model,
)
from lcnn_compress.benchmark.profile import Rounds, layer_times
from lcnn_compress.errors import FileError
from lcnn_compress.files import sha256_of, temporary_folder, write_atomically
from lcnn_compress.machine import machine
from lcnn_compress.operators.lookup_conv import LAYER_OPS
from lcnn_compress.progress import Progress, silent

log = logging.getLogger(__name__)
FORM_ROUNDS = 5
# A round of all forms of a shape takes about this long.
FORM_ROUND_MS = 80.0
# A round runs each form at least and at most this often, however long that takes.
FORM_RUNS = (3, 30)
# The name of the file of times depends on this number of the method of timing: times taken another way are not used.
METHOD = 5
# A slow core does about this many MACs in a millisecond; the number only sets how often a shape is run.
MACS_PER_MS = 1e7
# ONNX Runtime counts in microseconds, so that what is faster takes none: it counts for this many ms.
RESOLUTION_MS = 1e-3
# Times outside of this range, in ms, were not measured.
CREDIBLE_MS = 1e-6, 1e7
# A file of times is kept below this size, which thousands of layers need, and read up to it: that takes less than a second.
MAX_FILE_BYTES = 4 << 20


_TIMED_OPS = {*LAYER_OPS, *(kind.from_float for kind in NARROW.values())}
# The keys of forms in files of times; the limit on digits keeps numbers small.
_FORM_KEY = re.compile(rf"-1 0 1|({'|'.join(NARROW)}) ([0-9]{{1,12}}|input)|[0-9]{{1,12}} [0-9]{{1,12}} [0-9]{{1,12}}")
# ``_Times`` holds the ms of each form of each shape, by their keys; shapes are in the order in which they were added.
_Times = dict[str, dict[str, float]]
# A function of this type takes and returns what ``measure_forms`` does.
MeasureForms = Callable[[Shape, Sequence[Form], int], dict[Form, float]]


def default_cache() -> Path | None:
    """Return this user's cache folder: ``$XDG_CACHE_HOME/lcnn``, by default ``~/.cache/lcnn``; None where there is no home."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "lcnn"
    except RuntimeError:  # HOME is not set, and the system does not know the user
        return None


def measure_forms(shape: Shape, forms: Sequence[Form], threads: int) -> dict[Form, float]:
    """Time all forms of a shape in turn; return the ms of each, the least of the medians of several rounds."""
    macs = shape.batch * sum(form_macs(shape, form) for form in forms)
    runs = int(np.clip(FORM_ROUND_MS * MACS_PER_MS / max(1, macs), *FORM_RUNS))
    with temporary_folder() as folder:
        path = folder / "forms.onnx"
        write_atomically(path, forms_model(shape, forms).SerializeToString())
        times = layer_times(path, threads=threads, rounds=Rounds(FORM_ROUNDS, runs=runs), layer_ops=_TIMED_OPS)
    return {form: max(times[str(i)], RESOLUTION_MS) for i, form in enumerate(forms)}


def time_forms(
    wanted: Mapping[Shape, Iterable[Form]],
    *,
    threads: int = 1,
    cache: Path | None = None,
    progress: Progress = silent,
    measure: MeasureForms = measure_forms,
) -> dict[Shape, dict[Form, float]]:
    """Return the ms of every form of every shape; what was measured before on this machine is not measured again.

    Times of a shape are as if measured together where ``ORDINARY`` is among its forms.

    Args:
        wanted: forms of each shape to be timed.
        threads: number that one operator may use.
        cache: folder that keeps times; None is ``default_cache()``.
        progress: gets ("timing layers", shapes done, in total).
        measure: times the forms of one shape that are not known yet, in this order.

    Raises:
        MissingError: the native library is not there.
    """
    store = _Store(cache or default_cache(), threads)
    answer: dict[Shape, dict[Form, float]] = {}
    for done, (shape, listed) in enumerate(wanted.items()):
        progress("timing layers", done, len(wanted))
        forms = _in_order(listed)
        known = store.read(shape)
        missing = [form for form in forms if form not in known]
        if missing:
            new = measure(shape, _in_order([*missing, *({ORDINARY} & set(forms))]), threads)
            then = known[ORDINARY] / new[ORDINARY] if ORDINARY in known and ORDINARY in new else 1.0
            known |= {form: then * new[form] for form in missing}
            store.add(shape, known)
        answer[shape] = {form: known[form] for form in forms}
    progress("timing layers", len(wanted), len(wanted))
    store.write()
    return answer


def _in_order(forms: Iterable[Form]) -> list[Form]:
    """Return each form once, the ordinary one first: the order in which they run is part of the method of timing.

    What is made of the input in narrow numbers comes before the forms that read it.
    """
    given = set(forms)
    lookups = sorted(form for form in given if isinstance(form, LookupForm))
    roundings = sorted(form for form in given if isinstance(form, Rounding))
    narrow = sorted(form for form in given if isinstance(form, NarrowForm))
    return [*({ORDINARY} & given), *lookups, *roundings, *narrow]


class _Store:
    """Times as JSON, one file for each processor, library, ONNX Runtime and number of threads.

    A cache is no reason to fail: where there is no place for one, or none that can be used, one line of the log says so. What
    a file holds is believed as a whole or not at all (``_read_times``).
    """

    def __init__(self, folder: Path | None, threads: int) -> None:
        facts = machine()
        self.conditions = {
            "cpu": facts.cpu, "cores": facts.cores, "isa": facts.isa, "onnxruntime": facts.onnxruntime, "method": METHOD,
            "threads": threads, "library": sha256_of(runtime.require_library()),
        }  # fmt: skip
        name = hashlib.sha256(json.dumps(self.conditions, sort_keys=True).encode()).hexdigest()[:16]
        self.path = None if folder is None else folder / f"layer-times-{name}.json"
        self.held: _Times = {}
        self.new: _Times = {}
        self.damaged = False
        if self.path is None:
            log.warning("layer times are not kept: the home folder is not known; set XDG_CACHE_HOME to a folder for them")
            return
        try:
            self.held = _read_times(self.path)
        except ValueError as error:
            log.warning("%s: cannot be used (%s); layers are timed anew", self.path, error)
            self.damaged = True
        except OSError as error:
            self._give_up(error)

    def read(self, shape: Shape) -> dict[Form, float]:
        return {_form_of(key): ms for key, ms in self.held.get(shape.key, {}).items()}

    def add(self, shape: Shape, times: Mapping[Form, float]) -> None:
        self.new[shape.key] = {form.key: ms for form, ms in times.items()}

    def write(self) -> None:
        if self.path is None or not self.new:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The file is read again, because another run may have added times.
            held = {} if self.damaged else _read_times(self.path)
            times = _latest({**{shape: forms for shape, forms in held.items() if shape not in self.new}, **self.new})
            write_atomically(self.path, json.dumps({"conditions": self.conditions, "times": times}).encode())
        except (OSError, ValueError, FileError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning("layer times are not kept: %s", error)
        self.path = None


def _read_times(path: Path) -> _Times:
    """Return the times that a file holds; none where there is no file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large or not of our form, or one of its times cannot be one.
    """
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
    values = parse_json(content)
    times = values.get("times") if isinstance(values, dict) else None
    if not isinstance(times, dict):
        raise ValueError("it holds no times of layers")
    for shape, forms in times.items():
        if not isinstance(forms, dict):
            raise ValueError(f"the times of {shape!r:.60} are {forms!r:.60}")
        for key, ms in forms.items():
            if not _FORM_KEY.fullmatch(key):
                raise ValueError(f"{key!r:.60} is no form of a layer")
            if not (fits(ms, float) and CREDIBLE_MS[0] <= ms <= CREDIBLE_MS[1]):
                raise ValueError(f"a time of {ms!r:.60} ms was not measured")
    return times


def _latest(times: _Times) -> _Times:
    """Return the times that fit into a file, those added last first in line, in the order in which they were added."""
    room = MAX_FILE_BYTES - 2048  # for the conditions
    kept: list[str] = []
    for shape in reversed(times):
        room -= len(json.dumps({shape: times[shape]}))
        if room < 0:
            break
        kept.append(shape)
    return {shape: times[shape] for shape in reversed(kept)}


def _form_of(key: str) -> Form:
    first, *rest = key.split()
    if key == ORDINARY.key:
        return ORDINARY
    if first not in NARROW:
        return LookupForm(*map(int, key.split()))
    return Rounding(first) if rest == ["input"] else NarrowForm(first, int(rest[0]))

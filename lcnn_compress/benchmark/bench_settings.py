"""The settings of a benchmark. Nothing heavy is imported: the options of ``lcnn bench`` are made from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field

from lcnn_compress.artefact.field_rules import check_fields, check_seed
from lcnn_compress.errors import SettingsError

# ONNX Runtime starts as many threads as it is told to.
MAX_THREADS = 1024


@dataclass(frozen=True)
class BenchSettings:
    """What a benchmark measures; every batch size is measured with every number of threads.

    Attributes:
        iterations: rounds in which every form runs.
        warmup: rounds that are run first and not counted.
        per_layer: whether layers are timed too, at batch 1 with the first number of threads.
        rivals: whether other ways to run the dense net are made and timed too.
        seed: seed of the random input and of the bootstrap.
        timeout_s: seconds that each child process may take.

    Raises:
        SettingsError: a number makes no sense.
    """

    threads: tuple[int, ...] = field(default=(1,), metadata={
        "help": "Threads of every form, e.g. 1 or 1,2", "metavar": "N,...",
    })  # fmt: skip
    batches: tuple[int, ...] = field(default=(1,), metadata={"help": "Batch sizes, e.g. 1,8", "metavar": "N,..."})
    iterations: int = field(default=100, metadata={"help": "Timed runs of every form", "metavar": "N", "min": 2})
    warmup: int = 5
    per_layer: bool = field(default=True, metadata={"help": "Time every layer too"})
    rivals: bool = field(default=True, metadata={
        "help": "Time the dense net in int8 and, where it is installed, in OpenVINO too",
    })  # fmt: skip
    seed: int = 0
    timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_seed(self.seed)
        for name, values in (("threads", self.threads), ("batches", self.batches), ("iterations", (self.iterations,))):
            if not values or min(values) < 1:
                raise SettingsError(f"{name} is {values}; each must be at least 1")
        if max(self.threads) > MAX_THREADS:
            raise SettingsError(f"threads is {self.threads}; each must be at most {MAX_THREADS}")
        if self.warmup < 0:
            raise SettingsError(f"warmup is {self.warmup}; it must be at least 0")

"""What decides a compression: settings, what becomes of each layer, and the data that may improve the net.

Nothing heavy is imported before a value is made: the options of the command line are made from these fields, and its help
answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcnn_compress.artefact.field_rules import check_fields, check_seed
from lcnn_compress.benchmark.bench_settings import MAX_THREADS
from lcnn_compress.data.data_settings import CALIBRATION_BATCH, CALIBRATION_IMAGES
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.arithmetic import ARITHMETICS, AUTO, FLOAT32, check_arithmetic
from lcnn_compress.forms.kinds import FILTERS_PER_PATTERN, KINDS, Kind
from lcnn_compress.forms.size_rules import DEFAULT_LOOKUPS, PRESETS, check_amount, parse_dictionary
from lcnn_compress.renamed import renamed
from lcnn_compress.train.recipe import FinetuneSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lcnn_compress.data.examples import Examples
    from lcnn_compress.data.tasks import Task


@renamed(share="filters_per_pattern")
@dataclass(frozen=True)
class PlanSettings:
    """Which layers to compress and how far.

    ``lookups`` as int are entries per kernel position, as float a share of the dictionary; None takes what the preset
    ``dictionary`` says, or a quarter. ``only`` and ``skip`` are globs on the names of layers.

    Raises:
        SettingsError: a value is none of those allowed.
    """

    dictionary: str = field(default="0.25", metadata={
        "help": "Entries per layer: 30, a share of the channels 0.25, fast, accurate, or by name 'layer1.*=16,layer4.*=128'",
        "metavar": "SIZE",
    })  # fmt: skip
    lookups: int | float | None = field(default=None, metadata={
        "help": "Lookups per kernel position: 2, or a share of the dictionary", "metavar": "NUMBER",
        "shown_default": "0.25; fast: 1, accurate: 0.5",
    })  # fmt: skip
    only: tuple[str, ...] = field(default=(), metadata={
        "help": "Compress only layers that match (may be repeated)", "metavar": "GLOB",
    })  # fmt: skip
    skip: tuple[str, ...] = field(default=(), metadata={
        "help": "Keep layers that match dense (may be repeated)", "metavar": "GLOB",
    })  # fmt: skip
    keep_slow: bool = field(default=False, metadata={"help": "Compress layers even where lookup does not pay"})
    filters_per_pattern: int = field(default=1, metadata={
        "help": "Neighbouring filters that look the same rows up: 2, 4 or 8 make lookups up to twice as fast", "metavar": "N",
    })  # fmt: skip

    def __post_init__(self) -> None:
        check_fields(self)
        parse_dictionary(self.dictionary)
        if self.filters_per_pattern not in FILTERS_PER_PATTERN:
            allowed = ", ".join(map(str, FILTERS_PER_PATTERN))
            raise SettingsError(f"`filters_per_pattern` is {self.filters_per_pattern}; it must be one of {allowed}")
        if self.lookups is not None:
            check_amount("lookups", str(self.lookups), self.lookups, "lookups per position", "the dictionary")

    @property
    def effective_lookups(self) -> int | float:
        """``lookups``, or what the preset or the default says."""
        return self.lookups if self.lookups is not None else PRESETS.get(self.dictionary, (0.0, DEFAULT_LOOKUPS))[1]


@renamed(share="filters_per_pattern")
@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer.

    Attributes:
        name: name of the layer.
        kind: name of one of ``forms.kinds.KINDS``.
        reason: why it stays dense, else empty.
        dictionary_size: k; the channels of a group for ``sparse`` layers.
        lookups: entries for each position if 1 or more, a fraction of k if less; k itself for ``lowrank`` layers.
        note: what else there is to say.
        filters_per_pattern: this many neighbouring filters have the same pattern, one of ``FILTERS_PER_PATTERN``.
        arithmetic: what the layer computes in, one of ``forms.arithmetic.ARITHMETICS``.

    Raises:
        SettingsError: a value is of another type, or no arithmetic is called so.
    """

    name: str
    kind: str
    reason: str
    dictionary_size: int = 0
    lookups: float = 0.0
    note: str = ""
    filters_per_pattern: int = 1
    arithmetic: str = FLOAT32

    def __post_init__(self) -> None:
        check_fields(self)
        check_arithmetic(self.arithmetic)

    @property
    def form(self) -> Kind:
        """What the kind means."""
        return KINDS[self.kind]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a configuration, with the names that 0.1.0 gave its fields."""
        values = asdict(self)
        if self.arithmetic == FLOAT32:  # 0.1.0 knows no other
            del values["arithmetic"]
        return values | {"share": values.pop("filters_per_pattern")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LayerPlan:
        """Invert ``to_json``; raises TypeError, ValueError or SettingsError for anything else."""
        rest = dict(values)
        return cls(filters_per_pattern=rest.pop("share", 1), **rest)


@renamed(coefficients="storage")
@dataclass(frozen=True)
class CompressSettings:
    """Everything that decides the result, apart from the model and the data.

    Raises:
        SettingsError: a value is none of those allowed.
    """

    plan: PlanSettings = field(default_factory=PlanSettings)
    init: str = field(default="kmeans", metadata={
        "help": "Start of the dictionaries: kmeans, svd or ksvd", "metavar": "NAME",
    })  # fmt: skip
    seed: int = field(default=0, metadata={"help": "Seed of everything random", "metavar": "N", "min": 0})
    storage: str = field(default="float16", metadata={
        "help": "Stored factors: float16, float32, or int8 (float16, and large dictionaries in 8 bits)", "metavar": "TYPE",
    })  # fmt: skip
    measure: bool = field(default=True, metadata={"help": "Time every layer and keep those dense that are not faster"})
    threads: int = field(default=1, metadata={"help": "Threads while measuring", "metavar": "N", "min": 1})
    finetune: FinetuneSettings | None = None
    arithmetic: str = field(default=AUTO, metadata={
        "help": "What layers compute in: float32, bfloat16, int8 (needs calib or data), or auto: a target chooses",
        "metavar": "TYPE",
    })  # fmt: skip

    def __post_init__(self) -> None:
        from lcnn_compress.forms.dictionary import INITS
        from lcnn_compress.forms.storage import check_type

        check_fields(self)
        check_seed(self.seed)
        if self.init not in INITS:
            raise SettingsError(f"`init` is '{self.init}'; it must be one of {', '.join(INITS)}")
        check_type(self.storage)
        check_arithmetic(self.arithmetic, (AUTO, *ARITHMETICS))
        if self.finetune is not None and self.finetune.sparsity == "top":
            raise SettingsError("`sparsity` is 'top', which is for training from scratch; it must be gradual or threshold")
        if not 1 <= self.threads <= MAX_THREADS:
            raise SettingsError(f"`threads` is {self.threads}; it must be at least 1 and at most {MAX_THREADS}")


@dataclass(frozen=True)
class TrainingData:
    """What may improve a compressed net: unlabelled calibration batches, training examples, a checkpoint to keep or resume.

    ``on_plan`` gets the layer decisions before training starts: a resumed run must be given the same ones. ``origin`` says
    where the data came from, for the configuration; None where it was in memory. ``held_out`` are labelled examples nothing
    is trained or calibrated on: a largest drop is judged by them. ``enough`` may stop training early: see ``train.loop.Goal``.
    ``task`` says what labels mean, where their type does not; the recipe of training must say the same.
    """

    calibration: Sequence[Tensor] = ()
    examples: Examples | None = None
    held_out: Examples | None = None
    checkpoint: Path | None = None
    resume: bool = False
    on_plan: Callable[[Sequence[LayerPlan]], None] | None = None
    origin: dict[str, Any] | None = None
    enough: Callable[[nn.Module], bool] | None = None
    task: Task | None = None

    def calibrated(self, images: int = CALIBRATION_IMAGES) -> TrainingData:
        """Let ``images`` examples at even distances serve where there are no calibration inputs: files come by class."""
        if self.calibration or self.examples is None:
            return self
        from lcnn_compress.data.examples import batches
        from lcnn_compress.net.output_error import even_places

        some = even_places(len(self.examples), images)
        return replace(self, calibration=[x for x, _ in batches(self.examples, CALIBRATION_BATCH, some)])

    def recorded_origin(self) -> dict[str, Any] | None:
        """Return what the configuration says of the data: None where there is none."""
        present = bool(self.calibration) or self.examples is not None
        return self.origin or ({"in_memory": True} if present else None)

"""What decides a training from scratch: the dictionaries, how kernels get sparse, the schedule.

Bagherinezhad et al., "LCNN", CVPR 2017 (arXiv 1611.06473), section 4, and its published code where the paper is silent.
Options of the command line are made from these fields; torch is not imported for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lcnn_compress.artefact.field_rules import check_fields, check_seed
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.published import ACCURATE, FAST, Published
from lcnn_compress.forms.size_rules import parse_dictionary
from lcnn_compress.scratch.schedules import TIMETABLES
from lcnn_compress.train.recipe import SPARSITIES, Recipe

# What each preset takes its dictionaries from; None leaves all layers dense.
PRESETS = {"lcnn-fast": FAST, "lcnn-accurate": ACCURATE, "dense": None}
# c and lambda' where nothing was published for the net: those of AlexNet.
THRESHOLD_C, L1 = 0.01, {FAST: 0.3, ACCURATE: 0.1}


@dataclass(frozen=True)
class TrainSettings:
    """How to train a net from scratch.

    Attributes:
        preset: one of ``PRESETS``.
        dictionary: sizes instead of those of the preset, as ``PlanSettings.dictionary``.
        sparsity: one of ``train.recipe.SPARSITIES``.
        lookups: s, entries that each position of each filter keeps; ``threshold`` decides that itself.
        threshold_c: c of epsilon = c * sigma; None takes what was published for the net, 0.01 where nothing was.
        l1: lambda' of lambda = lambda' * epsilon; None takes what was published, 0.3 (fast) or 0.1 where nothing was.
        timetable: one of ``schedules.TIMETABLES``; None takes that of the paper for AlexNet and ResNet, "cosine" for others.
        epochs, batch_size, lr: instead of those of the timetable, whose steps are stretched to the epochs.
        balanced: draw classes equally often, as the code of the paper does.
        shift, flip: see ``scratch.drawn.Augmented``.
        storage: type that the artefact holds factors in, as ``CompressSettings.storage``.

    Raises:
        SettingsError: a value is none of those allowed.
    """

    preset: str = field(default="lcnn-fast", metadata={
        "help": f"{', '.join(PRESETS)}: dictionaries of the paper for AlexNet and ResNet, m/4 and m/2 for other nets",
        "metavar": "NAME",
    })  # fmt: skip
    dictionary: str | None = field(default=None, metadata={
        "help": "Entries per layer instead of the preset's: 30, a share of the channels 0.25, or 'layer1.*=16,layer4.*=128'",
        "metavar": "SIZE",
    })  # fmt: skip
    sparsity: str = field(default="threshold", metadata={
        "help": "threshold: L1 and epsilon, as the paper's nets; top: the largest of each position; gradual: fewer and fewer",
        "metavar": "NAME",
    })  # fmt: skip
    lookups: int = field(default=3, metadata={
        "help": "Lookups per kernel position (top, gradual)", "metavar": "N", "min": 1,
    })  # fmt: skip
    threshold_c: float | None = field(default=None, metadata={
        "help": "epsilon in standard deviations of the start of each layer's kernel (threshold)", "metavar": "NUMBER",
        "shown_default": "as published, else 0.01",
    })  # fmt: skip
    l1: float | None = field(default=None, metadata={
        "help": "lambda' of the paper: weight of L1 in units of epsilon (threshold)", "metavar": "NUMBER",
        "shown_default": "as published, else 0.3 or 0.1",
    })  # fmt: skip
    timetable: str | None = field(default=None, metadata={
        "help": f"Learning rates, weight decay and optimiser: {' or '.join(TIMETABLES)}", "metavar": "NAME",
        "shown_default": "the paper's for AlexNet and ResNet, else cosine",
    })  # fmt: skip
    epochs: int | None = field(default=None, metadata={
        "help": "Passes over the data", "metavar": "N", "min": 1, "shown_default": "55, cosine 30",
    })  # fmt: skip
    batch_size: int | None = field(default=None, metadata={
        "help": "Images per training step", "metavar": "N", "min": 2, "shown_default": "128, resnet 256",
    })  # fmt: skip
    lr: float | None = field(default=None, metadata={
        "help": "Highest learning rate", "metavar": "NUMBER", "shown_default": "that of the schedule",
    })  # fmt: skip
    balanced: bool = field(default=False, metadata={"help": "Draw all classes equally often"})
    shift: int = field(default=0, metadata={
        "help": "Cut each image out of itself with so many pixels of padding, at random", "metavar": "PIXELS", "min": 0,
    })  # fmt: skip
    flip: bool = field(default=False, metadata={"help": "Flip one image in two left to right"})
    seed: int = field(default=0, metadata={"help": "Seed of everything random", "metavar": "N", "min": 0})
    storage: str = field(default="float16", metadata={
        "help": "Stored factors: float16, float32, or int8 (float16, and large dictionaries in 8 bits)", "metavar": "TYPE",
    })  # fmt: skip
    precision: str = field(default="float32", metadata={
        "help": "of products in training: float32, or bfloat16 where the processor has it (AMX, AVX-512)", "metavar": "TYPE",
    })  # fmt: skip
    device: str = field(default="cpu", metadata={"help": "Where to train: cpu, cuda or cuda:N", "metavar": "NAME"})

    def __post_init__(self) -> None:
        from lcnn_compress.forms.storage import check_type

        check_fields(self)
        check_seed(self.seed)
        check_type(self.storage)
        for name, allowed in (("preset", PRESETS), ("sparsity", SPARSITIES), ("timetable", (None, *TIMETABLES))):
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"`{name}` is '{getattr(self, name)}'; it must be one of {', '.join(filter(None, allowed))}"
                )
        if self.dictionary is not None:
            parse_dictionary(self.dictionary)
            if PRESETS[self.preset] is None:
                raise SettingsError("`dictionary` does nothing with `preset` dense; leave one of them out")
        if self.shift < 0:
            raise SettingsError(f"`shift` is {self.shift}; it must be 0 or more pixels")

    def recipe(self, published: Published | None, timetable: str) -> Recipe:
        """Return every number of the training.

        Args:
            published: what was published for the net at this preset, if anything.
            timetable: name of the timetable where the settings name none.

        Raises:
            SettingsError: a number is outside its range.
        """
        chosen = TIMETABLES[self.timetable or timetable]
        c, l1 = THRESHOLD_C, L1[PRESETS[self.preset] or FAST]
        if published is not None:
            c, l1 = published.threshold_c, published.l1
        return Recipe(
            epochs=self.epochs or chosen.epochs, batch_size=self.batch_size or chosen.batch_size,
            lr=chosen.lr if self.lr is None else self.lr, sparsity=self.sparsity,
            threshold_c=c if self.threshold_c is None else self.threshold_c, l1=l1 if self.l1 is None else self.l1,
            lookups=self.lookups, seed=self.seed, precision=self.precision, device=self.device,
            optimiser=chosen.optimiser, schedule=chosen.schedule,
        )  # fmt: skip

"""How to write an ONNX file. Nothing heavy is imported: the options of ``lcnn export`` are made from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field

from lcnn_compress.artefact.field_rules import check_fields
from lcnn_compress.renamed import renamed

MAX_DIFFERENCE = 1e-3


@renamed(coefficients="storage")
@dataclass(frozen=True)
class ExportSettings:
    """How to write an ONNX file.

    Attributes:
        storage: type of the factors, dictionaries included, one of ``forms.storage.TYPES``.
        fallback: write the function body that runs the operator where the native library is missing.
        dense: write ordinary Conv nodes instead of LookupConv.
        tolerance: largest difference to torch that is allowed, as a share of the spread of an output (its largest value less
            its smallest).

    Raises:
        SettingsError: there is no such type of factors, or a value is of another type.
    """

    storage: str = field(default="float16", metadata={"help": "float16, float32 or int8", "metavar": "TYPE"})
    fallback: bool = field(default=True, metadata={"help": "Add the body that runs the operator where our library is missing"})
    dense: bool = field(default=False, metadata={"help": "Write ordinary convolutions, for engines without our operator"})
    tolerance: float = field(default=MAX_DIFFERENCE, metadata={
        "help": "Largest difference to torch, as a share of the spread of the outputs", "metavar": "NUMBER",
    })  # fmt: skip

    def __post_init__(self) -> None:
        from lcnn_compress.forms.storage import check_type

        check_fields(self)
        check_type(self.storage)

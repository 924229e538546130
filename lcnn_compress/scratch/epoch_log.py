"""The log of a training, one JSON object a line: what each epoch gave, and how sparse its layers were."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from lcnn_compress.artefact.report import Json
from lcnn_compress.data.score import Score
from lcnn_compress.errors import FileError
from lcnn_compress.files import write_atomically
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.train.loop import Epoch


@dataclass
class EpochLog:
    """Writes the line of an epoch; lines of the same and later epochs, which an interrupted run left, are replaced.

    Attributes:
        path: the file.
        epochs: how many epochs there will be.
    """

    path: Path
    epochs: int
    began: float = field(default_factory=time.monotonic)

    def write(self, epoch: Epoch, score: Score | None) -> None:
        """Write the line of an epoch.

        ``density`` is the part of the entries of P that are not zero, ``mean_s`` how many a position of a filter looks up.
        ``seconds`` count from the line before, or from the start of the run.

        Raises:
            FileError: the file cannot be read or written.
        """
        now = time.monotonic()
        seconds, self.began = now - self.began, now
        line = {
            "epoch": epoch.number, "epochs": self.epochs, "loss": epoch.loss,
            "score": None if score is None else {"metric": score.metric, "value": score.value, "n": score.n},
            "layers": _layers(epoch), "seconds": round(seconds, 2),
        }  # fmt: skip
        try:
            earlier = self.path.read_text().splitlines() if self.path.is_file() else []
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{self.path}: cannot be read: {error}; check its permissions, or delete it") from error
        lines = [*earlier[: epoch.number - 1], json.dumps(line)]
        write_atomically(self.path, ("\n".join(lines) + "\n").encode())


def _layers(epoch: Epoch) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, lookup in epoch.net.named_modules():
        if isinstance(lookup, LookupConv2d):
            nonzeros = int(lookup.sparse_kernel.count_nonzero())
            positions = lookup.out_channels * lookup.geometry.taps
            found[name] = {
                "nonzeros": nonzeros, "density": nonzeros / lookup.support.numel(), "mean_s": nonzeros / positions,
            }  # fmt: skip
    return found

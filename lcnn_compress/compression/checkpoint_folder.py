"""The folder ``NAME.lcnn.checkpoint`` that keeps a fine-tuning until its artefact is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lcnn_compress.compression.configuration import read_object
from lcnn_compress.compression.settings import LayerPlan, TrainingData
from lcnn_compress.errors import ArtefactError, SettingsError
from lcnn_compress.files import write_atomically


def last_part_of(training: Path) -> Path:
    """Return the file that keeps the part in 8 bits of a training whose first part is kept in ``training``."""
    return training.with_name(f"{training.stem}_int8{training.suffix}")


class CheckpointFolder:
    """The folder beside the artefact ``path``: ``plan.json``, the decisions, and ``training.ckpt``, the state of training.

    A training whose last part is in 8 bits keeps the state of that in a file of its own.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path.with_name(path.name + ".checkpoint")
        self.plan, self.training = self.folder / "plan.json", self.folder / "training.ckpt"
        self.last_part = last_part_of(self.training)

    @property
    def exists(self) -> bool:
        """Whether there is something to resume."""
        return self.plan.is_file() and (self.training.is_file() or self.last_part.is_file())

    def earlier_plans(self, trains: bool, resume: bool) -> list[LayerPlan] | None:
        """Return the layer decisions of the interrupted run, so that nothing is measured anew; None without ``resume``.

        Raises:
            SettingsError: there is nothing to resume, or a checkpoint that a new run, which ``trains``, would overwrite.
            ArtefactError: the checkpoint is damaged.
        """
        if not resume:
            if trains and self.exists:
                raise SettingsError(
                    f"{self.folder}: holds an interrupted fine-tuning; add `resume` to continue it, or delete that folder"
                )
            return None
        if not trains:
            raise SettingsError("`resume` continues a fine-tuning; add `data` and `epochs` as in the first run")
        if not self.exists:
            raise SettingsError(f"{self.folder}: no checkpoint to resume; run without `resume`")
        try:
            return [LayerPlan.from_json(values) for values in read_object(self.plan)["layers"]]
        except (KeyError, TypeError, ValueError, SettingsError) as error:
            raise ArtefactError(f"{self.plan}: damaged ({error}); delete {self.folder} and run without `resume`") from error

    @contextmanager
    def keeping(self, data: TrainingData, resume: bool) -> Iterator[TrainingData]:
        """Yield ``data`` with this checkpoint; what is of use afterwards stays, and an interrupt says how to go on."""
        self.folder.mkdir(exist_ok=True)
        try:
            yield replace(data, checkpoint=self.training, resume=resume, on_plan=self._keep)
        except KeyboardInterrupt:
            if not self.exists:
                raise
            raise KeyboardInterrupt(f"{self.folder} keeps the work; the same command with `resume` continues") from None
        else:
            self.plan.unlink()
            self.training.unlink(missing_ok=True)
            self.last_part.unlink(missing_ok=True)
        finally:
            if not self.exists:
                self.plan.unlink(missing_ok=True)
                with suppress(OSError):  # files that are not ours keep the folder
                    self.folder.rmdir()

    def _keep(self, decided: Sequence[LayerPlan]) -> None:
        write_atomically(self.plan, json.dumps({"layers": [p.to_json() for p in decided]}).encode())

"""How long a training from scratch takes and how fast it learns: the schedules of the LCNN paper's code, and a modern one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lcnn_compress.train.recipe import Optimiser, Schedule, Sgd, Steps


@dataclass(frozen=True)
class Timetable:
    """Epochs, batch size and peak learning rate as published, and how the rate moves in a training of any length.

    An epoch of the published code is 10,000 batches of ImageNet, about one pass; here it is one pass over the data.
    """

    epochs: int
    batch_size: int
    lr: float
    optimiser: Optimiser | Sgd
    schedule: Schedule | Steps


def _falling(last_epochs: Sequence[int], rates: Sequence[float]) -> Steps:
    """Return steps of which each ends with an epoch, counted from 1."""
    return Steps(tuple(epoch / last_epochs[-1] for epoch in last_epochs), tuple(rate / max(rates) for rate in rates))


ALEXNET, RESNET, COSINE = "alexnet", "resnet", "cosine"
TIMETABLES = {
    ALEXNET: Timetable(55, 128, 1e-2, Sgd(0.9), _falling((18, 29, 43, 52, 55), (1e-2, 5e-3, 1e-3, 5e-4, 1e-4))),
    # Weight decay ends with the 16th epoch.
    RESNET: Timetable(
        55, 256, 1e-1, Sgd(0.9, 5e-4, 16 / 55), _falling((7, 16, 25, 30, 55), (1e-1, 3e-2, 1e-2, 3e-3, 1e-3))
    ),
    COSINE: Timetable(30, 128, 1e-3, Optimiser(), Schedule()),
}  # fmt: skip

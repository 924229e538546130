"""The published schedules, epoch by epoch."""

from __future__ import annotations

import torch
from torch import nn

from lcnn_compress.scratch.schedules import ALEXNET, COSINE, RESNET, TIMETABLES
from lcnn_compress.train.recipe import Sgd


def rates(name: str, epochs: int) -> list[float]:
    chosen = TIMETABLES[name]
    return [round(chosen.schedule.rate(chosen.lr, epoch, epochs), 8) for epoch in range(epochs)]


def test_rates_of_alexnet_are_those_of_the_published_code() -> None:
    assert rates(ALEXNET, 55) == [1e-2] * 18 + [5e-3] * 11 + [1e-3] * 14 + [5e-4] * 9 + [1e-4] * 3
    assert (TIMETABLES[ALEXNET].epochs, TIMETABLES[ALEXNET].batch_size) == (55, 128)
    assert TIMETABLES[ALEXNET].optimiser == Sgd(0.9, weight_decay=0.0)


def test_rates_of_resnet_are_those_of_the_published_code() -> None:
    assert rates(RESNET, 55) == [1e-1] * 7 + [3e-2] * 9 + [1e-2] * 9 + [3e-3] * 5 + [1e-3] * 25
    parameter = nn.Parameter(torch.zeros(1))
    sgd = TIMETABLES[RESNET].optimiser
    optimiser = sgd.over([parameter], 0.1)
    decays = []
    for epoch in range(55):
        sgd.adjust(optimiser, 0.1, epoch / 55)
        decays.append(optimiser.param_groups[0]["weight_decay"])
    assert decays == [5e-4] * 16 + [0] * 39


def test_a_shorter_training_passes_the_same_steps() -> None:
    assert rates(ALEXNET, 11) == [1e-2] * 4 + [5e-3] * 2 + [1e-3] * 3 + [5e-4] * 2
    assert rates(COSINE, 100)[0] < rates(COSINE, 100)[9] > rates(COSINE, 100)[99]

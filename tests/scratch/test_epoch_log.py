"""The log of a training: one line an epoch, and what a stop leaves in it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from lcnn_compress.data.score import Score
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.scratch.epoch_log import EpochLog
from lcnn_compress.train.loop import Epoch


def epoch(number: int, loss: float = 0.5) -> Epoch:
    kernel = torch.zeros(4, 5, 3, 3)
    kernel[:, 0] = 1.0
    kernel[0, 1:] = 1.0
    return Epoch(number, loss, nn.Sequential(LookupConv2d(torch.rand(5, 8), kernel, None, ConvGeometry((3, 3)))))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_how_far_the_net_is_and_how_sparse(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "log.jsonl", 9)
    log.write(epoch(1), Score("top1_percent", 12.5, 8))
    log.write(epoch(2, 0.25), None)
    first, second = lines(tmp_path / "log.jsonl")
    assert (first["epoch"], first["epochs"], first["loss"]) == (1, 9, 0.5)
    assert first["score"] == {"metric": "top1_percent", "value": 12.5, "n": 8}
    # 9 positions of 4 filters: one entry each, and 4 more in the first filter, of 180.
    assert first["layers"] == {"0": {"nonzeros": 72, "density": 0.4, "mean_s": 2.0}}
    assert (second["epoch"], second["loss"], second["score"]) == (2, 0.25, None)


def test_an_epoch_that_is_done_again_replaces_its_line_and_those_after_it(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "log.jsonl", 4)
    for number in (1, 2, 3):
        log.write(epoch(number), None)
    EpochLog(tmp_path / "log.jsonl", 4).write(epoch(2, 0.75), None)
    assert [(line["epoch"], line["loss"]) for line in lines(tmp_path / "log.jsonl")] == [(1, 0.5), (2, 0.75)]

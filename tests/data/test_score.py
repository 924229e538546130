"""Scores of several labels by hand."""

from __future__ import annotations

import pytest
import torch
from training_cases import TensorExamples

from lcnn_compress.data.score import Score, image_scores, score
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError


def test_labels_told_right() -> None:
    y = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    logits = torch.tensor([[2.0, -1.0, 3.0, 0.5], [-1.0, 0.0, 0.1, -0.1]])  # three of four right, twice
    examples = TensorExamples(torch.zeros(2, 1), y)
    metric, values = image_scores(lambda _: logits, examples, task=Task.LABELS)
    assert (metric, values.tolist()) == ("labels_percent", [75.0, 75.0])
    assert score(lambda _: logits, examples, task=Task.LABELS) == Score("labels_percent", 75.0, 2)
    assert score(lambda _: logits, examples).metric == "psnr_db"  # floats are targets unless it is stated
    with pytest.raises(DataError, match=r"labels are \(2, 4\), but the net returns \(2, 3\)"):
        score(lambda _: logits[:, :3], examples, task=Task.LABELS)

"""Settings refuse what they cannot mean; training examples serve for calibration where nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import Noise

from lcnn_compress.compression.settings import CALIBRATION_BATCH, CALIBRATION_IMAGES, CompressSettings, TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.train.recipe import FinetuneSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "pca"}, "`init` is 'pca'; it must be one of kmeans, svd, ksvd"),
        ({"finetune": FinetuneSettings(sparsity="top")}, "`sparsity` is 'top', which is for training from scratch"),
        ({"threads": 0}, "`threads` is 0; it must be at least 1"),
    ],
)
def test_settings_out_of_range(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        CompressSettings(**change)


class _Numbered(Noise):
    """Each example is full of its number."""

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return indices.float()[:, None, None, None].expand(-1, 3, 16, 16), indices % 10


def test_training_examples_at_even_distances_calibrate_where_no_inputs_are_given() -> None:
    by_class = TrainingData(examples=_Numbered(600)).calibrated(6)
    assert torch.cat(list(by_class.calibration))[:, 0, 0, 0].tolist() == [0, 100, 200, 300, 400, 500]
    data = TrainingData(examples=_Numbered(600)).calibrated()
    assert [len(x) for x in data.calibration] == [CALIBRATION_BATCH] * (CALIBRATION_IMAGES // CALIBRATION_BATCH)
    given = TrainingData([torch.zeros(1, 3, 16, 16)], Noise(600))
    assert given.calibrated() is given
    assert TrainingData().calibrated().calibration == ()


def test_the_origin_of_data_is_recorded() -> None:
    assert TrainingData().recorded_origin() is None
    assert TrainingData(examples=Noise()).recorded_origin() == {"in_memory": True}
    assert TrainingData(examples=Noise(), origin={"data": "a.npz"}).recorded_origin() == {"data": "a.npz"}

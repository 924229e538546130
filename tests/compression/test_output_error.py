"""How far a net's outputs are from the dense one's."""

from __future__ import annotations

import torch

from lcnn_compress import api
from lcnn_compress.compression.output_error import Outputs, first_images
from lcnn_compress.compression.plan import PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData


def test_calibration_images_may_differ_in_size() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU()
    )
    source = api.open_model(net.eval(), (1, 3, 12, 12))
    images = [torch.randn(70, 3, 12, 12), torch.randn(90, 3, 16, 14)]
    assert [tuple(x.shape) for x in first_images(images, 128)] == [
        (32, 3, 12, 12), (32, 3, 12, 12), (6, 3, 12, 12), (32, 3, 16, 14), (26, 3, 16, 14)
    ]  # fmt: skip
    settings = CompressSettings(PlanSettings("4", 2, only=("3",), keep_slow=True), init="svd", measure=False)
    judge = Outputs(source.net, images)
    before = judge.error(api.compress(source, settings=settings).net)
    assert judge.error(api.compress(source, settings=settings, data=TrainingData(images)).net) < before

"""What the pipeline hands to fine-tuning: the final lookups in a short training, twice as many in one long enough to prune."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import small_net
from torch import Tensor

from lcnn_compress import api, pipeline
from lcnn_compress.finetune import FinetuneSettings
from lcnn_compress.modules import LookupConv2d
from lcnn_compress.pipeline import CompressSettings, TrainingData
from lcnn_compress.plan import PlanSettings


class Noise:
    """Random images with random classes."""

    def __len__(self) -> int:
        return 32

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(indices[0]))
        return torch.randn(len(indices), 3, 16, 16, generator=generator), indices % 10


@pytest.mark.parametrize(("pruning_steps", "factor"), [(10_000, 1), (1, 2)])
def test_training_starts_with_more_lookups_only_where_it_prunes(
    pruning_steps: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, int] = {}
    train = pipeline.finetune

    def spy(net: Any, *args: Any, **kwargs: Any) -> Any:
        starts.update({name: m.n_nonzeros for name, m in net.named_modules() if isinstance(m, LookupConv2d)})
        return train(net, *args, **kwargs)

    monkeypatch.setattr(pipeline, "finetune", spy)
    monkeypatch.setattr(pipeline, "PRUNING_STEPS", pruning_steps)
    settings = CompressSettings(PlanSettings("8", 2), measure=False, finetune=FinetuneSettings(epochs=2, batch_size=8))
    artefact = api.compress(api.open_model(small_net(), (1, 3, 16, 16)), settings=settings, data=TrainingData(examples=Noise()))
    targets = {"conv1": 2 * 32 * 9, "conv2": 2 * 32 * 9}
    assert starts == {name: factor * count for name, count in targets.items()}
    assert artefact.report["training"]["nonzeros"] == targets

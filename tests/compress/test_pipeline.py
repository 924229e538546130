"""A dense net in, an artefact out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import Noise, small_net

from lcnn_compress import api
from lcnn_compress.compress.pipeline import compress_net
from lcnn_compress.compress.plan import LayerPlan, PlanSettings
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.train.loop import finetune
from lcnn_compress.train.recipe import FinetuneSettings


@pytest.mark.parametrize(("pruning_steps", "factor"), [(10_000, 1), (1, 2)])
def test_training_starts_with_more_lookups_only_where_it_prunes(
    pruning_steps: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, int] = {}
    train = finetune

    def spy(net: Any, *args: Any, **kwargs: Any) -> Any:
        starts.update({name: m.n_nonzeros for name, m in net.named_modules() if isinstance(m, LookupConv2d)})
        return train(net, *args, **kwargs)

    monkeypatch.setattr("lcnn_compress.compress.improve.finetune", spy)
    monkeypatch.setattr("lcnn_compress.compress.improve.PRUNING_STEPS", pruning_steps)
    settings = CompressSettings(PlanSettings("8", 2), measure=False, finetune=FinetuneSettings(epochs=2, batch_size=8))
    artefact = api.compress(api.open_model(small_net(), (1, 3, 16, 16)), settings=settings, data=TrainingData(examples=Noise()))
    targets = {"conv1": 2 * 32 * 9, "conv2": 2 * 32 * 9}
    assert starts == {name: factor * count for name, count in targets.items()}
    assert artefact.report["training"]["nonzeros"] == targets


def test_what_an_earlier_call_built_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1, 3, 16, 16)
    dense = api.open_model(small_net(), shape).net
    settings = CompressSettings(PlanSettings("6"), measure=False)
    built: dict[LayerPlan, LookupConv2d] = {}
    first = compress_net(dense, shape, settings, built=built)
    assert {plan.name for plan in built} == {row["name"] for row in first.report["layers"] if row["kind"] != "dense"} != set()
    monkeypatch.setattr("lcnn_compress.compress.make.make_lookup", None)  # calling it would raise
    second = compress_net(dense, shape, settings, built=built)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(second.net(x), first.net(x), rtol=0, atol=0)

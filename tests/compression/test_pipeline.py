"""A dense net in, an artefact out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import Noise, small_net

from lcnn_compress import api
from lcnn_compress.compression.pipeline import Reusable, compress_net
from lcnn_compress.compression.plan import LayerPlan, PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.layers import Captured
from lcnn_compress.train.checkpoint import read_checkpoint
from lcnn_compress.train.recipe import FinetuneSettings


@pytest.mark.parametrize(("epochs", "factor"), [(249, 1), (250, 2)])  # of 4 steps; from 1000 on a net recovers from pruning
def test_training_starts_with_more_lookups_only_where_it_prunes(epochs: int, factor: int, tmp_path: Path) -> None:
    def stop(stage: str, *_: int) -> None:
        if stage == "fine-tuning":
            raise KeyboardInterrupt  # before the first step, which writes a checkpoint

    shape, tuning = (1, 3, 16, 16), FinetuneSettings(epochs=epochs, batch_size=8)
    settings = CompressSettings(PlanSettings("8", 2), measure=False, finetune=tuning)
    data = TrainingData(examples=Noise(32), checkpoint=tmp_path / "training.pt")
    with pytest.raises(KeyboardInterrupt):
        compress_net(api.open_model(small_net(), shape).captured, settings, data, progress=stop)
    assert data.checkpoint is not None
    state = read_checkpoint(data.checkpoint)
    targets = {"conv1": 2 * 32 * 9, "conv2": 2 * 32 * 9}
    assert state["starts"] == {name: factor * count for name, count in targets.items()}
    assert state["identity"]["non-zeros at the end"] == targets


def test_what_an_earlier_call_built_is_not_built_again() -> None:
    shape = (1, 3, 16, 16)
    dense = api.open_model(small_net(), shape).net
    settings = CompressSettings(PlanSettings("6"), measure=False)
    built: dict[LayerPlan, LookupConv2d] = {}
    first = compress_net(Captured.of(dense, shape), settings, reusable=Reusable(built))
    assert {plan.name for plan in built} == {row.name for row in first.report.layers if row.form.is_coded} != set()
    made = list(built.items())
    second = compress_net(Captured.of(dense, shape), settings, reusable=Reusable(built))
    assert all(built[plan] is lookup for plan, lookup in made)
    assert len(built) == len(made)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(second.net(x), first.net(x), rtol=0, atol=0)
    with torch.no_grad():
        for _, lookup in made:
            lookup.sparse_kernel.zero_()
    third = compress_net(Captured.of(dense, shape), settings, reusable=Reusable(built))
    assert {third.net.get_submodule(plan.name).n_nonzeros for plan, _ in made} == {0}  # they are what is given, not made anew

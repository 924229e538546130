"""The last part of a training, in 8 bits: one training with the first, resumed bit for bit, never worse than without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Noise, small_net
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress import api
from lcnn_compress.artefact.artefact import Artefact
from lcnn_compress.compression.checkpoint_folder import last_part_of
from lcnn_compress.compression.settings import CompressSettings, PlanSettings, TrainingData
from lcnn_compress.compression.train_in_bytes import Parts, train_in_bytes
from lcnn_compress.forms.int8 import Int8Conv2d
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import finished
from lcnn_compress.net.layers import Captured
from lcnn_compress.progress import silent
from lcnn_compress.quantisation.quantise import quantise
from lcnn_compress.quantisation.trainable import as_trainable
from lcnn_compress.train.loop import Training
from lcnn_compress.train.recipe import FinetuneSettings

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (1, 3, 16, 16)
RECIPE = FinetuneSettings(epochs=3, batch_size=8)  # of 4 steps; the last epoch is in 8 bits
SETTINGS = CompressSettings(PlanSettings("0.5", 0.5, keep_slow=True), measure=False, arithmetic="int8", finetune=RECIPE)


class Counted(Noise):
    """Examples that count the batches of training, which are shuffled, and interrupt instead of giving more than ``most``."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.taken, self.most = 0, most

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.equal(indices, indices.sort().values):
            if self.taken == self.most:
                raise KeyboardInterrupt
            self.taken += 1
        return super().batch(indices)


def compressed(recipe: FinetuneSettings = RECIPE, model: nn.Module | None = None, **data: Any) -> Artefact:
    source = api.open_model(small_net() if model is None else model, SHAPE)
    return api.compress_source(source, replace(SETTINGS, finetune=recipe), TrainingData(**{"examples": Noise(), **data}))


def assert_same(a: Artefact, b: Artefact) -> None:
    first, second = a.net.state_dict(), b.net.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_both_parts_are_one_training() -> None:
    source, seen = api.open_model(small_net(), SHAPE), []
    made = api.compress_source(source, SETTINGS, TrainingData(examples=Noise()), progress=lambda *step: seen.append(step))
    steps = [step for step in seen if step[0] == "fine-tuning"]
    assert steps == [("fine-tuning", done, 12) for done in (*range(9), *range(8, 13))]
    training = made.report.training
    assert training is not None
    assert (training.steps, len(training.losses)) == (12, 3)
    assert training.nonzeros == {row.name: row.n_nonzeros for row in made.report.layers if row.form.is_coded} != {}
    assert made.config["finetune"]["epochs"] == 3
    # Patterns are those of the first part.
    for name, count in training.nonzeros.items():
        assert 0 < int(made.net.get_submodule(name).weight.count_nonzero()) <= count


@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
def test_the_last_epochs_are_in_8_bits(epochs: int) -> None:
    settings = replace(SETTINGS, finetune=replace(RECIPE, epochs=epochs, sparsity="threshold"))
    parts = Parts.of(settings, TrainingData(), in_bytes=True)
    before = 0 if parts.first.finetune is None else parts.first.finetune.epochs
    assert parts.last is not None
    assert before + parts.last.epochs == epochs
    assert parts.last.epochs == {1: 1, 2: 1, 3: 1, 10: 2}[epochs]
    assert (parts.last.lr, parts.last.sparsity) == (RECIPE.lr, "gradual")
    # Learning rates are those of one training.
    starts = [part.schedule.start for part in (parts.first.finetune, parts.last) if part is not None]
    assert starts == ([0.0, before / epochs] if before else [0.0])
    assert parts.last.schedule.end == 1


def test_trainings_in_float32_have_one_part() -> None:
    assert Parts.of(SETTINGS, TrainingData(), in_bytes=False) == Parts(SETTINGS)
    untrained = replace(SETTINGS, finetune=None)
    assert Parts.of(untrained, TrainingData(), in_bytes=True) == Parts(untrained)


@pytest.mark.parametrize("after", [3, 8, 10], ids=["in the first part", "between", "in the last part"])
def test_interrupted_in_any_part_and_resumed_it_is_the_same(after: int, tmp_path: Path) -> None:
    recipe, path = replace(RECIPE, average=0.9, feature_weight=0.2, precision="bfloat16"), tmp_path / "training.ckpt"
    expected = compressed(recipe)
    with pytest.raises(KeyboardInterrupt):
        compressed(recipe, examples=Counted(after), checkpoint=path)
    assert last_part_of(path).is_file() == (after >= 8)
    rest = Counted(12)
    resumed = compressed(recipe, examples=rest, checkpoint=path, resume=True)
    assert_same(resumed, expected)
    assert resumed.report.training == expected.report.training
    assert rest.taken == 12 - after


def test_batch_norms_are_those_of_the_weights_when_they_are_folded() -> None:
    """With a momentum of nearly nothing their statistics stay those of before the training, which changes what they norm."""
    model = small_net()
    for norm in (model.bn, model.bn1, model.bn2):
        norm.momentum = 1e-6
    recipe = replace(RECIPE, epochs=9, lr=0.1, distill=False)
    source = api.open_model(model, SHAPE)
    made, plain = (
        api.compress_source(source, replace(SETTINGS, arithmetic=kind, finetune=recipe), TrainingData(examples=Noise()))
        for kind in ("int8", "float32")
    )
    x, y = Noise().batch(torch.arange(32))
    with torch.no_grad():
        losses = [float(functional.cross_entropy(artefact.net(x), y)) for artefact in (made, plain)]
    assert losses[0] < 0.5 * losses[1]


def test_what_an_earlier_training_left_is_not_taken_for_this_one(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    with pytest.raises(KeyboardInterrupt):
        compressed(examples=Counted(10), checkpoint=path)
    assert last_part_of(path).is_file()
    with pytest.raises(KeyboardInterrupt):
        compressed(replace(RECIPE, seed=1), examples=Counted(3), checkpoint=path)
    assert not last_part_of(path).is_file()


class Unlabelled(Noise):
    """Images of which there is nothing to learn but what the teacher says."""

    def batch(self, indices: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().batch(indices)[0], None


@pytest.mark.parametrize(("teacher", "lr", "kept"), [(1, 3e-3, True), (0, 1.0, False)])
def test_the_better_net_is_kept(teacher: int, lr: float, kept: bool) -> None:
    """It has much to learn from another net, and all but rounding from itself."""
    dense = api.open_model(small_net(teacher), SHAPE).net
    plain = finished(api.open_model(small_net(0), SHAPE).net, "float16")
    captured = Captured.of(plain, SHAPE)
    net = quantise(captured, [layer.name for layer in captured.layers], [Noise().batch(torch.arange(32))[0]])
    recipe, data = replace(RECIPE, epochs=5, lr=lr), TrainingData(examples=Unlabelled())
    made, report = train_in_bytes(net, plain, dense, Parts(replace(SETTINGS, finetune=None), recipe), data, None, silent)
    assert (made is net) != kept
    assert (report.steps, len(report.losses), report.nonzeros) == (20, 5, {})
    assert {type(made.get_submodule(name)) for name in ("stem", "conv1", "conv2", "fc")} == {Int8Conv2d}


def test_layers_in_8_bits_are_held_against_those_of_the_teacher() -> None:
    dense = api.open_model(small_net(), SHAPE).net
    plain = finished(dense, "float32")
    captured = Captured.of(plain, SHAPE)
    x = Noise().batch(torch.arange(32))[0]
    trained = as_trainable(quantise(captured, [layer.name for layer in captured.layers], [x]), plain)
    recipe = replace(RECIPE, feature_weight=1.0)
    objective = Training(trained, recipe, 32, teacher=plain, nonzeros={}).objective
    assert len(objective.features.modules) == 4
    with torch.no_grad():
        objective.loss(x, None)
        assert 0 < float(objective.features.loss()) < 1e-3  # but for batch norms, which are folded in both, it would be 1


class Tokens(nn.Module):
    """Its linear layer stays in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.mix = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.conv(x).flatten(2).transpose(1, 2)).mean(1)


def test_layers_that_stay_in_float32_are_trained_too() -> None:
    recipe = replace(RECIPE, lr=1e-2)
    made, first = (compressed(replace(recipe, epochs=epochs), Tokens()) for epochs in (3, 2))
    kinds = {row.name: row.arithmetic for row in made.report.layers}
    assert kinds == {"conv": "int8", "mix": None}
    assert isinstance(made.net.get_submodule("conv"), Int8Conv2d)
    mixes = [artefact.net.get_submodule("mix") for artefact in (made, first)]
    assert not torch.equal(*(mix.weight() if isinstance(mix, LookupConv2d) else mix.weight for mix in mixes))
    for mix in mixes:
        if isinstance(mix, LookupConv2d):  # as it is stored
            assert torch.equal(mix.sparse_kernel, mix.sparse_kernel.half().float())


@pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
def test_a_single_epoch_is_in_8_bits(sparsity: str) -> None:
    made = compressed(replace(RECIPE, epochs=1, sparsity=sparsity))
    training = made.report.training
    assert training is not None
    assert (training.steps, len(training.losses)) == (4, 1)
    assert {row.name: row.n_nonzeros for row in made.report.layers if row.form.is_coded} == training.nonzeros

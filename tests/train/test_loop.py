"""The loop: resuming bit for bit, what is learned with and without a teacher, averages, parts of a batch, devices."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from training_cases import (
    CLASSES,
    TARGETS,
    assert_same,
    dense_net,
    examples,
    handling,
    lookup_net,
    lookups,
    recipe,
    uninterrupted,
)

from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError, ModelError
from lcnn_compress.train.checkpoint import CheckpointFile
from lcnn_compress.train.loop import Epoch, Goal, Training, finetune, train
from lcnn_compress.train.recipe import Optimiser, Recipe, Schedule, Sgd, Steps

BOTH = pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
pytestmark = pytest.mark.usefixtures("one_thread")


@BOTH
@pytest.mark.parametrize("way", ["callback", "signal"])
@pytest.mark.parametrize(
    "extras",
    [{}, {"average": 0.9, "feature_weight": 0.3, "accumulate": 2, "precision": "bfloat16"}],
    ids=["plain", "extras"],
)  # fmt: skip
def test_interrupted_and_resumed_equals_uninterrupted(
    sparsity: str, way: str, extras: dict[str, object], tmp_path: Path
) -> None:
    chosen = recipe(sparsity=sparsity, threshold_c=0.2, **extras)
    expected, report = uninterrupted(chosen)
    path = tmp_path / "training.ckpt"
    for attempt, stop_at in enumerate((7, 2)):  # in the second epoch, and two steps later
        data = examples()

        def interrupt(number: int, stop_at: int = stop_at) -> None:
            if number == stop_at and way == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            elif number == stop_at:
                raise KeyboardInterrupt

        data.at_call = interrupt
        with handling(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
            finetune(lookup_net(), dense_net(), data, chosen, goal=Goal(TARGETS), checkpoint=CheckpointFile(path, attempt > 0))
        assert data.calls == stop_at
    net, data = lookup_net(), examples()
    resumed = finetune(net, dense_net(), data, chosen, goal=Goal(TARGETS), checkpoint=CheckpointFile(path, resume=True))
    # A signal lets its step finish, an exception from a callback comes before it: 9 or 7 steps were done of 15.
    assert data.calls == 15 - {"signal": 9, "callback": 7}[way]
    assert resumed == report
    assert_same(net, expected)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    net, data = lookup_net(), examples()
    report = finetune(net, dense_net(), data, recipe(), goal=Goal(TARGETS), checkpoint=CheckpointFile(path))
    assert (report.steps, data.calls, len(report.losses)) == (15, 15, 3)
    again, data = lookup_net(), examples()
    resumed = CheckpointFile(path, resume=True)
    assert finetune(again, dense_net(), data, recipe(), goal=Goal(TARGETS), checkpoint=resumed) == report
    assert data.calls == 0
    assert_same(again, net)


def test_seed_changes_the_result_and_the_callers_random_state_does_not() -> None:
    expected, _ = uninterrupted(recipe())
    torch.manual_seed(99)
    before = torch.get_rng_state()
    same, other = lookup_net(), lookup_net()
    torch.set_rng_state(before)
    finetune(same, dense_net(), examples(), recipe(), goal=Goal(TARGETS))
    finetune(other, dense_net(), examples(), recipe(seed=1), goal=Goal(TARGETS))
    assert_same(same, expected)
    assert not torch.equal(other[7].weight, expected[7].weight)


def test_distillation_without_labels_approaches_the_teacher() -> None:
    net, teacher, data = lookup_net(), dense_net(), examples(kind="none")
    teacher_before = copy.deepcopy(teacher.state_dict())

    def distance() -> float:
        with torch.no_grad():
            return float(functional.mse_loss(net.eval()(data.x), teacher(data.x)))

    before = distance()
    report = finetune(net, teacher, data, recipe(epochs=10, lr=1e-2))
    assert distance() < 0.5 * before
    assert report.losses[-1] < report.losses[0]
    assert not net.training
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, teacher_before[name])


@pytest.mark.parametrize("kind", ["classes", "targets"])
@pytest.mark.parametrize("distill", [True, False])
def test_training_lowers_the_loss_of_labelled_data(kind: str, distill: bool) -> None:
    report = finetune(lookup_net(), dense_net(), examples(kind=kind), recipe(epochs=10, lr=1e-2, distill=distill))
    assert report.losses[-1] < report.losses[0]


@pytest.mark.parametrize("kind", ["classes", "targets", "labels"])
def test_a_net_trains_without_a_teacher_and_without_lookups(kind: str) -> None:
    """Any module, by the loss of the task, which falls on examples in eval mode too."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    data = examples(kind=kind)
    y = data.y
    assert y is not None
    task = Task.LABELS if kind == "labels" else None
    by_hand = {
        "classes": functional.cross_entropy, "targets": functional.mse_loss,
        "labels": functional.binary_cross_entropy_with_logits,
    }[kind]  # fmt: skip
    with torch.no_grad():
        before = float(by_hand(net(data.x), y))
    seen: list[tuple[str, int, int]] = []
    report = train(net, data, recipe(epochs=20, lr=1e-2, task=task), progress=lambda *step: seen.append(step))
    with torch.no_grad():
        after = float(by_hand(net(data.x), y))
    assert after < 0.7 * before
    assert report.losses[-1] < 0.7 * report.losses[0]
    assert (report.steps, report.nonzeros, seen[-1]) == (100, {}, ("training", 100, 100))
    assert not net.training


def test_several_labels_are_learned_from_the_teacher_too() -> None:
    net, teacher, data = lookup_net(), dense_net(), examples(kind="labels")
    report = finetune(net, teacher, data, recipe(epochs=10, lr=1e-2, task=Task.LABELS), goal=Goal(TARGETS))
    assert report.losses[-1] < report.losses[0]
    assert report.nonzeros == TARGETS


def test_lookup_layers_train_without_a_teacher() -> None:
    net = lookup_net()
    report = train(net, examples(), recipe(epochs=8, lr=1e-2), goal=Goal(TARGETS))
    assert report.losses[-1] < report.losses[0]
    assert report.nonzeros == TARGETS == {name: lookup.n_nonzeros for name, lookup in lookups(net).items()}


def test_an_interrupted_training_without_a_teacher_is_resumed(tmp_path: Path) -> None:
    kept, whole = tmp_path / "training.ckpt", dense_net()
    report = train(whole, examples(), recipe(average=0.5))
    data = examples()

    def interrupt(number: int) -> None:
        if number == 7:
            raise KeyboardInterrupt

    data.at_call = interrupt
    with pytest.raises(KeyboardInterrupt):
        train(dense_net(), data, recipe(average=0.5), checkpoint=CheckpointFile(kept))
    net = dense_net()
    assert train(net, examples(), recipe(average=0.5), checkpoint=CheckpointFile(kept, resume=True)) == report
    assert_same(net, whole)


def test_optimiser_and_schedule_are_those_of_the_recipe() -> None:
    """Without decay of its averages Adam moves every weight by the learning rate, against the sign of its gradient."""
    net = nn.Sequential(nn.Linear(2, CLASSES))
    before = net[0].weight.detach().clone()
    chosen = Recipe(epochs=1, batch_size=4, lr=0.25, optimiser=Optimiser((0.0, 0.0)), schedule=Schedule(0))
    x = torch.tensor([[1.0, 2.0]]).repeat(4, 1)
    training = Training(net, chosen, 4, nonzeros={})
    training.take(x, torch.zeros(4, dtype=torch.long))
    expected = torch.tensor([[0.25, 0.25], [-0.25, -0.25], [-0.25, -0.25]])  # class 0 gains
    torch.testing.assert_close(net[0].weight.detach() - before, expected)
    halves = Recipe(epochs=2, batch_size=4, lr=0.25, optimiser=Optimiser((0.0, 0.0)), schedule=Schedule(0))
    training = Training(net, halves, 4, nonzeros={})
    training.step = 1  # of 2: half of the cosine
    before = net[0].weight.detach().clone()
    training.take(x, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(net[0].weight.detach() - before, expected / 2)


def test_the_result_is_the_moving_average() -> None:
    chosen = recipe(average=0.8, epochs=1)
    net = lookup_net()
    training = Training(net, chosen, 40, teacher=dense_net(), nonzeros={})
    net.train()
    expected = net[7].weight.detach().clone()
    for step in range(1, 9):
        x, y = examples().batch(torch.arange(8))
        training.take(x, y)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net[7].weight.detach()
    training.finish()
    torch.testing.assert_close(net[7].weight.detach(), expected)
    assert not net[1].num_batches_tracked.is_floating_point()
    for lookup in lookups(net).values():
        assert torch.count_nonzero(lookup.sparse_kernel.detach()[~lookup.support]) == 0
        torch.testing.assert_close(lookup.dictionary.detach().norm(dim=1), torch.ones(len(lookup.dictionary)))


def test_a_batch_in_parts_gives_the_same_gradient() -> None:
    gradients = []
    for parts in (1, 3):
        net = nn.Sequential(*(m for m in lookup_net() if not isinstance(m, (nn.BatchNorm2d, nn.Dropout))))
        teacher = nn.Sequential(*(m for m in dense_net() if not isinstance(m, (nn.BatchNorm2d, nn.Dropout))))
        chosen = recipe(accumulate=parts, feature_weight=0.0)
        training = Training(net, chosen, 40, teacher=teacher, nonzeros={})
        x, y = examples().x[:8], torch.arange(8) % CLASSES  # parts of 3, 3 and 2
        training.take(x, y)
        gradients.append([parameter.grad for parameter in net.parameters()])
    for whole, in_parts in zip(*gradients, strict=True):
        # The same sums in another order, of terms of about 1.
        torch.testing.assert_close(whole, in_parts, rtol=1e-4, atol=1e-6)


def test_training_stops_when_it_is_enough_and_resuming_keeps_it_so(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    asked: list[int] = []

    def enough(result: nn.Module) -> bool:
        assert not result.training
        torch.randn(3)  # scoring may draw random numbers
        asked.append(sum(lookup.n_nonzeros for lookup in lookups(result).values()))  # type: ignore[arg-type]
        return len(asked) == 2

    chosen = recipe(epochs=6, average=0.9)
    net = lookup_net()
    report = finetune(net, dense_net(), examples(), chosen, goal=Goal(TARGETS, enough), checkpoint=CheckpointFile(path))
    # 30 steps in 6 epochs; pruned from step 15 on, the end of the third epoch, and asked then and after the fourth.
    assert (report.steps, len(report.losses), asked) == (20, 4, [80, 80])
    again = lookup_net()
    resumed = CheckpointFile(path, resume=True)
    assert finetune(again, dense_net(), examples(), chosen, goal=Goal(TARGETS), checkpoint=resumed) == report
    assert_same(again, net)
    whole, unasked = lookup_net(), lookup_net()
    finetune(whole, dense_net(), examples(), chosen, goal=Goal(TARGETS, lambda _: bool(torch.randn(1) > 9)))
    finetune(unasked, dense_net(), examples(), chosen, goal=Goal(TARGETS))
    assert_same(whole, unasked)


def test_loss_that_is_not_finite() -> None:
    data = examples()
    data.x[:] = torch.nan
    with pytest.raises(ModelError, match=r"loss is nan at step 1 of 15 \(learning rate 0.001\); lower lr, which is 0.001"):
        finetune(lookup_net(), dense_net(), data, recipe())


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_examples(n: int) -> None:
    with pytest.raises(DataError, match=f"training data holds {n} examples"):
        finetune(lookup_net(), dense_net(), examples(n=n), recipe())


@pytest.mark.parametrize("n", [2, 7, 9, 15])
def test_every_example_is_seen_once_an_epoch_and_no_batch_is_smaller_than_asked(n: int) -> None:
    training = Training(dense_net(), recipe(batch_size=4), n, nonzeros={})
    order = training.order()
    assert sorted(torch.cat(order).tolist()) == list(range(n))
    assert min(len(batch) for batch in order) >= min(4, n)
    training.step = training.steps_per_epoch
    assert torch.cat(training.order()).tolist() != torch.cat(order).tolist() or n == 2


@pytest.mark.parametrize("kind", ["classes", "targets"])
def test_mixed_precision_rounds_products_only(kind: str) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        net = lookup_net()
        report = finetune(net, dense_net(), examples(kind=kind), recipe(precision=precision), goal=Goal(TARGETS))
        losses[precision] = torch.tensor(report.losses)
        assert {t.dtype for t in net.state_dict().values() if t.is_floating_point()} == {torch.float32}
        assert report.nonzeros == TARGETS
    assert not torch.equal(losses["float32"], losses["bfloat16"])
    torch.testing.assert_close(losses["float32"], losses["bfloat16"], rtol=0.02, atol=0)  # a product rounds by 0.4 %


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trains_on_a_gpu(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "checkpoint"
    chosen = recipe(device="cuda", precision=precision, average=0.5, feature_weight=0.1)
    nets = {device: (lookup_net(), dense_net()) for device in ("cpu", "cuda")}
    for net in (*nets["cpu"], *nets["cuda"]):
        net[6] = nn.Identity()  # no dropout: its random numbers would be others there
    on_cpu = finetune(*nets["cpu"], examples(), replace(chosen, device="cpu"), goal=Goal(TARGETS))
    goal = Goal(TARGETS, lambda _: False)
    report = finetune(*nets["cuda"], examples(), chosen, goal=goal, checkpoint=CheckpointFile(path))
    assert {t.device.type for net in nets["cuda"] for t in net.state_dict().values()} == {"cpu"}
    assert report.nonzeros == TARGETS
    torch.testing.assert_close(report.losses, on_cpu.losses, rtol=0.02, atol=0)
    again = lookup_net()
    again[6] = nn.Identity()
    resumed = CheckpointFile(path, resume=True)
    assert finetune(again, nets["cuda"][1], examples(), chosen, goal=Goal(TARGETS), checkpoint=resumed) == report
    assert_same(nets["cuda"][0], again)


def test_progress_counts_steps() -> None:
    seen: list[tuple[str, int, int]] = []
    finetune(lookup_net(), dense_net(), examples(), recipe(epochs=2), progress=lambda *step: seen.append(step))
    assert seen == [("fine-tuning", i, 10) for i in range(11)]


def test_every_epoch_is_told_with_the_net_as_it_is_then() -> None:
    told: list[Epoch] = []

    def note(epoch: Epoch) -> None:
        told.append(epoch)
        torch.rand(3)  # random numbers drawn here do not count

    net = lookup_net()
    report = train(net, examples(), recipe(), goal=Goal(on_epoch=note))
    silent = lookup_net()
    train(silent, examples(), recipe())
    assert_same(net, silent)
    assert [epoch.number for epoch in told] == [1, 2, 3]
    assert tuple(epoch.loss for epoch in told) == report.losses
    assert not any(epoch.net.training for epoch in told)
    assert_same(told[-1].net, net)
    assert not torch.equal(told[0].net.get_parameter("0.dictionary"), net[0].dictionary)


@pytest.mark.parametrize("sparsity", ["top", "threshold"])
def test_training_with_momentum_and_steps_is_resumed(tmp_path: Path, sparsity: str) -> None:
    chosen = recipe(
        sparsity=sparsity, lookups=1, optimiser=Sgd(0.9, 1e-3, 0.5), schedule=Steps((0.5, 1.0), (1.0, 0.1)), epochs=4, lr=0.01
    )
    whole = lookup_net()
    train(whole, examples(), chosen)
    net, data = lookup_net(), examples()

    def interrupt(number: int) -> None:
        if number == 7:
            raise KeyboardInterrupt

    data.at_call = interrupt
    kept = CheckpointFile(tmp_path / "training.ckpt")
    with pytest.raises(KeyboardInterrupt):
        train(net, data, chosen, checkpoint=kept)
    resumed = lookup_net()
    train(resumed, examples(), chosen, checkpoint=replace(kept, resume=True))
    assert_same(resumed, whole)

"""Losses of labels, of a teacher's outputs and of its layers, worked out by hand; labels that do not fit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from training_cases import dense_net, examples, lookup_net, recipe

from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError, ModelError, SettingsError
from lcnn_compress.train.loop import finetune
from lcnn_compress.train.losses import Features, Objective, loss_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_losses_by_hand() -> None:
    output, taught = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    chosen = recipe(distill_weight=0.25, temperature=2.0)
    y = torch.tensor([0, 0])
    cross_entropy = -(torch.tensor([1.0, 0.0]) - torch.tensor([[1.0, 0.0], [0.0, 2.0]]).exp().sum(1).log()).mean()
    p, q = (torch.softmax(v / 2, 1) for v in (taught, output))
    kl = (p * (p / q).log()).sum() / 2
    torch.testing.assert_close(loss_of(output, y, taught, chosen), 0.75 * cross_entropy + 0.25 * 4 * kl)
    torch.testing.assert_close(loss_of(output, y, None, chosen), cross_entropy)
    zeros = torch.zeros(2, 2)
    assert float(loss_of(output, zeros, None, chosen)) == 5 / 4
    assert float(loss_of(output, zeros, taught, chosen)) == 0.75 * 5 / 4 + 0.25 * 5 / 4
    assert float(loss_of(output, None, taught, chosen)) == 5 / 4


def test_several_labels_by_hand() -> None:
    chosen = recipe(task=Task.LABELS, distill_weight=0.25, temperature=2.0)
    output, y = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.0]])
    # Probabilities 1/2 and 3/4: the labels have 1/2 and 1/4.
    labels = (math.log(2) + math.log(4)) / 2
    assert float(loss_of(output, y, None, chosen)) == pytest.approx(labels)
    assert float(loss_of(output, y, output, chosen)) == pytest.approx(0.75 * labels)  # nothing to learn from one's equal
    taught = torch.tensor([[2 * math.log(3), math.log(3)]])
    # At temperature 2 the first label has 3/4 there and 1/2 here, the second is alike.
    kl = (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)) / 2
    assert float(loss_of(output, y, taught, chosen)) == pytest.approx(0.75 * labels + 0.25 * 4 * kl)


def test_labels_that_do_not_fit() -> None:
    output = torch.zeros(2, 3)
    with pytest.raises(DataError, match=r"class numbers run from 1 to 3, but the net returns \(2, 3\)"):
        loss_of(output, torch.tensor([1, 3]), None, recipe())
    with pytest.raises(DataError, match="class numbers run from -1 to 0"):
        loss_of(output, torch.tensor([-1, 0]), None, recipe())
    with pytest.raises(DataError, match=r"targets are \(2,\), but the net returns \(2, 3\)"):
        loss_of(output, torch.full((2,), 0.5), None, recipe())
    with pytest.raises(DataError, match="labels run from 0 to 2;"):
        loss_of(output, torch.tensor([[0.0, 1.0, 2.0]]).repeat(2, 1), None, recipe(task=Task.LABELS))
    with pytest.raises(DataError, match="y is int64, but the task is 'multilabel'"):
        loss_of(output, torch.tensor([1, 2]), None, recipe(task=Task.LABELS))
    with pytest.raises(ModelError, match="the net returns a tuple, not one tensor"):
        loss_of((output,), None, None, recipe())  # type: ignore[arg-type]


def test_nothing_to_learn_from() -> None:
    with pytest.raises(SettingsError, match="distill is False and the training data has no labels"):
        finetune(lookup_net(), dense_net(), examples(kind="none"), recipe(distill=False))
    with pytest.raises(SettingsError, match="there is no teacher and the training data has no labels"):
        loss_of(torch.zeros(2, 3), None, None, recipe())
    with pytest.raises(SettingsError, match=r"feature_weight is 0.5, but there is no teacher"):
        Objective(dense_net(), None, (), recipe(feature_weight=0.5))


def test_a_teacher_is_asked_only_where_it_counts() -> None:
    class Counting(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    x, y = torch.randn(4, 2), torch.arange(4) % 3
    for distill, labels, calls in ((True, y, 1), (False, y, 0), (True, None, 1)):
        teacher = Counting(2, 3)
        loss = Objective(nn.Linear(2, 3), teacher, (), recipe(distill=distill)).loss(x, labels)
        assert loss.requires_grad
        assert teacher.calls == calls


def test_features_by_hand() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    net, teacher = nn.Sequential(Doubled(), nn.ReLU(inplace=True)), nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    features = Features([(net[0], teacher[0])])
    x = torch.tensor([[1.0, -1.0, 3.0, -3.0]])
    with features.recording():
        net(x.clone()), teacher(x.clone())
    # The error is x itself: mean square 5, against a variance of 20 / 3.
    torch.testing.assert_close(features.loss(), torch.tensor(5 / (20 / 3)))
    assert not net[0]._forward_hooks
    assert not teacher[0]._forward_hooks


def test_features_are_weighed_into_the_loss() -> None:
    net, teacher = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3))
    x, y = torch.randn(4, 2), torch.arange(4) % 3
    without, weighed = (Objective(net, teacher, ["0"], recipe(feature_weight=weight)).loss(x, y) for weight in (0.0, 0.5))
    with torch.no_grad():
        error = (net(x) - teacher(x)).square().mean() / teacher(x).var()
    torch.testing.assert_close(weighed, without + 0.5 * error)


def test_features_bring_the_layers_nearer_to_the_dense_ones() -> None:
    found = []
    for weight in (0.0, 10.0):
        net, teacher = lookup_net(), dense_net()
        finetune(net, teacher, examples(), recipe(epochs=6, lr=1e-2, feature_weight=weight))
        features = Features([(net[0], teacher[0]), (net[3], teacher[3])])
        with torch.no_grad(), features.recording():
            net(examples().x)
            teacher(examples().x)
        found.append(float(features.loss()))
    assert found[1] < 0.8 * found[0]

"""How kernels lose entries: the rules of both kinds, what stays dead, and what the optimiser forgets."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from training_cases import TARGETS, dense_net, examples, lookup_net, lookups, recipe, uninterrupted

from lcnn_compress.forms.pattern import largest
from lcnn_compress.train.loop import Goal, Training, finetune
from lcnn_compress.train.recipe import Recipe
from lcnn_compress.train.sparsity import Gradual, LookupLayers, Threshold, Top, settle

BOTH = pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Watched:
    """A whole training step by step: the supports before it, at its start and after every step."""

    recipe: Recipe
    net: nn.Sequential = field(default_factory=lookup_net)
    supports: list[dict[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        data = examples()
        self._watch()
        self.training = Training(self.net, self.recipe, len(data), teacher=dense_net(), nonzeros=TARGETS)
        self._watch()
        self.net.train()
        while not self.training.ended:
            batch = self.training.step % self.training.steps_per_epoch
            self.training.take(*data.batch(self.training.order()[batch]))
            self._watch()
        self.training.finish()

    def _watch(self) -> None:
        self.supports.append({name: lookup.support.clone() for name, lookup in lookups(self.net).items()})


@BOTH
def test_masks_only_shrink_and_dead_entries_stay_dead(sparsity: str) -> None:
    watched = Watched(recipe(sparsity=sparsity, threshold_c=0.2, epochs=8))
    for earlier, later in pairwise(watched.supports):
        for name, support in later.items():
            assert not (support & ~earlier[name]).any()
    for name, lookup in lookups(watched.net).items():
        dead = ~lookup.support
        assert dead.any()
        memory = watched.training.optimiser.state[lookup.sparse_kernel]
        for tensor in (lookup.sparse_kernel, memory["exp_avg"], memory["exp_avg_sq"]):
            assert torch.count_nonzero(tensor[dead]) == 0
            assert torch.count_nonzero(tensor[~dead]) > 0
        assert watched.training.lookups.nonzeros()[name] < int(watched.supports[0][name].sum())


def test_gradual_follows_the_cubic_schedule_and_ends_at_the_targets() -> None:
    watched = Watched(recipe(epochs=8))
    assert watched.training.lookups.nonzeros() == TARGETS
    counts = [int(support["3"].sum()) for support in watched.supports[2:]]
    # 40 steps, pruned at 8, 16 and from 20 on: 50 + (288 - 50) * (1 - 8/20)^3 = 101.4, then * (1 - 16/20)^3 = 51.9
    assert counts[:7] == [288] * 7
    assert counts[7:15] == [101] * 8
    assert counts[15:19] == [52] * 4
    assert counts[19:] == [50] * 21


def test_the_gradual_rule_alone() -> None:
    rule = Gradual({"a": 10}, {"a": 2}, 4)
    assert [step for step in range(7) if rule.prunes(step)] == [4, 5, 6]
    magnitude, support = torch.arange(12.0), torch.arange(12) < 10
    # Half the way: 2 + 8 * (1 - 2/4)^3 = 3 entries, none of the two outside the support.
    assert rule.alive("a", magnitude, support, 2).nonzero().flatten().tolist() == [7, 8, 9]
    assert rule.alive("a", magnitude, support, 9).nonzero().flatten().tolist() == [8, 9]
    assert [step for step in range(30) if Gradual({}, {}, 20).prunes(step)] == [8, 16, *range(20, 30)]


def test_pruning_keeps_the_largest_and_the_first_of_equal_ones() -> None:
    scores = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert largest(scores, 2).tolist() == [[False, True], [True, False]]
    net = lookup_net()
    lookup = lookups(net)["0"]
    lookup.normalise_()
    magnitude = lookup.sparse_kernel.detach().abs().flatten()
    # With a learning rate this small nothing moves: the 30 largest of the start remain.
    finetune(net, dense_net(), examples(), recipe(lr=1e-12, epochs=1), goal=Goal(TARGETS))
    assert set(lookup.support.flatten().nonzero()[:, 0].tolist()) == set(magnitude.topk(30).indices.tolist())


def test_a_target_revives_nothing() -> None:
    net = lookup_net()
    report = finetune(net, dense_net(), examples(), recipe(), goal=Goal({"0": 92, "3": 306}))
    assert report.nonzeros == {"0": 92, "3": 288}  # 306 is more than were alive


def test_layers_without_target_keep_their_number() -> None:
    net = lookup_net()
    assert finetune(net, dense_net(), examples(), recipe()).nonzeros == {"0": 108, "3": 288}


def test_threshold_kills_what_the_rule_says() -> None:
    net = lookup_net()
    reference = copy.deepcopy(net)
    chosen = recipe(sparsity="threshold", threshold_c=0.5, l1=0.0, lr=1e-12, epochs=1)
    report = finetune(net, dense_net(), examples(), chosen)
    for name, lookup in lookups(reference).items():
        lookup.normalise_()
        values = lookup.sparse_kernel.detach()[lookup.support]
        epsilon = 0.5 * (values - values.mean()).square().mean().sqrt()
        alive = lookup.sparse_kernel.abs() > epsilon
        assert 0 < int(alive.sum()) < len(values)
        assert torch.equal(lookups(net)[name].support, alive)
        assert report.nonzeros[name] == int(alive.sum())


def test_penalty_reaches_live_entries_only() -> None:
    net = lookup_net()
    training = Training(net, recipe(sparsity="threshold", threshold_c=0.5, l1=0.2), 40, nonzeros={})
    rule = training.lookups.rule
    assert isinstance(rule, Threshold)
    for lookup in lookups(net).values():
        lookup.sparse_kernel.grad = torch.zeros_like(lookup.sparse_kernel)
    training.lookups.add_to_gradients()
    for name, lookup in lookups(net).items():
        expected = 0.2 * rule.epsilons[name] * torch.where(lookup.support, lookup.sparse_kernel.sign(), 0)
        assert 0 < int(lookup.support.sum()) < lookup.support.numel()
        assert torch.equal(lookup.sparse_kernel.grad, expected.detach())
    with_penalty, without = (
        finetune(lookup_net(), dense_net(), examples(), recipe(sparsity="threshold", threshold_c=0.1, l1=l1, epochs=10))
        for l1 in (1.0, 0.0)
    )
    assert sum(with_penalty.nonzeros.values()) < sum(without.nonzeros.values())


def test_dictionary_rows_stay_unit_vectors() -> None:
    net, _ = uninterrupted(recipe())
    for lookup in lookups(net).values():
        length = lookup.dictionary.detach().norm(dim=1)
        # Division by a float32 norm of up to 6 terms is off by a few eps.
        torch.testing.assert_close(length, torch.ones_like(length), rtol=0, atol=1e-6)


@BOTH
def test_state_and_load_carry_a_rule_on(sparsity: str) -> None:
    chosen = recipe(sparsity=sparsity, threshold_c=0.4)
    net = lookup_net()
    layers = LookupLayers(net, chosen, TARGETS, 15)
    layers.prune(15, torch.optim.SGD(net.parameters(), lr=1.0))
    assert sum(layers.nonzeros().values()) < 396
    again = LookupLayers(copy.deepcopy(net), chosen, TARGETS, 15)  # made of a net that has lost entries
    assert again.rule != layers.rule
    fresh = LookupLayers(lookup_net(), chosen, TARGETS, 15)
    for other in (again, fresh):
        other.load(layers.state())
        assert other.rule.state() == layers.rule.state()
        assert other.nonzeros() == layers.nonzeros()


def test_whatever_remembers_entries_forgets_the_dead_ones() -> None:
    net = lookup_net()
    layers = LookupLayers(net, recipe(), TARGETS, 2)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(examples().x).sum().backward()
    optimiser.step()
    layers.after_step(2, optimiser)
    for lookup in layers.layers.values():
        momentum = optimiser.state[lookup.sparse_kernel]["momentum_buffer"]
        assert torch.count_nonzero(momentum[~lookup.support]) == 0
        assert torch.count_nonzero(momentum) > 0


def test_a_net_without_lookup_layers_is_left_alone() -> None:
    net = dense_net()
    before = copy.deepcopy(net.state_dict())
    layers = LookupLayers(net, recipe(), {}, 10)
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    layers.add_to_gradients()
    layers.after_step(10, optimiser)
    settle(net)
    assert layers.at_end()
    assert layers.nonzeros() == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def largest_of_each_position(kernel: Tensor, s: int) -> Tensor:
    """Keep s entries of every (filter, row, column), one position after the other."""
    kept = torch.zeros_like(kernel)
    for o, r, c in itertools.product(*map(range, (kernel.shape[0], *kernel.shape[2:]))):
        chosen = sorted(range(kernel.shape[1]), key=lambda j: -abs(float(kernel[o, j, r, c])))[:s]
        kept[o, chosen, r, c] = kernel[o, chosen, r, c]
    return kept


def test_top_keeps_the_largest_of_each_position_after_every_step() -> None:
    net = lookup_net()
    first = net[0].sparse_kernel.detach().clone()
    data = examples()
    training = Training(net, recipe(sparsity="top", lookups=1, epochs=8, lr=0.05), len(data), nonzeros={})
    lengths = torch.linalg.vector_norm(lookup_net()[0].dictionary.detach(), dim=1)
    torch.testing.assert_close(net[0].sparse_kernel.detach(), largest_of_each_position(first * lengths[None, :, None, None], 1))
    patterns = [net[0].sparse_kernel.detach() != 0]
    while not training.ended:
        training.take(*data.batch(training.order()[training.step % training.steps_per_epoch]))
        for lookup in lookups(net).values():
            kernel = lookup.sparse_kernel.detach()
            assert torch.equal(kernel, largest_of_each_position(kernel, 1))
        patterns.append(net[0].sparse_kernel.detach() != 0)
    # Entries that were zero have come back: what is not final stays open.
    assert any((later & ~earlier).any() for earlier, later in pairwise(patterns))
    training.finish()
    assert {name: lookup.n_nonzeros for name, lookup in lookups(net).items()} == {"0": 6 * 9, "3": 8 * 9}


def test_top_keeps_all_where_the_dictionary_is_smaller() -> None:
    kernel = torch.rand(4, 2, 3, 3)
    assert Top(5, 10).alive("", kernel, torch.ones_like(kernel, dtype=torch.bool), 0).all()

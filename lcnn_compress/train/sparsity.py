"""How kernels of lookup layers lose entries while a net trains.

``Gradual`` keeps the largest entries of each layer, fewer and fewer along the cubic schedule of Zhu and Gupta 2017 (arXiv
1710.01878), section 3, over the first half of training. ``Threshold`` is the method of Bagherinezhad et al., "LCNN", CVPR 2017
(arXiv 1611.06473), section 3.2: an L1 penalty, and entries within epsilon of zero die. What died of these two stays dead.
``Top`` is the other method of the same section: after every step the s largest entries of each position stay, and the others
are zero until their gradients lift them above one of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.pattern import largest, shared_scores
from lcnn_compress.train.checkpoint import State
from lcnn_compress.train.recipe import Recipe

# A kernel is pruned in blocks of about so many entries.
BLOCK_ENTRIES = 2**18
# The gradual schedule prunes once in this many steps.
PRUNE_EVERY = 8


def blocks(lookup: LookupConv2d) -> Iterator[slice]:
    """Yield the filters of a layer in blocks small enough to stay in the cache while several things are done to them."""
    size = max(1, BLOCK_ENTRIES // lookup.support[0].numel())
    for start in range(0, lookup.out_channels, size):
        yield slice(start, start + size)


class Sparsity(Protocol):
    """What decides which entries of a kernel live; ``is_local`` where filters can be asked about alone."""

    @property
    def is_local(self) -> bool: ...

    def add_to_gradient(self, name: str, lookup: LookupConv2d) -> None:
        """Add what the rule asks of a layer's kernel to its gradient."""
        ...

    def prunes(self, step: int) -> bool:
        """Tell whether entries die after ``step`` steps; 0 is the start of training."""
        ...

    def kills(self, step: int) -> bool:
        """Tell whether entries that do not live on after ``step`` steps stay dead; else they are zero and may grow again."""
        ...

    def alive(self, name: str, magnitude: Tensor, support: Tensor, step: int) -> Tensor:
        """Return which entries of a layer live on after ``step`` steps.

        Args:
            name: name of the layer.
            magnitude: magnitudes of its kernel, (C_out, k, kH, kW); neighbouring filters of one pattern have the same.
            support: (C_out, k, kH, kW) bool, the entries that live now.
            step: as in ``prunes``.

        Returns:
            (C_out, k, kH, kW) bool; what it says outside ``support`` does not count.
        """
        ...

    def state(self) -> State:
        """Return what a checkpoint keeps of the rule."""
        ...

    def continued(self, state: State) -> Sparsity:
        """Return the rule as it was when ``state`` was saved."""
        ...


@dataclass(frozen=True)
class Gradual:
    """Keep the largest entries, from ``starts`` down to ``ends`` of each layer.

    Attributes:
        starts: non-zeros of each layer before training.
        ends: non-zeros of each layer at the end.
        last: number of steps after which each layer has come to its end, 1 or more.
    """

    starts: Mapping[str, int]
    ends: Mapping[str, int]
    last: int
    is_local = False

    def add_to_gradient(self, name: str, lookup: LookupConv2d) -> None:
        """Add nothing."""

    def prunes(self, step: int) -> bool:
        """Tell whether a number of entries is due: every ``PRUNE_EVERY`` steps, and always from ``last`` on."""
        return step >= self.last or (step > 0 and step % PRUNE_EVERY == 0)

    def kills(self, step: int) -> bool:  # noqa: ARG002
        """Tell that what is pruned stays dead."""
        return True

    def alive(self, name: str, magnitude: Tensor, support: Tensor, step: int) -> Tensor:
        """Return where the largest entries inside ``support`` are, as many as the schedule says."""
        left = (1 - min(1.0, step / self.last)) ** 3
        count = self.ends[name] + round((self.starts[name] - self.ends[name]) * left)
        return largest(magnitude.masked_fill(~support, -1.0), count)

    def state(self) -> State:
        """Return the numbers at the start, which a net that is half pruned no longer shows."""
        return {"starts": dict(self.starts)}

    def continued(self, state: State) -> Gradual:
        """Return the rule with the numbers it started from."""
        return replace(self, starts=state["starts"])


@dataclass(frozen=True)
class Threshold:
    """Penalise magnitudes and kill what comes within epsilon of zero.

    Attributes:
        epsilons: epsilon of each layer, in the unit of its kernel.
        l1: lambda' of the paper; the penalty of a layer is l1 * epsilon * |P|.
    """

    epsilons: Mapping[str, float]
    l1: float
    is_local = True

    @torch.no_grad()
    def add_to_gradient(self, name: str, lookup: LookupConv2d) -> None:
        """Add the gradient of the penalty; pruned entries have none."""
        gradient, strength = lookup.sparse_kernel.grad, self.l1 * self.epsilons[name]
        assert gradient is not None
        if strength:
            for filters in blocks(lookup):  # what is pruned is 0 and has no sign
                gradient[filters].add_(lookup.sparse_kernel[filters].sign(), alpha=strength)

    def prunes(self, step: int) -> bool:  # noqa: ARG002  # every step does
        """Tell that entries may die after every step, and before the first."""
        return True

    def kills(self, step: int) -> bool:  # noqa: ARG002
        """Tell that what is pruned stays dead."""
        return True

    def alive(self, name: str, magnitude: Tensor, support: Tensor, step: int) -> Tensor:  # noqa: ARG002
        """Return where entries are further from zero than epsilon."""
        return magnitude > self.epsilons[name]

    def state(self) -> State:
        """Return the epsilons, which are those of the kernels before training."""
        return {"epsilons": dict(self.epsilons)}

    def continued(self, state: State) -> Threshold:
        """Return the rule with the epsilons it started from."""
        return replace(self, epsilons=state["epsilons"])


@dataclass(frozen=True)
class Top:
    """Keep the ``lookups`` largest entries of every position of every filter (sorted by magnitude at every iteration).

    Attributes:
        lookups: s of the paper; positions of layers with a smaller dictionary keep all.
        last: number of steps after which the entries that are left are final.
    """

    lookups: int
    last: int
    is_local = True

    def add_to_gradient(self, name: str, lookup: LookupConv2d) -> None:
        """Add nothing."""

    def prunes(self, step: int) -> bool:  # noqa: ARG002  # every step does
        """Tell that entries become zero after every step, and before the first."""
        return True

    def kills(self, step: int) -> bool:
        """Tell whether ``step`` is the last: until then entries that are zero still get gradients."""
        return step >= self.last

    def alive(self, name: str, magnitude: Tensor, support: Tensor, step: int) -> Tensor:  # noqa: ARG002
        """Return where the largest entries of each position are."""
        kept = magnitude.topk(min(self.lookups, magnitude.shape[1]), dim=1).indices
        return torch.zeros_like(support).scatter_(1, kept, True)

    def state(self) -> State:
        """Return nothing: the rule does not depend on the net."""
        return {}

    def continued(self, state: State) -> Top:  # noqa: ARG002
        """Return the rule itself."""
        return self


class LookupLayers:
    """The lookup layers of a net in training, if it has any, and the rule by which their kernels lose entries.

    Attributes:
        layers: the lookup layers by name.
        ends: non-zeros that each may keep: what the targets say, and no more than it has.
        rule: the rule, made from the kernels before training, dictionary rows normalised.
    """

    def __init__(self, net: nn.Module, recipe: Recipe, targets: Mapping[str, int], total: int) -> None:
        """Bring the layers of ``net`` to unit dictionary rows; ``total`` counts the steps of training."""
        self.layers = {name: module for name, module in net.named_modules() if isinstance(module, LookupConv2d)}
        self._normalise()
        starts = self.nonzeros()
        self.ends = {name: min(count, targets.get(name, count)) for name, count in starts.items()}
        self.rule = self._rule(recipe, starts, total)

    def _rule(self, recipe: Recipe, starts: Mapping[str, int], total: int) -> Sparsity:
        if recipe.sparsity == "gradual":
            return Gradual(starts, self.ends, max(1, total // 2))
        if recipe.sparsity == "top":
            return Top(recipe.lookups, total)
        return Threshold({name: _epsilon(lookup, recipe.threshold_c) for name, lookup in self.layers.items()}, recipe.l1)

    def nonzeros(self) -> dict[str, int]:
        """Return the entries that live, by layer."""
        return {name: lookup.n_nonzeros for name, lookup in self.layers.items()}

    def at_end(self) -> bool:
        """Tell whether no layer has more non-zeros than it may keep."""
        return all(count <= self.ends[name] for name, count in self.nonzeros().items())

    def add_to_gradients(self) -> None:
        """Add what the rule asks of kernels to their gradients."""
        for name, lookup in self.layers.items():
            self.rule.add_to_gradient(name, lookup)

    def after_step(self, step: int, optimiser: torch.optim.Optimizer) -> None:
        """Normalise and prune after the change of the net that ``step`` counts, from 1 on."""
        # (P / a, a * D) is the same layer, and both penalty and magnitudes depend on a. Moving the length of every row into P
        # keeps the net's function; a step changes lengths by a few per mille, so the optimiser's moments stay good estimates.
        self._normalise()
        self.prune(step, optimiser)

    def prune(self, step: int, optimiser: torch.optim.Optimizer) -> None:
        """Prune where the rule says so after ``step`` changes of the net, 0 at the start of training."""
        if self.rule.prunes(step):
            for name, lookup in self.layers.items():
                self._prune(name, lookup, step, optimiser)

    @torch.no_grad()
    def _prune(self, name: str, lookup: LookupConv2d, step: int, optimiser: torch.optim.Optimizer) -> None:
        """Prune what the rule says, and what the optimiser remembers of it."""
        kernel, support = lookup.sparse_kernel.detach(), lookup.support
        memories = [
            memory for memory in optimiser.state.get(lookup.sparse_kernel, {}).values()
            if isinstance(memory, Tensor) and memory.shape == support.shape  # it holds a moment of each entry
        ]  # fmt: skip
        compete = not self.rule.is_local or lookup.filters_per_pattern > 1
        for filters in [slice(None)] if compete else blocks(lookup):
            scores = kernel[filters].abs()
            if lookup.filters_per_pattern > 1:
                by_group = scores.unflatten(0, (lookup.geometry.groups, -1))
                scores = shared_scores(by_group, lookup.filters_per_pattern).flatten(0, 1)
            alive = self.rule.alive(name, scores, support[filters], step)
            if self.rule.kills(step):
                support[filters] &= alive
                for changed in (kernel, *memories):
                    changed[filters].masked_fill_(~support[filters], 0)
            else:
                kernel[filters].masked_fill_(~alive, 0)

    def _normalise(self) -> None:
        for lookup in self.layers.values():
            lookup.normalise_()

    def state(self) -> State:
        """Return what a checkpoint keeps, apart from the net's tensors."""
        return {**self.rule.state(), "supports": {name: lookup.support for name, lookup in self.layers.items()}}

    def load(self, state: State) -> None:
        """Continue from what ``state`` returned."""
        self.rule = self.rule.continued(state)
        for name, lookup in self.layers.items():
            lookup.support.copy_(state["supports"][name])


def settle(net: nn.Module) -> None:
    """Bring the lookup layers of a net whose tensors were replaced back to unit dictionary rows and inside their supports."""
    for lookup in net.modules():
        if isinstance(lookup, LookupConv2d):
            lookup.normalise_()
            lookup.restrict_(lookup.support)


def _epsilon(lookup: LookupConv2d, threshold_c: float) -> float:
    """Return ``threshold_c`` standard deviations of the entries that live, or 0 where none does."""
    return threshold_c * float(lookup.sparse_kernel.detach()[lookup.support].std(correction=0)) if lookup.n_nonzeros else 0.0

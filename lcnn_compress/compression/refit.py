"""Adapt a compressed net to unlabelled calibration batches: patterns and coefficients layer by layer, batch-norm statistics.

All of it is computed in closed form, without gradients; on Fashion-MNIST it brings back most of what cutting lookups loses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lcnn_compress.compression.batch_norms import log
from lcnn_compress.errors import DataError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.pattern import choose_pattern
from lcnn_compress.forms.positive import solve_positive
from lcnn_compress.net.cut import Walk
from lcnn_compress.net.ordinary import in_eval_mode
from lcnn_compress.net.patches import patches, seeded_positions
from lcnn_compress.progress import Progress, silent

SAMPLES = 32768
SAMPLES_AT_ONCE = 2048
# Solved coefficients are pulled toward the current ones by this fraction of the mean square of a response.
RIDGE = 1e-3
PASS_BYTES = 512 << 20
# The net's values before a layer are kept if they take at most this many times the bytes of a pass; others are made again.
KEPT_PASSES = 4
# Images go through a net in parts of at most so many: more at a time are no faster, and take more memory.
IMAGES_AT_ONCE = 16

T = TypeVar("T")


class ReachedError(Exception):
    """A hook raises it to end a forward pass whose rest is not needed."""


def refit(
    net: fx.GraphModule,
    dense: nn.Module,
    batches: Sequence[Tensor],
    progress: Progress = silent,
    targets: Mapping[str, int] = MappingProxyType({}),
    *,
    samples: int = SAMPLES,
    pass_bytes: int = PASS_BYTES,
) -> dict[str, tuple[float, float]]:
    """Re-solve the kept coefficients and the bias of every LookupConv2d of ``net`` in place; dictionaries stay.

    Layers are solved in the order they are called. Each filter is fitted by ridge least squares to what its dense layer gives
    in ``dense``, on the input that the lookup layer gets in ``net`` as solved so far: later layers make up for errors of
    earlier ones. The fit sees seeded positions of the images. Where ``targets`` asks for fewer entries, those go whose loss
    the output shows least (``choose_pattern``).

    Args:
        net: a net with lookup convolutions under the names of layers of ``dense``.
        dense: the net it was made from.
        batches: inputs, each (N, ...).
        progress: gets ("refitting", passes over a batch done, in total).
        targets: non-zeros to keep by layer; layers left out keep their support, and there a filter keeps its old values
            where new ones are not better, so that no error on the samples grows.
        samples: number of output positions of a layer, all images together, that its least squares see.
        pass_bytes: bytes of the dense net's outputs held at a time; layers beyond it wait for another pass over the batches.
            Values of ``net`` before a layer that take no more than ``KEPT_PASSES`` times as much are kept for the next layer.

    Returns:
        For each layer |lookup - dense| / |dense - mean of dense| over the samples, before and after.

    Raises:
        DataError: no images, or activations that are not finite.
    """
    batches = [part for x in batches for part in x.split(IMAGES_AT_ONCE) if len(part)]
    if not batches:
        raise DataError("calibration data holds 0 images; refitting needs at least 1")
    per_image = math.ceil(samples / sum(len(x) for x in batches))
    with in_eval_mode(net, dense), torch.no_grad():
        calls = _calls(net, batches[0])
        sizes = ((name, 4 * samples * lookup.out_channels) for name, (lookup, _) in calls.items())
        passes = split_by_memory(sizes, pass_bytes)
        errors = {}
        walk = Walk(net, batches, KEPT_PASSES * pass_bytes)
        done, total = 0, (len(passes) + len(calls)) * len(batches)
        for names in passes:
            wanted = {name: _Wanted(dense.get_submodule(name), calls[name][0], per_image) for name in names}
            with _hooked({dense.get_submodule(name): wanted[name].hook for name in names}):
                for x in batches:
                    progress("refitting", done, total)
                    dense(x)
                    done += 1
            for name in names:
                if not wanted[name].finite:
                    raise DataError(
                        f"{name}: activations of the dense net on the calibration data are not finite; check the data"
                    )
                lookup, n_calls = calls[name]
                moments = _Moments(lookup, wanted.pop(name), n_calls)
                walk.visit(name)
                with _hooked({lookup: moments.pre_hook}, before=True):
                    for values in walk.values():
                        progress("refitting", done, total)
                        with suppress(ReachedError):
                            walk.tail(*values)
                        done += 1
                if not moments.finite:
                    raise DataError(f"{name}: inputs on the calibration data are not finite; check data and weights")
                errors[name] = _solve(lookup, moments, targets.get(name))
    progress("refitting", total, total)
    log.info("refitted %d layers in %d passes", len(calls), len(passes))
    return errors


def _calls(net: nn.Module, x: Tensor) -> dict[str, tuple[LookupConv2d, int]]:
    """Return every lookup layer with the number of its calls in one pass, in the order of the first call."""
    lookups = {module: name for name, module in net.named_modules() if isinstance(module, LookupConv2d)}
    called: list[LookupConv2d] = []
    with _hooked({lookup: lambda module, _: called.append(module) for lookup in lookups}, before=True):
        net(x[:2])
    return {lookups[lookup]: (lookup, called.count(lookup)) for lookup in dict.fromkeys(called)}


@contextmanager
def _hooked(hooks: Mapping[Any, Callable[..., None]], before: bool = False) -> Iterator[None]:
    """Call a hook after, or before, every call of a module."""
    handles = [
        module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook)
        for module, hook in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def split_by_memory(sizes: Iterable[tuple[T, int]], pass_bytes: int) -> list[list[T]]:
    """Split things, in order, into parts whose bytes add up to at most ``pass_bytes``; one too large is a part alone."""
    parts: list[list[T]] = []
    room = 0
    for thing, needed in sizes:
        if not parts or needed > room:
            parts.append([])
            room = pass_bytes
        parts[-1].append(thing)
        room -= needed
    return parts


class _Wanted:
    """Outputs of a dense layer at the sampled positions, (N, C_out, positions) for each call."""

    def __init__(self, layer: nn.Module, lookup: LookupConv2d, per_image: int) -> None:
        self.is_linear, self.out_channels, self.per_image = isinstance(layer, nn.Linear), lookup.out_channels, per_image
        self.outputs: list[Tensor] = []
        self.finite = True

    def hook(self, _: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> None:
        if self.is_linear:
            y = y.reshape(-1, self.out_channels, 1, 1)  # (N, ..., C_out) -> planes
        self.finite = self.finite and bool(torch.isfinite(y).all())
        rows, columns = seeded_positions((y.shape[2], y.shape[3]), self.per_image, len(self.outputs))
        self.outputs.append(y[:, :, rows, columns])


class _Moments:
    """First and second moments of a lookup layer's responses and of the wanted output, per group, in float64.

    A feature is one dictionary row at one tap, in the order of ``sparse_kernel``: F = k * kH * kW for each group.
    """

    def __init__(self, lookup: LookupConv2d, wanted: _Wanted, n_calls: int) -> None:
        self.lookup, self.wanted, self.n_calls = lookup, wanted, n_calls
        groups, features = lookup.geometry.groups, lookup.dictionary_size * lookup.geometry.taps
        filters = lookup.out_channels // groups

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64)

        self.call = 0
        self.count = 0
        self.finite = True
        self.sum_f, self.sum_y = zeros(features), zeros(filters)
        self.ff, self.fy, self.yy = zeros(features, features), zeros(features, filters), zeros(filters)

    def pre_hook(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Add one input of the layer; after the last of a pass the rest of the net need not run."""
        x = args[0]
        self.finite = self.finite and bool(torch.isfinite(x).all())
        geometry = self.lookup.geometry
        size = geometry.output_size(x.shape[2], x.shape[3])
        rows, columns = seeded_positions(size, self.wanted.per_image, self.call)  # the same in both nets
        y = self.wanted.outputs[self.call]
        top, left, bottom, right = geometry.padding
        x = functional.pad(x, (left, right, top, bottom))
        step = max(1, SAMPLES_AT_ONCE // len(rows))
        for part_x, part_y in zip(x.split(step), y.split(step), strict=True):
            self._add(self._responses(part_x, rows, columns), part_y)
        self.call += 1
        if self.call % self.n_calls == 0:
            raise ReachedError

    def _responses(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the features (groups, N * positions, F) of padded inputs (N, C_in, H, W) at output (row, column) pairs."""
        geometry = self.lookup.geometry
        blocks = self.lookup.dictionary.unflatten(0, (geometry.groups, -1))  # (groups, k, m)
        read = patches(x, geometry, rows, columns)
        return torch.einsum("gkm,ngmpt->gnpkt", blocks, read).flatten(3).flatten(1, 2)

    def _add(self, features: Tensor, outputs: Tensor) -> None:
        f = features.double()
        y = outputs.double().unflatten(1, (self.lookup.geometry.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
        self.count += f.shape[1]
        self.sum_f += f.sum(1)
        self.sum_y += y.sum(1)
        self.ff += f.mT @ f
        self.fy += f.mT @ y
        self.yy += (y**2).sum(1)

    def centred(self, group: int) -> _Centred:
        """Return the statistics of one group of filters."""
        mean_f, mean_y = self.sum_f[group] / self.count, self.sum_y[group] / self.count
        ff = self.ff[group] / self.count
        return _Centred(
            mean_f, mean_y, ff - torch.outer(mean_f, mean_f), self.fy[group] / self.count - torch.outer(mean_f, mean_y),
            self.yy[group] / self.count - mean_y**2, RIDGE * float(ff.diagonal().mean()),
        )  # fmt: skip


def _solve(lookup: LookupConv2d, moments: _Moments, target: int | None) -> tuple[float, float]:
    """Choose the pattern if a target asks for it, and solve; return the layer's relative error before and after."""
    groups = lookup.geometry.groups
    kernel, bias = (
        (lookup.sparse_kernel * lookup.support).detach().unflatten(0, (groups, -1)).flatten(2),
        lookup.bias.detach().unflatten(0, (groups, -1)),
    )
    supports = lookup.support.unflatten(0, (groups, -1)).flatten(2)  # (groups, O / groups, F)
    by_group = [moments.centred(g) for g in range(groups)]
    old = torch.stack([c.squared_errors(kernel[g], bias[g]) for g, c in enumerate(by_group)])
    prunes = target is not None and target < int(supports.sum())
    if prunes and target is not None:
        ff, fy = (torch.stack([getattr(c, name) for c in by_group]) for name in ("ff", "fy"))
        supports = choose_pattern(ff, fy, supports, target, lookup.filters_per_pattern)
        kernel *= supports
    new = old.clone()
    for g, centred in enumerate(by_group):
        # Values are rounded before they are compared, so that what is compared is what is kept.
        solved = centred.least_squares(kernel[g].double(), supports[g]).to(kernel.dtype)
        solved_bias = (centred.mean_y - solved.double() @ centred.mean_f).to(bias.dtype)
        errors = centred.squared_errors(solved, solved_bias)
        better = (errors < old[g]) | prunes
        kernel[g, better], bias[g, better], new[g, better] = solved[better], solved_bias[better], errors[better]
    lookup.sparse_kernel.copy_(kernel.view_as(lookup.sparse_kernel))
    lookup.restrict_(supports.reshape(lookup.support.shape))
    variance = torch.stack([c.yy for c in by_group]).sum().clamp(min=torch.finfo(torch.float32).tiny)
    return float((old.sum() / variance).sqrt()), float((new.sum() / variance).sqrt())


@dataclass(frozen=True)
class _Centred:
    """Means of responses (F) and outputs (O), covariances ff (F, F) and fy (F, O), variances yy (O), and the ridge."""

    mean_f: Tensor
    mean_y: Tensor
    ff: Tensor
    fy: Tensor
    yy: Tensor
    ridge: float

    def squared_errors(self, kernel: Tensor, bias: Tensor) -> Tensor:
        """Return the mean squared error of each filter (O) for a kernel (O, F) and bias (O)."""
        kernel, bias = kernel.double(), bias.double()
        spread = self.yy - 2 * (kernel * self.fy.T).sum(1) + ((kernel @ self.ff) * kernel).sum(1)
        return spread.clamp(min=0) + (self.mean_y - bias - kernel @ self.mean_f) ** 2

    def least_squares(self, kernel: Tensor, supports: Tensor) -> Tensor:
        """Return the kernel (O, F) solved inside ``supports``, pulled toward ``kernel`` by the ridge."""
        solved = kernel.clone()
        if self.ridge == 0:  # the inputs are always zero
            return solved
        patterns, pattern_of = torch.unique(supports, dim=0, return_inverse=True)
        gradient = self.fy - self.ff @ kernel.T  # (F, O)
        for i, pattern in enumerate(patterns):
            kept = pattern.nonzero()[:, 0]
            filters = (pattern_of == i).nonzero()[:, 0]
            matrix = self.ff[kept[:, None], kept] + self.ridge * torch.eye(len(kept), dtype=torch.float64)
            step = solve_positive(matrix, gradient[kept[:, None], filters])
            solved[filters[:, None], kept] += step.T
        return solved

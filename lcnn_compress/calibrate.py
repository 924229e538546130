"""Adapt a compressed net to unlabelled calibration batches: batch-norm statistics and least squares for the kept coefficients.

Both need no gradient and take seconds; on Fashion-MNIST they bring back most of what cutting lookups loses.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.errors import DataError
from lcnn_compress.modules import LookupConv2d
from lcnn_compress.progress import Progress, silent

log = logging.getLogger(__name__)

SAMPLES = 16384  # output positions of a layer, all images together, that its least squares see
SAMPLES_AT_ONCE = 2048
RIDGE = 1e-3  # pull toward the current coefficients, relative to the mean square of a response
PASS_BYTES = 512 << 20  # second moments held at a time; layers beyond it wait for another pass over the batches


@contextmanager
def _eval_mode(net: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def reestimate_batch_norms(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of every batch norm to their average over ``batches``, each batch counting once.

    Train and eval modes and momentum stay as they were; dropout is off meanwhile.

    Raises:
        DataError: no batches, a batch too small for a variance, or statistics that are not finite.
    """
    norms = {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }
    if not norms:
        return
    batches = list(batches)
    if not batches:
        raise DataError("calibration data holds 0 batches; batch norms need at least 1")
    momenta = {name: norm.momentum for name, norm in norms.items()}
    with _eval_mode(net):
        try:
            for norm in norms.values():
                norm.reset_running_stats()
                norm.momentum = None  # cumulative average
                norm.train()
            for x in batches:
                net(x)
        except ValueError as error:  # torch's word for one value per channel
            raise DataError(f"a calibration batch cannot give batch-norm statistics: {error}; use larger batches") from error
        finally:
            for name, norm in norms.items():
                norm.momentum = momenta[name]
    for name, norm in norms.items():
        if not all(torch.isfinite(buffer).all() for buffer in norm.buffers()):
            raise DataError(f"{name}: batch-norm statistics on the calibration data are not finite; check data and weights")
    log.info("re-estimated %d batch norms on %d batches", len(norms), len(batches))


def refit(
    net: nn.Module, dense: nn.Module, batches: Sequence[Tensor], progress: Progress = silent
) -> dict[str, tuple[float, float]]:
    """Re-solve the kept coefficients and the bias of every LookupConv2d of ``net`` in place; dictionary and support stay.

    Each filter gets the ridge least squares of its dense output on the dense layer's own input, at seeded positions of the
    images. A filter keeps its old values where new ones are not better, so no error on these samples grows.

    Args:
        net: with lookup convolutions under the names of layers of ``dense``.
        dense: the net it was made from.
        batches: inputs, each (N, ...).
        progress: gets ("refitting", passes over a batch done, in total).

    Returns:
        For each layer |lookup - dense| / |dense - mean of dense| over the samples, before and after.

    Raises:
        DataError: no images, or activations of ``dense`` that are not finite.
    """
    lookups = {name: module for name, module in net.named_modules() if isinstance(module, LookupConv2d)}
    n_images = sum(len(x) for x in batches)
    if n_images == 0:
        raise DataError("calibration data holds 0 images; refitting needs at least 1")
    passes = _split_by_memory(lookups)
    errors = {}
    with _eval_mode(dense):
        for done, names in enumerate(passes):
            moments = {name: _Moments(lookups[name], dense.get_submodule(name), n_images) for name in names}
            hooks = [dense.get_submodule(name).register_forward_hook(moments[name].hook) for name in names]
            try:
                for i, x in enumerate(batches):
                    progress("refitting", done * len(batches) + i, len(passes) * len(batches))
                    dense(x)
            finally:
                for hook in hooks:
                    hook.remove()
            for name in names:
                if not moments[name].finite:
                    raise DataError(
                        f"{name}: activations of the dense net on the calibration data are not finite; check the data"
                    )
                errors[name] = _solve(lookups[name], moments[name])
    progress("refitting", len(passes) * len(batches), len(passes) * len(batches))
    log.info("refitted %d layers on %d images in %d passes", len(lookups), n_images, len(passes))
    return {name: errors[name] for name in lookups}


def _split_by_memory(lookups: dict[str, LookupConv2d]) -> list[list[str]]:
    passes: list[list[str]] = []
    room = 0
    for name, lookup in lookups.items():
        features = lookup.dictionary_size * lookup.geometry.taps
        needed = 8 * features * (lookup.geometry.groups * features + lookup.out_channels)
        if not passes or needed > room:
            passes.append([])
            room = PASS_BYTES
        passes[-1].append(name)
        room -= needed
    return passes


class _Moments:
    """First and second moments of a lookup layer's responses and of the dense output, per group, in float64.

    A feature is one dictionary row at one tap, in the order of ``sparse_kernel``: F = k * kH * kW for each group.
    """

    def __init__(self, lookup: LookupConv2d, layer: nn.Module, n_images: int) -> None:
        self.lookup = lookup
        self.padding = _own_padding(layer)
        self.per_image = math.ceil(SAMPLES / n_images)
        self.generator = torch.Generator().manual_seed(0)
        groups, features = lookup.geometry.groups, lookup.dictionary_size * lookup.geometry.taps
        filters = lookup.out_channels // groups

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64)

        self.count = 0
        self.finite = True
        self.sum_f, self.sum_y = zeros(features), zeros(filters)
        self.ff, self.fy, self.yy = zeros(features, features), zeros(features, filters), zeros(filters)

    def hook(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Add the input and output of one call of the dense layer."""
        x, y = args[0], output
        if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
            self.finite = False
            return
        if self.padding is None:
            x = x.reshape(-1, self.lookup.in_channels, *self.lookup.geometry.kernel)  # (N, ..., C_in * kH * kW) -> planes
            y = y.reshape(-1, self.lookup.out_channels, 1, 1)
        else:
            x = functional.pad(x, self.padding)
        per_image = min(self.per_image, y.shape[2] * y.shape[3])
        positions = torch.randperm(y.shape[2] * y.shape[3], generator=self.generator)[:per_image]
        rows, columns = positions // y.shape[3], positions % y.shape[3]
        step = max(1, SAMPLES_AT_ONCE // per_image)
        for part_x, part_y in zip(x.split(step), y[:, :, rows, columns].split(step), strict=True):
            self._add(self._responses(part_x, rows, columns), part_y)

    def _responses(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the features (groups, N * positions, F) of padded inputs (N, C_in, H, W) at output (row, column) pairs."""
        geometry = self.lookup.geometry
        taps = torch.arange(geometry.taps)
        tap_rows, tap_columns = taps // geometry.kernel[1], taps % geometry.kernel[1]
        at_rows = rows[:, None] * geometry.stride[0] + tap_rows * geometry.dilation[0]
        at_columns = columns[:, None] * geometry.stride[1] + tap_columns * geometry.dilation[1]
        patches = x[:, :, at_rows, at_columns].unflatten(1, (geometry.groups, -1))  # (N, groups, m, positions, taps)
        blocks = self.lookup.dictionary.unflatten(0, (geometry.groups, -1))  # (groups, k, m)
        return torch.einsum("gkm,ngmpt->gnpkt", blocks, patches).flatten(3).flatten(1, 2)

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


def _own_padding(layer: nn.Module) -> list[int] | None:
    """Return (left, right, top, bottom) zeros the dense layer puts around its input; None for a Linear.

    It can be less than the lookup layer's: a padding operator before a dense convolution becomes part of its replacement.
    """
    if isinstance(layer, nn.Linear):
        return None
    if isinstance(layer, LookupConv2d):
        top, left, bottom, right = layer.geometry.padding
        return [left, right, top, bottom]
    assert isinstance(layer, nn.Conv2d), layer
    return list(layer._reversed_padding_repeated_twice)  # also resolves padding="same"


def _solve(lookup: LookupConv2d, moments: _Moments) -> tuple[float, float]:
    """Write the better of old and new coefficients of each filter; return the layer's relative error before and after."""
    groups = lookup.geometry.groups
    kernel, bias = (
        (lookup.sparse_kernel * lookup.support).detach().unflatten(0, (groups, -1)).flatten(2),
        lookup.bias.detach().unflatten(0, (groups, -1)),
    )
    supports = lookup.support.unflatten(0, (groups, -1)).flatten(2)  # (groups, O / groups, F)
    sums = torch.zeros(3, dtype=torch.float64)  # squared error before, after, variance
    for g in range(groups):
        centred = moments.centred(g)
        # Rounded before comparing, so that what is compared is what is kept.
        solved = centred.least_squares(kernel[g].double(), supports[g]).to(kernel.dtype)
        solved_bias = (centred.mean_y - solved.double() @ centred.mean_f).to(bias.dtype)
        old, new = centred.squared_errors(kernel[g], bias[g]), centred.squared_errors(solved, solved_bias)
        better = new < old
        kernel[g, better], bias[g, better] = solved[better], solved_bias[better]
        sums += torch.stack([old.sum(), torch.minimum(old, new).sum(), centred.yy.sum()])
    lookup.sparse_kernel.copy_(kernel.view_as(lookup.sparse_kernel))
    before, after = (sums[:2] / sums[2].clamp(min=torch.finfo(torch.float32).tiny)).sqrt().tolist()
    return before, after


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
        if self.ridge == 0:  # inputs that are always zero
            return solved
        patterns, pattern_of = torch.unique(supports, dim=0, return_inverse=True)
        gradient = self.fy - self.ff @ kernel.T  # (F, O)
        for i, pattern in enumerate(patterns):
            kept = pattern.nonzero()[:, 0]
            filters = (pattern_of == i).nonzero()[:, 0]
            matrix = self.ff[kept[:, None], kept] + self.ridge * torch.eye(len(kept), dtype=torch.float64)
            step = torch.linalg.solve(matrix, gradient[kept[:, None], filters])
            solved[filters[:, None], kept] += step.T
        return solved

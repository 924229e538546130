"""Least squares of one layer's coefficients for its own inputs, from second moments that serve every form of the layer.

``compression.refit`` solves the layers of a net one after the other, each with the net before it; trying dozens of forms of a
layer alone needs less: what the dense layer gives is linear in its inputs, so their covariance tells everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lcnn_compress.compression.refit import IMAGES_AT_ONCE, PASS_BYTES, RIDGE, ReachedError, split_by_memory
from lcnn_compress.forms.pattern import choose_pattern
from lcnn_compress.forms.positive import solve_positive
from lcnn_compress.net.layers import Layer
from lcnn_compress.net.output_error import some_images
from lcnn_compress.net.patches import patches, seeded_positions
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.progress import Progress, silent

# This many input patches of a layer are read.
SAMPLES = 8192
# At least this many images are read, and as many as give the patches wanted and as the net runs with this many MACs.
IMAGES, MAX_READ_MACS = 24, 5e11
# Fewer patches are read of wide layers, whose moments would take more MACs than this.
MAX_MOMENT_MACS = 2e11
# A form that would take more MACs to solve keeps its coefficients as coded.
MAX_SOLVE_MACS = 3e10
# A form with at most this many rows times taps gets its pattern chosen, within a second; larger forms keep theirs.
MAX_RESPONSES = 1200
# The systems solved at a time hold about this many numbers at most.
BLOCK_NUMBERS = 1 << 24


@dataclass(frozen=True)
class InputMoments:
    """Mean (groups, F) and covariance (groups, F, F) of input patches; F counts (channel of the group, tap)."""

    mean: Tensor
    covariance: Tensor
    taps: int

    def solve(
        self,
        dictionary: Tensor,
        kernel: Tensor,
        weight: Tensor,
        filters_per_pattern: int = 1,
        *,
        ridge: float = RIDGE,
        max_responses: int = MAX_RESPONSES,
    ) -> tuple[Tensor, Tensor]:
        """Return the weight (C_out, m, taps) of a coding with solved coefficients, and what its bias must add (C_out).

        As in ``compression.refit``, a small sparse kernel gets the pattern that suits the inputs best, with as many entries.

        Args:
            dictionary: (groups * k, m).
            kernel: (C_out, k, kH, kW).
            weight: (C_out, m, kH, kW), of the dense layer.
            filters_per_pattern: this many neighbouring filters get the same pattern.
            ridge: strength of the pull toward the coefficients as coded, relative to the mean square of a response.
            max_responses: rows times taps up to which a pattern is chosen.
        """
        groups = len(self.mean)
        blocks = dictionary.unflatten(0, (groups, -1))  # (groups, k, m)
        kernels = kernel.flatten(2).unflatten(0, (groups, -1))  # (groups, O, k, taps)
        weights = weight.flatten(2).unflatten(0, (groups, -1)).flatten(2)  # (groups, O, F)
        rebuilt, shift = [], []
        for g in range(groups):
            coded = self._solve_group(g, blocks[g], kernels[g], weights[g], filters_per_pattern, ridge, max_responses)
            new = torch.einsum("okt,km->omt", coded, blocks[g])
            rebuilt.append(new)
            shift.append((weights[g] - new.flatten(1)) @ self.mean[g])
        return torch.cat(rebuilt), torch.cat(shift)

    def variance(self, weight: Tensor) -> float:
        """Return the variance of the outputs of filters (C_out, m, ...), all together."""
        filters = weight.flatten(1).unflatten(0, (len(self.mean), -1))  # (groups, O, F)
        return float(((filters @ self.covariance) * filters).sum())

    def responses(self, group: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return covariances of what rows (k, m) give at each tap: (k * taps, F) with the inputs, and (k * taps, k * taps)."""
        m, taps = rows.shape[1], self.taps
        covariance = self.covariance[group].view(m, taps, m, taps)
        half = torch.einsum("km,mtns->ktns", rows, covariance).flatten(0, 1)  # (k * taps, m, taps)
        return half.flatten(1), torch.einsum("fns,ln->fls", half, rows).flatten(1)

    def _solve_group(
        self,
        group: int,
        rows: Tensor,
        kernel: Tensor,
        weight: Tensor,
        filters_per_pattern: int,
        relative_ridge: float,
        max_responses: int,
    ) -> Tensor:
        count = int((kernel != 0).sum())
        chosen = count < kernel.numel() and kernel[0].numel() <= max_responses
        if not chosen and not _is_solvable(kernel):
            return kernel
        half, responses = self.responses(group, rows)
        ridge = relative_ridge * float(responses.diagonal().mean())
        if ridge <= 0:
            return kernel
        if chosen:
            every = torch.ones_like(kernel, dtype=torch.bool).flatten(1)[None]
            kept = choose_pattern(responses[None], (half @ weight.T)[None], every, count, filters_per_pattern)[0]
            full = torch.linalg.pinv(rows.double(), rtol=1e-5).to(rows.dtype)
            kernel = torch.einsum("omt,mk->okt", weight.unflatten(1, (-1, self.taps)), full) * kept.view_as(kernel)
        if not _is_solvable(kernel):
            return kernel
        support = kernel.flatten(1) != 0  # (O, k * taps)
        most = int(support.sum(1).max())
        missing = weight - torch.einsum("okt,km->omt", kernel, rows).flatten(1)
        gradient = missing @ half.T  # (O, k * taps)
        step = torch.zeros_like(gradient)
        block = max(1, BLOCK_NUMBERS // most**2)
        for first in range(0, len(kernel), block):
            inside = support[first : first + block]
            places = inside.int().argsort(dim=1, descending=True, stable=True)[:, :most]  # (B, most), own ones first
            used = inside.gather(1, places)
            systems = responses[places[:, :, None], places[:, None, :]] * (used[:, :, None] & used[:, None, :])
            systems.diagonal(dim1=1, dim2=2).add_(torch.where(used, ridge, 1.0))
            right = gradient[first : first + block].gather(1, places) * used
            step[first : first + block].scatter_(1, places, solve_positive(systems, right[:, :, None])[:, :, 0] * used)
        return kernel + step.view_as(kernel)


def _is_solvable(kernel: Tensor) -> bool:
    """Tell whether a kernel (O, k, taps) has coefficients, and few enough to solve them for every filter."""
    most = int((kernel.flatten(1) != 0).sum(1).max()) if kernel.numel() else 0
    return most > 0 and len(kernel) * most**3 / 3 <= MAX_SOLVE_MACS


@torch.no_grad()
def gather(
    net: fx.GraphModule,
    layers: Sequence[Layer],
    batches: Sequence[Tensor],
    progress: Progress = silent,
    pass_bytes: int = PASS_BYTES,
) -> Iterator[InputMoments]:
    """Yield the moments of each layer's input patches at seeded positions, of as many images of ``batches`` as are needed.

    Layers share a pass over the images as far as ``pass_bytes`` of patches allow; the net must be the same whenever the
    next moments are asked for. ``progress`` gets ("reading inputs", batches done, in total) in each pass.
    """
    batches = some_images(batches, _images(layers, sum(map(len, batches))), IMAGES_AT_ONCE)
    images = sum(map(len, batches))
    called = [node.target for node in net.graph.nodes if node.op == "call_module"]
    for part in split_by_memory(((layer, _patch_bytes(layer)) for layer in layers), pass_bytes):
        seen: dict[str, list[Tensor]] = {layer.name: [] for layer in part}
        calls = sum(name in seen for name in called)
        left = [calls]
        hooks = [_keeper(layer, images, seen, left) for layer in part]
        handles = [
            net.get_submodule(layer.name).register_forward_pre_hook(hook) for layer, hook in zip(part, hooks, strict=True)
        ]
        try:
            for done, x in enumerate(batches):
                progress("reading inputs", done, len(batches))
                left[0] = calls
                with suppress(ReachedError):
                    net.eval()(x)
        finally:
            for handle in handles:
                handle.remove()
        progress("reading inputs", len(batches), len(batches))
        for layer in part:
            patches = torch.cat(seen.pop(layer.name), dim=1)  # (groups, n, F)
            mean = patches.mean(1)
            centred = patches - mean[:, None]
            yield InputMoments(mean, centred.mT @ centred / patches.shape[1], layer.geometry.taps)


def _images(layers: Sequence[Layer], most: int) -> int:
    """Return how many of ``most`` images are read: enough for the patches of every layer, more where the net is small."""
    needed = max((math.ceil(_samples(layer) / max(1, _positions(layer))) for layer in layers), default=1)
    affordable = int(MAX_READ_MACS / max(1, sum(layer.dense_macs for layer in layers)))
    return min(most, max(IMAGES, needed, affordable))


def _positions(layer: Layer) -> int:
    return sum(math.prod(layer.geometry.output_size(*size)) for size in layer.sizes)


def _samples(layer: Layer) -> int:
    """Return how many patches of a layer are wanted."""
    features = layer.in_channels // layer.geometry.groups * layer.geometry.taps
    return min(SAMPLES, math.ceil(MAX_MOMENT_MACS / features**2))


def _patch_bytes(layer: Layer) -> int:
    return 4 * _samples(layer) * layer.in_channels * layer.geometry.taps * len(layer.sizes)


def _keeper(
    layer: Layer, images: int, seen: dict[str, list[Tensor]], left: list[int]
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return a hook that keeps some patches of what a layer is given; the last of the calls ``left`` ends the pass."""
    per_image = math.ceil(_samples(layer) / images)

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[layer.name].append(_patches(given[0], module, layer.geometry, layer.in_channels, per_image))
        left[0] -= 1
        if left[0] == 0:
            raise ReachedError

    return keep


def _patches(x: Tensor, module: nn.Module, geometry: ConvGeometry, in_channels: int, per_image: int) -> Tensor:
    """Return (groups, n, F) of inputs (N, C, H, W) of a convolution, or (N, ..., C * kH * kW) of a Linear."""
    if isinstance(module, nn.Conv2d):
        x = functional.pad(x, list(module._reversed_padding_repeated_twice))
    else:
        x = x.reshape(-1, in_channels, *geometry.kernel)
    reach = [(k - 1) * d for k, d in zip(geometry.kernel, geometry.dilation, strict=True)]
    height, width = ((n - r - 1) // s + 1 for n, r, s in zip(x.shape[2:], reach, geometry.stride, strict=True))
    found = patches(x, geometry, *seeded_positions((height, width), per_image))
    found = found.permute(1, 0, 3, 2, 4)  # (groups, N, places, m, taps)
    return found.flatten(3).flatten(1, 2)

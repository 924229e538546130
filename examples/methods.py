"""The methods compare_methods.py compares: ways to give a net a given number of MACs.

Five of them are plans for ``api.compress_source``, so that refitting, batch norms and fine-tuning are the same for all:

* ``lookup (ours)``: planned in measured milliseconds (``lcnn_compress.search``): a layer becomes lookups in an SVD dictionary,
  sparse or low rank, or stays dense, so that the sum of their effects on the outputs is least.
* ``lookup (one rule)``: SVD dictionaries of one share of the channels, the same density everywhere; nothing is measured.
* ``lookup (paper)``: k-means dictionaries, every coefficient, an L1 penalty and a threshold while training (Bagherinezhad et
  al. 2017, section 3.2). The threshold is solved for what it leaves at the start; the penalty removes more.
* ``sparse``: plain pruning by magnitude, run by the same kernels with an identity dictionary.
* ``low rank``: every layer as a 1x1 convolution and one over its channels, both dense, as the exporter writes them.

``narrower`` is the same architecture at a share of its widths, trained with the dense net as its teacher for the same time;
``int8`` is the dense net and the narrower ones through ONNX Runtime's static quantisation, ``OpenVINO`` the same nets as that
computes by default (bfloat16 where the processor has it), ``OpenVINO int8`` the same after NNCF's static quantisation.

Each has two candidates of its own kind of setting, tried with the same two learning rates. Those that do not train have ways of
quantisation to choose from: int8 four, OpenVINO int8 two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lcnn_compress.benchmark import rivals
from lcnn_compress.compression.plan import LayerPlan, PlanSettings, plan_layers
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.dictionary import factorise
from lcnn_compress.net.layers import Layer
from lcnn_compress.operators.geometry import lookup_macs

OURS, UNIFORM, PAPER, SPARSE, LOW_RANK, NARROWER, INT8, OPENVINO_DEFAULT, OPENVINO_INT8 = (
    "lookup (ours)", "lookup (one rule)", "lookup (paper)", "sparse", "low rank", "narrower", "int8", "OpenVINO",
    "OpenVINO int8",
)  # fmt: skip
METHODS = (OURS, UNIFORM, PAPER, SPARSE, LOW_RANK, NARROWER, INT8, OPENVINO_DEFAULT, OPENVINO_INT8)
# These train nothing: they are made of the files of the dense net and of narrower ones.
FROM_FILES = {INT8: rivals.ONNX_INT8, OPENVINO_DEFAULT: rivals.OPENVINO_DEFAULT, OPENVINO_INT8: rivals.OPENVINO_INT8}
INSTALLED = tuple(method for method in METHODS if method not in FROM_FILES or FROM_FILES[method].is_installed)
CANDIDATES: dict[str, tuple[str, ...]] = {
    OURS: ("effects", "effects by parameters"),  # on outputs: what adds up to the error of a net
    UNIFORM: ("dictionary 0.3", "dictionary 0.5"),  # its share of the MACs that the layers may have
    PAPER: ("dictionary 0.3", "dictionary 0.5"),
    SPARSE: ("one density", "one threshold"),  # for all layers; a threshold in units of each layer's root mean square
    LOW_RANK: ("one share", "one energy"),  # of the channels, or of the squared singular values
    NARROWER: ("random start", "sliced start"),  # or the first channels of the dense net
    INT8: ("minmax", "entropy", "minmax signed", "entropy signed"),  # how ranges are found; activations uint8 or int8
    OPENVINO_DEFAULT: ("as it comes",),
    OPENVINO_INT8: ("performance", "mixed"),  # activations without or with a zero point
}
STEPS = 40  # of a bisection: more than a float32 resolves
LARGEST_THRESHOLD = 8.0  # standard deviations: nothing is left


@dataclass(frozen=True)
class Planned:
    """Plans for all layers, the dictionary's start, the paper's threshold where it rules, and the MACs to expect."""

    plans: list[LayerPlan]
    init: str
    threshold: float | None
    macs: int


def solve(macs_at: Callable[[float], int], target: float) -> float:
    """Return the largest t in (0, 1] at which ``macs_at``, which never falls, is at most ``target``.

    Raises:
        SettingsError: even the smallest t has more.
    """
    low, high = 0.0, 1.0
    if macs_at(high) <= target:
        return high
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if macs_at(middle) <= target else (low, middle)
    if low == 0.0:
        raise SettingsError(f"{target / 1e6:.3g} million MACs cannot be had: choose a lower --speeds")
    return low


class Rewriting:
    """The layers of a net that a method may rewrite, their MACs, and what the rest of the net has."""

    def __init__(self, found: Sequence[Layer], skip: tuple[str, ...]) -> None:
        self.found = found
        free = {plan.name for plan in plan_layers(found, PlanSettings("0.1", 1, skip=skip)) if plan.kind == "lookup"}
        self.layers = [layer for layer in found if layer.name in free]
        self.total = sum(layer.dense_macs for layer in found)
        self.fixed = self.total - sum(layer.dense_macs for layer in self.layers)

    def plan(self, method: str, candidate: str, speed: float, seed: int = 0) -> Planned:
        """Return what makes the net have ``speed`` times fewer MACs, as nearly as whole numbers allow; not for ``OURS``.

        Raises:
            SettingsError: the method cannot reach it.
        """
        target = self.total / speed
        if method == SPARSE:
            return self._sparse(candidate, target)
        if method == LOW_RANK:
            return self._low_rank(candidate, target)
        room = self.fixed + float(candidate.split()[1]) * (target - self.fixed)
        share = solve(lambda t: self._macs([self._rows(layer, t) for layer in self.layers], None), room)
        rows = [self._rows(layer, share) for layer in self.layers]
        return self._uniform(rows, target) if method == UNIFORM else self._paper(rows, target, seed)

    def _macs(self, rows: Sequence[int], densities: Sequence[float] | None) -> int:
        """MACs of the net with so many dictionary rows and densities; a layer that gains nothing stays dense."""
        spent = densities or [0.0] * len(rows)
        return self.fixed + sum(
            min(layer.dense_macs, _macs(layer, k, k, density))
            for layer, k, density in zip(self.layers, rows, spent, strict=True)
        )

    @staticmethod
    def _rows(layer: Layer, share: float) -> int:
        return max(1, round(share * min(_channels(layer), _vectors(layer) - 1)))

    def _uniform(self, rows: list[int], target: float) -> Planned:
        density = solve(lambda t: self._macs(rows, [t] * len(rows)), target)
        chosen = zip(self.layers, rows, strict=True)
        rewritten = {layer.name: _plan(layer, "lookup", k, k, density) for layer, k in chosen}
        return self._planned(rewritten, "svd", None, self._macs(rows, [density] * len(rows)))

    def _paper(self, rows: list[int], target: float, seed: int) -> Planned:
        kernels = [_every_coefficient(layer, k, seed) for layer, k in zip(self.layers, rows, strict=True)]

        def densities(t: float) -> list[float]:
            return [float((kernel > LARGEST_THRESHOLD * (1 - t)).mean()) for kernel in kernels]

        kept = solve(lambda t: self._macs(rows, densities(t)), target)
        chosen = zip(self.layers, rows, densities(kept), strict=True)
        rewritten = {  # one lookup at each position is where least squares and thresholding start from
            layer.name: _plan(layer, "lookup", k, k, density, lookups=1) for layer, k, density in chosen
        }
        return self._planned(rewritten, "kmeans", LARGEST_THRESHOLD * (1 - kept), self._macs(rows, densities(kept)))

    def _sparse(self, candidate: str, target: float) -> Planned:
        sizes = [_relative_sizes(layer) for layer in self.layers]

        def densities(t: float) -> list[float]:
            if candidate == "one density":
                return [t] * len(sizes)
            return [float((size > LARGEST_THRESHOLD * (1 - t)).mean()) for size in sizes]

        def macs(t: float) -> int:
            pairs = zip(self.layers, densities(t), strict=True)
            return self.fixed + sum(min(layer.dense_macs, _macs(layer, 0, _channels(layer), d)) for layer, d in pairs)

        kept = solve(macs, target)
        rewritten = {
            layer.name: _plan(layer, "sparse", 0, _channels(layer), density)
            for layer, density in zip(self.layers, densities(kept), strict=True)
        }
        return self._planned(rewritten, "svd", None, macs(kept))

    def _low_rank(self, candidate: str, target: float) -> Planned:
        energies = [_energies(layer) for layer in self.layers]

        def ranks(t: float) -> list[int]:
            if candidate == "one share":
                return [self._rows(layer, t) for layer in self.layers]
            limits = [self._rows(layer, 1) for layer in self.layers]
            return [
                min(limit, 1 + int(np.searchsorted(energy, t * energy[-1])))
                for energy, limit in zip(energies, limits, strict=True)
            ]

        kept = solve(lambda t: self._macs(ranks(t), [1.0] * len(self.layers)), target)
        rewritten = {layer.name: _plan(layer, "lowrank", k, k, 1.0) for layer, k in zip(self.layers, ranks(kept), strict=True)}
        return self._planned(rewritten, "svd", None, self._macs(ranks(kept), [1.0] * len(self.layers)))

    def _planned(self, rewritten: dict[str, LayerPlan], init: str, threshold: float | None, macs: int) -> Planned:
        dense = "kept dense by every method of the comparison"
        plans = [rewritten.get(layer.name) or LayerPlan(layer.name, "dense", dense) for layer in self.found]
        return Planned(plans, init, threshold, macs)


def _channels(layer: Layer) -> int:
    return layer.in_channels // layer.geometry.groups


def _vectors(layer: Layer) -> int:
    return layer.out_channels // layer.geometry.groups * layer.geometry.taps


def _macs(layer: Layer, projected: int, size: int, density: float) -> int:
    """MACs with ``projected`` rows of stage 1 and a share ``density`` of C_out * kH * kW * size coefficients."""
    nonzeros = round(density * size * layer.out_channels * layer.geometry.taps)
    return sum(lookup_macs(layer.in_channels, projected, nonzeros, layer.geometry, at) for at in layer.sizes)


def _plan(layer: Layer, kind: str, projected: int, size: int, density: float, lookups: float | None = None) -> LayerPlan:
    """Return the plan of a layer; dense where the method would not save MACs."""
    if _macs(layer, projected, size, density) >= layer.dense_macs:
        return LayerPlan(layer.name, "dense", "this method saves no MACs here")
    if lookups is None:
        # A share of 1 / (2 * positions) rounds to no coefficient at all, which is what a density of 0 asks for.
        smallest = 0.5 / (size * layer.out_channels * layer.geometry.taps)
        lookups = size if density >= 1 else max(density, smallest)
    return LayerPlan(layer.name, kind, "", size, lookups)


def _slices(layer: Layer) -> NDArray[np.float64]:
    """Return the channel vectors of a layer (n, C_in / groups)."""
    weight = layer.weight().detach().double().numpy()
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(-1, weight.shape[1])


def _relative_sizes(layer: Layer) -> NDArray[np.float64]:
    slices = np.abs(_slices(layer))
    return slices / max(float(np.sqrt((slices**2).mean())), 1e-12)


def _energies(layer: Layer) -> NDArray[np.float64]:
    return np.cumsum(np.linalg.svd(_slices(layer), compute_uv=False) ** 2)


def _every_coefficient(layer: Layer, k: int, seed: int) -> NDArray[np.float64]:
    """Return |P| of the least-squares coding in a k-means dictionary, in standard deviations, as thresholding will see it."""
    weight = layer.weight().detach().numpy()
    groups = layer.geometry.groups
    dictionary, _ = factorise(weight, groups=groups, dictionary_size=k, lookups=1, init="kmeans", seed=seed)
    blocks = dictionary.reshape(groups, k, -1).astype(np.float64)
    slices = weight.astype(np.float64).transpose(0, 2, 3, 1).reshape(groups, -1, weight.shape[1])
    kernel = slices @ np.linalg.pinv(blocks)
    return np.abs(kernel) / max(float(kernel.std()), 1e-12)


def module_macs(build: Callable[[float], nn.Module], share: float, shape: tuple[int, ...]) -> int:
    """Return the MACs of the convolutions and linear layers of ``build(share)``; no weights are made."""
    total = 0

    def count(module: nn.Conv2d | nn.Linear, _: Any, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    with torch.device("meta"), torch.no_grad():
        net = build(share).eval()
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        net(torch.zeros(shape))
    return total


def start_from_slices(narrow: nn.Module, dense: dict[str, Tensor]) -> None:
    """Give a narrower net the weights of the first channels of the dense one."""
    weights = {}
    for name, tensor in narrow.state_dict().items():
        source = dense[name]
        if name == "main_processor.conv15.weight" or name == "main_processor.conv15.bias":
            half, width = len(source) // 2, len(tensor) // 2  # filters, then the masks they are multiplied by
            source = torch.cat([source[:width], source[half : half + width]])
        weights[name] = source[tuple(slice(length) for length in tensor.shape)].clone()
    narrow.load_state_dict(weights)

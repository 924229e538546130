"""A net before its first step: Gaussian weights, dictionaries and kernels, as a function of a seed.

A layer in training is the lookup convolution that everything else knows: X * W = (X * D) * P with a kernel P that starts with
every entry. To set the entries of P within epsilon to zero before a forward pass, as the paper writes it, is to prune them
after the step before: what is zero stays zero either way. So nothing has to be converted when training ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from lcnn_compress.compression.settings import LayerPlan
from lcnn_compress.errors import ArtefactError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import with_lookups
from lcnn_compress.net.layers import Captured, Layer
from lcnn_compress.net.ordinary import seeded
from lcnn_compress.train.checkpoint import complete, read_checkpoint

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def gaussian_start(captured: Captured, plans: Sequence[LayerPlan], seed: int) -> fx.GraphModule:
    """Return a copy of a net with new weights, in which planned layers are lookup convolutions with full kernels.

    Dense weights have the variance 2 / fan-in (He et al. 2015, arXiv 1502.01852, equation 10), biases are 0, and other modules
    start as torch lets them. Parameters outside of any module that can do so keep their values.
    """
    with seeded(seed):
        lookups = {
            plan.name: gaussian_lookup(layer, plan.dictionary_size)
            for layer, plan in zip(captured.layers, plans, strict=True) if plan.form.is_coded
        }  # fmt: skip
        net = with_lookups(captured, lookups)
        for module in net.modules():
            if isinstance(module, WEIGHTED):
                _gaussian_(module)
            elif not isinstance(module, LookupConv2d) and callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return net


@torch.no_grad()
def _gaussian_(module: nn.Module) -> None:
    weight = module.get_parameter("weight")
    fan_in = weight[:, 0].numel() if isinstance(module, nn.ConvTranspose2d) else weight[0].numel()
    nn.init.normal_(weight, 0.0, math.sqrt(2 / fan_in))
    if isinstance(module.bias, Tensor):
        nn.init.zeros_(module.bias)


def gaussian_lookup(layer: Layer, dictionary_size: int) -> LookupConv2d:
    """Return a lookup convolution in the place of ``layer`` that keeps the variance of what goes through it.

    Rows of the dictionary have the variance 1 / m, so that responses vary like the input, and the kernel 2 / (k kH kW). Both
    are drawn from the state of torch's generator.
    """
    geometry = layer.geometry
    rows = torch.randn(geometry.groups * dictionary_size, layer.in_channels // geometry.groups)
    kernel = torch.randn(layer.out_channels, dictionary_size, *geometry.kernel)
    return LookupConv2d(
        rows / math.sqrt(rows.shape[1]), kernel * math.sqrt(2 / (dictionary_size * geometry.taps)), None, geometry
    )


@torch.no_grad()
def start_from(net: fx.GraphModule, path: Path) -> None:
    """Give a net the tensors of a checkpoint of a training, those of the same net in the same plan; dead entries stay dead.

    Raises:
        SettingsError, FileError: there is no such file, or it cannot be read.
        ArtefactError: it is no checkpoint, is damaged, or is of another net.
    """
    state = read_checkpoint(path)
    with complete(path):
        held, own = state["net"], net.state_dict()
        shapes = {name: (held.get(name), own.get(name)) for name in (*own, *(name for name in held if name not in own))}
        differing = [
            f"{name} is {_shape(a)} there and {_shape(b)} here" for name, (a, b) in shapes.items() if _shape(a) != _shape(b)
        ]
        if differing:
            raise ArtefactError(
                f"{path}: is of another net: {'; '.join(differing[:3])}; use net, preset and classes of that training"
            )
        net.load_state_dict(held)
        for name, support in state["supports"].items():
            lookup = net.get_submodule(name)
            assert isinstance(lookup, LookupConv2d)
            lookup.restrict_(support)


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"

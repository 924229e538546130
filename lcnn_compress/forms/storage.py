"""The types factors are stored as: float16, float32, or int8, which is float16 with large dictionaries in 8 bits.

A large dictionary is read from memory at every run of a linear layer, which takes half the time in half the bytes. In 8 bits
its rows are integers; their scales go into the coefficients, so that the operator knows nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.arithmetic import BFLOAT16, INT8
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.operators.encoding import encode_positions

TYPES = ("float16", "float32", "int8")
# A dictionary of fewer entries is not stored in 8 bits: the runtime widens it to float32 whatever it comes as.
MIN_BYTE_ENTRIES = 2**18
MAX_BYTE = 127
# Rounding to 8 bits may change a dictionary by this fraction of its norm; rows of normal values lose half of that.
MAX_BYTE_ERROR = 2.0**-6
# The largest coefficient of a layer in 8 bits must reach this: below it float16 has less than 11 bits.
MIN_COEFFICIENT = 2.0**-14
# A dictionary with rows of unit length is scaled down no further than this, so that its values stay normal in float16.
MIN_SCALE = 2.0**-5
# A dictionary stays an identity only where its layer's largest coefficient is in this range: float16 must hold it unscaled.
IDENTITY_RANGE = 2.0**-9, 2.0**15


def check_type(storage: str) -> None:
    """Raise SettingsError unless ``storage`` is one of ``TYPES``."""
    if storage not in TYPES:
        raise SettingsError(f"`storage` is '{storage}'; it must be one of {', '.join(TYPES)}")


def coefficient_type(storage: str) -> torch.dtype:
    """Return the type of coefficients."""
    return torch.float32 if storage == "float32" else torch.float16


def dictionary_type(storage: str, dictionary: Tensor) -> torch.dtype:
    """Return the type that holds a rounded dictionary: int8 for large ones of integers, otherwise that of coefficients."""
    if storage == "int8" and dictionary.numel() >= MIN_BYTE_ENTRIES:
        values = dictionary.detach()
        whole = bool((values == values.round()).all()) and float(values.abs().max()) <= MAX_BYTE
        return torch.int8 if whole else torch.float16
    return coefficient_type(storage)


def dictionary_bytes(storage: str, entries: int) -> int:
    """Return how many bytes a dictionary of so many entries takes, where 8 bits are precise enough for it."""
    return entries * (1 if storage == "int8" and entries >= MIN_BYTE_ENTRIES else coefficient_type(storage).itemsize)


# Bytes of a weight, and of the scale of a row or filter, of layers in narrow numbers.
_NARROW_BYTES = {INT8: (1, 4), BFLOAT16: (2, 0)}


def narrow_bytes(arithmetic: str, filters: int, taps: int, channels: int, *, groups: int = 1, rows: int = 0) -> int:
    """Return how many bytes a layer in 8 bits or bfloat16 takes, zeros too, with a bias of 4 for each filter.

    Args:
        arithmetic: what it computes in.
        filters: C_out.
        taps: positions of the kernel.
        channels: those of one group.
        groups: of the convolution.
        rows: of the dictionary of one group; 0 without one.
    """
    weight, scale = _NARROW_BYTES[arithmetic]
    return filters * ((rows or channels) * taps * weight + scale + 4) + groups * rows * (channels * weight + scale)


@dataclass(frozen=True)
class StoredFactors:
    """What files hold of a lookup convolution: its dictionary, its sparse kernel as a list, its bias.

    Attributes:
        dictionary: (groups * k, C_in / groups), of the stored type.
        gaps: (entries) uint8 or uint16, between the positions of non-zeros; see ``encoding.encode_positions``.
        coefficients: (entries) of the stored type.
        bias: (C_out) float32.
    """

    dictionary: Tensor
    gaps: Tensor
    coefficients: Tensor
    bias: Tensor

    @classmethod
    def of(cls, lookup: LookupConv2d, storage: str) -> StoredFactors:
        """Return copies of the factors of a layer in a stored type, one of ``TYPES``."""
        gaps, coefficients = encode_positions((lookup.sparse_kernel * lookup.support).detach().numpy())
        return cls(
            lookup.dictionary.detach().to(dictionary_type(storage, lookup.dictionary), copy=True), torch.from_numpy(gaps),
            torch.from_numpy(coefficients).to(coefficient_type(storage)), lookup.bias.detach().clone(),
        )  # fmt: skip


@torch.no_grad()
def round_factors(net: nn.Module, storage: str) -> None:
    """Round dictionaries and coefficients to the stored type, so that torch, artefact and ONNX file hold the same net.

    Rounded factors are final, and so is the kind of each layer.
    """
    for lookup in (module for module in net.modules() if isinstance(module, LookupConv2d)):
        lookup.restrict_(lookup.sparse_kernel != 0)
        largest = float(lookup.sparse_kernel.abs().max())
        lookup.is_identity &= IDENTITY_RANGE[0] <= largest <= IDENTITY_RANGE[1]
        large = storage == "int8" and not lookup.is_identity and lookup.dictionary.numel() >= MIN_BYTE_ENTRIES
        if not (large and _in_bytes(lookup)):
            _in_floats(lookup, coefficient_type(storage), largest)
        lookup.kind = lookup.settled_kind(lookup.kind)


def _in_floats(lookup: LookupConv2d, dtype: torch.dtype, largest: float) -> None:
    """Round both factors.

    The scale of the coefficients moves into the dictionary first, as far as its values stay normal in float16: what is left
    below 6e-5 loses precision. An identity stays one where float16 holds the coefficients as they are.
    """
    scale = 1.0 if lookup.is_identity else max(largest, MIN_SCALE)
    lookup.dictionary.copy_((lookup.dictionary * scale).to(dtype))
    _set_coefficients(lookup, (lookup.sparse_kernel / scale).to(dtype))


def _in_bytes(lookup: LookupConv2d) -> bool:
    """Round the rows to multiples of 1/127 of their largest values, if that and float16 coefficients are precise enough."""
    dictionary = lookup.dictionary
    steps = dictionary.abs().amax(dim=1) / MAX_BYTE  # (groups * k)
    steps = torch.where(steps > 0, steps, 1.0)
    rounded = (dictionary / steps[:, None]).round()
    error = (rounded * steps[:, None] - dictionary).norm() / dictionary.norm()
    groups = lookup.geometry.groups
    by_filter = steps.reshape(groups, 1, -1).expand(-1, lookup.out_channels // groups, -1).reshape(lookup.out_channels, -1)
    coefficients = (lookup.sparse_kernel * by_filter[:, :, None, None]).to(torch.float16)
    if not (float(error) <= MAX_BYTE_ERROR and float(coefficients.abs().max()) >= MIN_COEFFICIENT):
        return False
    if not torch.isfinite(coefficients).all():
        return False
    dictionary.copy_(rounded)
    _set_coefficients(lookup, coefficients)
    return True


def _set_coefficients(lookup: LookupConv2d, rounded: Tensor) -> None:
    lookup.sparse_kernel.copy_(rounded)
    lookup.restrict_(lookup.sparse_kernel != 0)

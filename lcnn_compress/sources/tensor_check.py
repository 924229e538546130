"""Tell tensors that a net can be made of from others: without values, sparse, quantised, nested, not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lcnn_compress.errors import ModelError

# An expanded tensor takes no memory until it is computed with; those of nets are small.
_MAX_EXPANDED_BYTES = 1 << 26
# Zip makes nothing smaller than that; what a file holds can be made without being in it.
_MAX_DEFLATION = 1000


def check_tensors(tensors: Mapping[str, Tensor], spec: str, file_bytes: int | None = None) -> None:
    """Refuse tensors that are more, or less, than an array of numbers.

    Args:
        tensors: of a net, by name.
        spec: names the net in the message.
        file_bytes: size of the file they came from, if they did.

    Raises:
        ModelError: a tensor has no values, or is sparse, quantised, nested or far larger than what it is stored in.
    """
    for name, tensor in tensors.items():
        if is_lazy(tensor) or tensor.is_meta:
            raise ModelError(f"{spec}: {name} has no values yet; run the net once or load its weights before saving it")
        if tensor.is_nested:
            what = "a nested tensor; save ordinary tensors"
        elif tensor.is_quantized:
            what = f"quantised ({tensor.dtype}); give the net from before it was quantised"
        elif tensor.layout != torch.strided:
            what = f"a sparse tensor ({tensor.layout}); save it as an ordinary one, with to_dense()"
        else:
            stored = tensor.untyped_storage().nbytes()
            if file_bytes is not None and stored > _MAX_DEFLATION * file_bytes:
                stored = file_bytes
            elif tensor.nbytes <= stored + _MAX_EXPANDED_BYTES:
                continue
            what = f"of shape {tuple(tensor.shape)} but stored in {stored} bytes; the file was changed, save it again"
        raise ModelError(f"{spec}: {name} is {what}")


def check_finite(tensors: Mapping[str, Tensor], spec: str) -> None:
    """Refuse parameters that hold NaN or infinities, and other tensors that hold NaN.

    Infinities in buffers are common (masks of attention, a best loss). Whether a net works with them, its outputs tell.

    Args:
        tensors: of a net, by name; what counts are those that its outputs are computed from.
        spec: names the net in the message.

    Raises:
        ModelError: names the tensor and counts the values.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        values = tensor.float() if tensor.itemsize == 1 else tensor  # torch compares no numbers of 8 bits
        if isinstance(tensor, nn.Parameter):
            bad, what = int((~torch.isfinite(values)).sum()), "NaN or infinite; retrain it"
        else:
            bad, what = int(torch.isnan(values).sum()), "NaN; set them before saving the net"
        if bad:
            raise ModelError(f"{spec}: {name} holds {bad} values of {tensor.numel()} that are {what}")

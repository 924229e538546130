"""Find out the shape of a net's input, without computing anything with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TypeGuard

import torch
from torch import nn

from lcnn_compress.errors import SettingsError
from lcnn_compress.sources.factory import in_short
from lcnn_compress.sources.load_model import _log

SIZES = (224, 28, 32, 64, 96, 128, 227, 256, 299, 384)
# Of one input, as a model may say it of itself: 3x2048x2048 and more.
MAX_VALUES = 1 << 24


def infer_input_shape(
    model: nn.Module, image_size: Callable[[], tuple[int, int] | None] | None = None
) -> tuple[tuple[int, ...], str | None]:
    """Find the shape (1, C, H, W), or (1, features), that a net takes, without computing anything with it.

    Args:
        model: the net, which is not changed; a copy without values is run on sizes that are usual in image classification.
        image_size: returns the height and width of images at hand, if they have one; asked only where the net leaves it open.

    Returns:
        The shape, and a note when it had to be assumed.

    Raises:
        SettingsError: no usual size works.
    """
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
        if _is_plausible(size):
            return (1, *size), None
    widths = [m.in_channels for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    features = [m.in_features for m in model.modules() if isinstance(m, nn.Linear)]
    widths, features = ([n for n in numbers if _is_plausible((n,))] for numbers in (widths, features))
    if not widths and not features:
        raise SettingsError(
            "the net has no Conv2d and no Linear to tell its input from; give `input_shape`, such as 1,3,224,224"
        )
    if not widths:
        return (1, features[0]), None
    channels = widths[0]
    usual = {3: 224, 1: 28}.get(channels)
    sizes = sorted(SIZES, key=lambda size: (size != usual, size < 32, size))
    accepted = _accepted(model, [(1, channels, size, size) for size in sizes])
    first = next(accepted, None)
    if first is not None and next(accepted, None) is None:
        return first, None
    at_hand = None if image_size is None else image_size()
    fitting = None if at_hand is None else next(_accepted(model, [(1, channels, *at_hand)]), None)
    if fitting is not None:
        text = ",".join(str(n) for n in fitting)
        return fitting, f"the net takes images of several sizes; {text} is that of the data, `input_shape` changes it"
    if first is None:
        raise SettingsError(
            f"the net takes {channels} channels but none of the usual square sizes {sorted(SIZES)}; "
            f"give its input, as in `input_shape` 1,{channels},480,640"
        )
    text = ",".join(str(n) for n in first)
    return first, f"the net takes images of several sizes; {text} is assumed, `input_shape` changes it"


def _is_plausible(size: object) -> TypeGuard[Sequence[int]]:
    """Tell whether something that a model says of itself, which may be anything in a file, is a size of an input."""
    if not isinstance(size, (tuple, list)) or not 1 <= len(size) <= 4:
        return False
    return all(type(n) is int and n > 0 for n in size) and math.prod(size) <= MAX_VALUES


def _accepted(model: nn.Module, shapes: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Yield the shapes a net takes, run on a copy of it whose tensors have a shape and a type but no memory."""
    tensors = [*model.parameters(), *model.buffers()]
    try:
        copy = deepcopy(model, {id(tensor): tensor.detach().to("meta") for tensor in tensors}).eval()
    except Exception as error:  # a net may hold anything, such as a lock
        _log.debug("cannot copy the net: %s", in_short(error))
        return
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    for shape in shapes:
        try:
            with torch.device("meta"), torch.no_grad():
                copy(torch.empty(shape, dtype=dtype))
        except Exception as error:  # whatever the user's forward raises means: not this size
            _log.debug("%s is not taken: %s", shape, in_short(error))
        else:
            yield shape

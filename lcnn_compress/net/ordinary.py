"""Work in the state that torch starts in, whatever the caller has set, and leave that and all other state as it was.

Types and devices of new tensors, autocast, gradient modes, precision of products, random numbers and warning filters belong to
the whole process or thread: what a caller needs for a training would change, or fail, what is done here.
"""

from __future__ import annotations

import copy
import functools
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")

# One lock for each process: one that was held when a child was forked would never be released in the child.
_locks: dict[int, threading.RLock] = {}


def ordinary(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function work in ``ordinary_state``, with the nets that its arguments are, or hold as ``net``, in eval mode."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = [held for value in (*args, *kwargs.values()) for held in (value, getattr(value, "net", None))]
        nets = [net for net in given if isinstance(net, fx.GraphModule) and "eval" not in vars(net)]  # torch.export's refuses
        with ordinary_state(), in_eval_mode(*nets):
            return function(*args, **kwargs)

    return call


@contextmanager
def ordinary_state() -> Iterator[None]:
    """Have torch as it starts inside the block, and as it was after it.

    torch.export, torch.onnx and seeds change state of the whole process, so one thread at a time is in such a block and others
    wait for it. A thread may enter blocks inside of blocks, as a progress function that calls us does; it must not wait for
    another thread that wants to enter one.
    """
    with (
        _locks.setdefault(os.getpid(), threading.RLock()), torch.inference_mode(False), torch.enable_grad(),
        _kept_random_numbers(), _without_autocast(), _float32(), _on_cpu(), _full_precision(), warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.simplefilter("ignore", FutureWarning)  # torch warns of what it calls itself
        yield


@contextmanager
def _kept_random_numbers() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Leave all blocks of torch.autocast and enter them again.

    They are left one by one, because casts of weights are kept until the outermost block ends: a training of ours would compute
    with the weights of its first step.
    """
    devices = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    keeps, depth = torch.is_autocast_cache_enabled(), torch.autocast_increment_nesting()
    for _ in range(depth):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(True)
    for device in devices:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in devices:
            torch.set_autocast_enabled(device, True)
        torch.set_autocast_cache_enabled(keeps)
        for _ in range(depth - 1):
            torch.autocast_increment_nesting()


@contextmanager
def _float32() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


def _on_cpu() -> AbstractContextManager[object]:
    cpu = torch.device("cpu")
    return cpu if torch.get_default_device() != cpu else nullcontext()  # every call of torch takes longer in such a block


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep products of float32 from bfloat16, to which torch.set_float32_matmul_precision lets some processors round them."""
    # torch 2.8 does not have these.
    kinds = [kind for name in ("matmul", "conv") if (kind := getattr(torch.backends.mkldnn, name, None)) is not None]
    given = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, precision in zip(kinds, given, strict=True):
            kind.fp32_precision = "none"
            if kind.fp32_precision != precision:  # it is not what all kinds have
                kind.fp32_precision = precision


def of_ordinary_tensors(model: M) -> M:
    """Return a model, or a copy of a module whose tensors were made for inference, with which nothing else can be done."""
    tensors = (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ()
    return copy.deepcopy(model) if any(not is_lazy(tensor) and tensor.is_inference() for tensor in tensors) else model


@contextmanager
def in_eval_mode(*nets: nn.Module) -> Iterator[None]:
    """Have nets in eval mode inside the block, and each of their modules as it was after it."""
    modes = [(module, module.training) for net in nets for module in net.modules()]
    for net in nets:
        net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def seeded(seed: int, device: torch.device = torch.device("cpu")) -> Iterator[None]:
    """Draw torch's random numbers on the CPU and on ``device`` from a seed inside the block, and go on as before after it.

    (torch.manual_seed seeds every GPU, also those that are not used here.)
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield

"""What was loaded: a net, where it came from, the net inside wrappers, and what is not a net that can be captured."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel

from lcnn_compress.errors import ModelError
from lcnn_compress.sources.tensor_check import check_tensors


@dataclass(frozen=True)
class LoadedModel:
    """A net in evaluation mode and where it came from.

    Attributes:
        kind: "module" (pickled), "state_dict", "pt2" (torch.export) or "factory".
        path, sha256: path and hash of the file that held the net; None for a factory.
        input_shape: (N, C, H, W) of the example that a torch.export program carries; None where it is not known.
        notes: what the user should know about how the file was read.
    """

    model: nn.Module | torch.export.ExportedProgram
    kind: str
    source: str
    path: Path | None = None
    sha256: str | None = None
    input_shape: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


def wrapped(model: nn.Module) -> nn.Module | None:
    """Return the net in a wrapper that only passes calls on (of several devices, of averages, of torch.compile), else None."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
        inner: nn.Module = model.module
        return inner
    return dict(model.named_children()).get("_orig_mod")  # torch.compile names the net so


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the net inside DataParallel, AveragedModel or torch.compile."""
    while (inner := wrapped(model)) is not None:
        model = inner
    return model


def check_supported_module(model: nn.Module, spec: str) -> None:
    """Refuse, by what they are, modules that cannot be captured as a net of one tensor.

    Args:
        spec: names the module in the message.

    Raises:
        ModelError: it is one of TorchScript or of torch.export, its forward does not take one tensor, or its own tensors are
            none that a net can be made of.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"{spec}: is a TorchScript module, which holds no layers; give the module it was made from, before torch.jit"
        )
    if isinstance(model, fx.GraphModule) and "eval" in vars(model):
        raise ModelError(
            f"{spec}: is the module of an exported program, which refuses eval(); write the program with torch.export.save "
            "and give the .pt2 file, or give the net from before torch.export"
        )
    check_tensors({**dict(model.named_parameters()), **dict(model.named_buffers())}, spec)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a callable that does not tell
        return
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in free]
    positional = [p for p in parameters if p.kind not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)]
    if len(needed) > 1 or not positional:
        names = f" ({', '.join(needed)})" if needed else ""
        raise ModelError(f"{spec}: takes {len(needed)} inputs{names}; only nets of one tensor are supported")


def example_shape(program: torch.export.ExportedProgram) -> tuple[int, ...] | None:
    """Return the shape of the one tensor that a program was exported with, None if it was not one."""
    positional, keywords = program.example_inputs or ((), {})
    given = [*positional, *keywords.values()]
    return tuple(given[0].shape) if len(given) == 1 and isinstance(given[0], torch.Tensor) else None

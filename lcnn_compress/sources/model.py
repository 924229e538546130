"""What was loaded: a net, where it came from, and the net inside wrappers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


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


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the net inside DataParallel or torch.compile."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    compiled = model._modules.get("_orig_mod")  # torch.compile names the net so
    return model if compiled is None else unwrapped(compiled)

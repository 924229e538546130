"""Set batch-norm statistics to those of calibration data."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lcnn_compress.errors import DataError
from lcnn_compress.net.ordinary import in_eval_mode

log = logging.getLogger(__name__)


def batch_norms(net: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms with running statistics, by name."""
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }


def reestimate_batch_norms(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of every batch norm to their average over ``batches``, each batch counting once.

    Train and eval modes and momentum stay as they were; dropout is off meanwhile.

    Raises:
        DataError: no batches, a batch too small for a variance, or statistics that are not finite.
    """
    norms = batch_norms(net)
    if not norms:
        return
    batches = list(batches)
    if not batches:
        raise DataError("calibration data holds 0 batches; batch norms need at least 1")
    momenta = {name: norm.momentum for name, norm in norms.items()}
    with in_eval_mode(net), torch.no_grad():
        try:
            for norm in norms.values():
                norm.reset_running_stats()
                # Without a momentum torch takes the cumulative average.
                norm.momentum = None
                norm.train()
            for x in batches:
                net(x)
        except ValueError as error:  # torch raises it for one value per channel
            raise DataError(
                f"a calibration batch cannot give batch-norm statistics: {error}; use larger batches, or one image fewer"
            ) from error
        finally:
            for name, norm in norms.items():
                norm.momentum = momenta[name]
    for name, norm in norms.items():
        if not all(torch.isfinite(buffer).all() for buffer in norm.buffers()):
            raise DataError(f"{name}: batch-norm statistics on the calibration data are not finite; check data and weights")
    log.info("re-estimated %d batch norms on %d batches", len(norms), len(batches))

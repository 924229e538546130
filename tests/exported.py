"""Nets compressed and exported for tests, and what their files give."""

from __future__ import annotations

import torch
from torch import nn

from lcnn_compress import runtime
from lcnn_compress.compression.pipeline import compress_net
from lcnn_compress.compression.plan import LayerPlan, PlanSettings
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured


def compressed(model: nn.Module, shape: tuple[int, ...]):
    plan = PlanSettings("0.5", 2, keep_slow=True)
    return compress_net(Captured.of(capture(model, torch.zeros(shape)), shape), CompressSettings(plan, measure=False)).net


def outputs(path, x, **kwargs):
    return runtime.session(path, **kwargs).run(None, {"input": x.numpy()})[0]


class Reused(nn.Module):
    """One layer at two sizes, as detection heads have it, one that is a product of two, and a dense one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.thin, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.stem(x)).relu()
        x = self.thin(self.thin(self.head(nn.functional.max_pool2d(x, 2))).relu())
        return self.last(x) + self.last(x.flip(2))


REUSED = (
    LayerPlan("stem", "dense", ""),
    LayerPlan("head", "lookup", "", dictionary_size=8, lookups=2),
    LayerPlan("thin", "lowrank", "", dictionary_size=4, lookups=4),
    LayerPlan("last", "dense", ""),
)

"""A net, its compressed form and examples that tests of training share."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.train.loop import FinetuneReport, Goal, finetune
from lcnn_compress.train.recipe import Recipe

CLASSES = 3
TARGETS = {"0": 30, "3": 50}  # of the 108 and 288 non-zeros of ``lookup_net``


class TensorExamples:
    """Examples in memory; ``at_call`` is called with the number of each batch before it is handed out."""

    def __init__(self, x: Tensor, y: Tensor | None) -> None:
        self.x, self.y = x, y
        self.calls = 0
        self.at_call: Callable[[int], None] = lambda _: None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        self.calls += 1
        x = self.x[indices] + 0.01 * torch.randn(1)  # augmentation takes from the global random state
        self.at_call(self.calls)
        return x, None if self.y is None else self.y[indices]


def dense_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * 4, CLASSES),
    ).eval()  # fmt: skip


def lookup_net() -> nn.Sequential:
    """The dense net's shape with random factors, the first layer full and the second with 1 of 5 entries already gone."""
    net = copy.deepcopy(dense_net())
    torch.manual_seed(1)
    net[0] = LookupConv2d(
        torch.randn(2, 2), torch.randn(6, 2, 3, 3) / 4, torch.zeros(6), ConvGeometry((3, 3), padding=(1, 1, 1, 1))
    )
    kernel = torch.randn(8, 5, 3, 3) / 6
    kernel[:, 4] = 0
    net[3] = LookupConv2d(torch.randn(5, 6), kernel, torch.zeros(8), ConvGeometry((3, 3), (2, 2)))
    return net


def examples(*, n: int = 40, kind: str = "classes") -> TensorExamples:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 2, 6, 6, generator=generator)
    targets = torch.randn(n, CLASSES, generator=generator)
    y = {"classes": torch.arange(n) % CLASSES, "targets": targets, "labels": (targets > 0).float(), "none": None}[kind]
    return TensorExamples(x, y)


def recipe(**changes: Any) -> Recipe:
    return replace(Recipe(epochs=3, batch_size=8), **changes)


def lookups(net: nn.Module) -> dict[str, LookupConv2d]:
    return {name: m for name, m in net.named_modules() if isinstance(m, LookupConv2d)}


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name
    for name, lookup in lookups(a).items():
        assert torch.equal(lookup.support, lookups(b)[name].support)


def uninterrupted(chosen: Recipe) -> tuple[nn.Sequential, FinetuneReport]:
    net = lookup_net()
    return net, finetune(net, dense_net(), examples(), chosen, goal=Goal(TARGETS))


@contextmanager
def handling(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Handle a signal so inside the block: who runs the tests in the background lets them ignore SIGINT."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)

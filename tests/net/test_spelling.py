"""Decomposed programs have the layers of whole ones, and batch norms that use the batch's statistics keep doing so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.net.capture import capture, from_program
from lcnn_compress.net.edit import fold_batch_norms
from lcnn_compress.net.layers import calls, layers

X = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv, self.norm, self.tokens = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 8, bias=bias)
        self.out = nn.Linear(8, 4, bias=bias)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        f = self.norm(self.conv(x)).relu()
        return self.out(self.tokens(f.flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("bias", [True, False])
def test_decomposed_programs_have_their_layers_back(bias: bool) -> None:
    torch.manual_seed(0)
    model = Net(bias).eval()
    net = from_program(torch.export.export(model, (X,)).run_decompositions())
    # The bias of "tokens" is added apart, so that this name stands for more than the layer.
    assert [layer.name for layer in layers(net, X)] == ["conv", "tokens.linear" if bias else "tokens", "out"]
    assert [str(node.target) for node, _ in calls(net, nn.BatchNorm2d)] == ["norm"]
    torch.testing.assert_close(net(X), model(X))


@pytest.mark.parametrize("kind", ["functional", "untracked", "no weights", "planes of 1", "volumes"])
def test_batch_norms_of_the_batchs_own_statistics_keep_them(kind: str) -> None:
    class Training(Net):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.BatchNorm3d(8) if kind == "volumes" else nn.BatchNorm2d(8, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            f = self.conv(x)
            if kind == "untracked":
                return self.own(f)
            if kind == "no weights":
                return functional.batch_norm(f, None, None, training=True)
            if kind == "volumes":
                return functional.batch_norm(f[:, :, None], None, None, self.own.weight, self.own.bias, True)
            if kind == "planes of 1":
                return functional.batch_norm(f.mean((2, 3)), None, None, training=True)
            mean, var = self.norm.running_mean.clone(), self.norm.running_var.clone()
            return functional.batch_norm(f, mean, var, self.norm.weight, self.norm.bias, True, 0.0)

    torch.manual_seed(0)
    model = Training().eval()
    net = capture(model, X)
    fold_batch_norms(net)
    for x in (X, torch.rand(3, 3, 9, 14) * 5):
        torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-5)


def test_random_slopes_are_their_mean_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.RReLU(0.1, 0.5)).eval()
    net = capture(model, X)
    assert not any("rrelu" in str(node.target) for node in net.graph.nodes)
    torch.testing.assert_close(net(X), model(X))

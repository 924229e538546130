"""reestimate_batch_norms: statistics worked out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lcnn_compress.compression.batch_norms import reestimate_batch_norms
from lcnn_compress.errors import DataError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_batch_norm_statistics_are_the_average_over_batches() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(2, momentum=0.3), nn.Dropout(0.5), nn.ReLU(), nn.BatchNorm1d(3)).train()
    net[3] = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8))
    net[2].eval()
    batches = [torch.randn(5, 2, 2, 2) + 1, torch.randn(3, 2, 2, 2) * 2]
    reestimate_batch_norms(net, batches)
    first, second = net[0], net[3][1]
    mean = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in batches]).mean(0)
    torch.testing.assert_close(first.running_mean, mean)
    torch.testing.assert_close(first.running_var, variance)
    # The second one sees the first normalising each batch by itself, without dropout.
    inner = [functional.batch_norm(x, None, None, training=True).relu().flatten(1) for x in batches]
    torch.testing.assert_close(second.running_mean, torch.stack([x.mean(0) for x in inner]).mean(0), rtol=1e-4, atol=1e-5)
    assert first.momentum == 0.3
    assert [module.training for module in net] == [True, True, False, True]


def test_batch_norm_data_that_cannot_be_used() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(DataError, match="calibration data holds 0 batches"):
        reestimate_batch_norms(net, [])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    with pytest.raises(DataError, match=r"Expected more than 1 value per channel.*\[1, 4\].*use larger batches"):
        reestimate_batch_norms(net, [torch.randn(1, 3)])
    with pytest.raises(DataError, match="1: batch-norm statistics on the calibration data are not finite"):
        reestimate_batch_norms(net, [torch.full((2, 3), torch.inf)])
    assert net[1].momentum == 0.1
    assert not net[1].training


def test_net_without_batch_norms_is_left_alone() -> None:
    net = nn.Linear(2, 2)
    reestimate_batch_norms(net, iter(()))
    assert net.training

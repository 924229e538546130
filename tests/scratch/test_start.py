"""The start of a training: the layer against X * W by hand, what is drawn, and starting from other trainings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import DICTIONARY, SHAPE, tiny_net
from torch import Tensor, fx
from torch.nn import functional

from lcnn_compress.errors import ArtefactError, SettingsError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured, Layer
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.scratch.presets import choose
from lcnn_compress.scratch.start import gaussian_lookup, gaussian_start, start_from
from lcnn_compress.scratch.train_settings import TrainSettings
from lcnn_compress.train.loop import Training
from lcnn_compress.train.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def captured(n_classes: int = 4) -> Captured:
    return Captured.of(capture(tiny_net(n_classes).eval(), torch.zeros(SHAPE)), SHAPE)


def started(seed: int = 0, dictionary: str = DICTIONARY, n_classes: int = 4) -> fx.GraphModule:
    net = captured(n_classes)
    return gaussian_start(net, choose(net.layers, TrainSettings(dictionary=dictionary)).plans, seed)


def layer_of(geometry: ConvGeometry, channels: int, filters: int) -> Layer:
    module = torch.nn.Conv2d(channels, filters, geometry.kernel, geometry.stride, groups=geometry.groups)
    return Layer("conv", module, geometry, ((9, 8),), None, False)


def paper(x: Tensor, dictionary: Tensor, kernel: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return X * W with W[o, :, r, c] = sum_j P[o, j, r, c] D[j, :], each sum written out in float64."""
    filters, size, height, width = kernel.shape
    groups = geometry.groups
    weight = torch.zeros(filters, dictionary.shape[1], height, width, dtype=torch.float64)
    for o in range(filters):
        block = dictionary[(o // (filters // groups)) * size :][:size].double()
        for j in range(size):
            weight[o] += kernel[o, j].double() * block[j].view(-1, 1, 1)
    top, left, bottom, right = geometry.padding
    x = functional.pad(x.double(), (left, right, top, bottom))
    return functional.conv2d(x, weight, None, geometry.stride, 0, geometry.dilation, groups)


@pytest.mark.parametrize("sparsity", ["threshold", "top"])
@pytest.mark.parametrize("size", [2, 4, 11])
@pytest.mark.parametrize(
    "geometry",
    [
        ConvGeometry((3, 3), padding=(1, 1, 1, 1)), ConvGeometry((5, 2), (2, 3), (0, 1, 2, 0)), ConvGeometry((1, 1), (2, 2)),
        ConvGeometry((3, 3), (1, 2), (2, 2, 2, 2), (2, 1)), ConvGeometry((3, 3), padding=(1, 1, 1, 1), groups=2),
        ConvGeometry((9, 8)),
    ],
)  # fmt: skip
def test_the_layer_computes_what_the_paper_says_with_what_is_sparse_at_zero(
    geometry: ConvGeometry, size: int, sparsity: str
) -> None:
    torch.manual_seed(1)
    lookup = gaussian_lookup(layer_of(geometry, 8, 6), size)
    before = lookup.dictionary.detach().clone(), lookup.sparse_kernel.detach().clone()
    net = torch.nn.Sequential(lookup)
    Training(net, Recipe(sparsity=sparsity, lookups=2, threshold_c=0.5), 64, nonzeros={})
    # Rows have unit length, which went into the kernel; then small entries, or all but two of each position, are zero.
    rows, kernel = before
    lengths = rows.norm(dim=1)
    scaled = kernel * lengths.view(geometry.groups, 1, size, 1, 1).expand(-1, 6 // geometry.groups, -1, -1, -1).flatten(0, 1)
    if sparsity == "threshold":
        wanted = torch.where(scaled.abs() > 0.5 * scaled.std(correction=0), scaled, 0.0)
    else:
        least = scaled.abs().sort(1, descending=True).values[:, : min(2, size)].amin(1, keepdim=True)
        wanted = torch.where(scaled.abs() >= least, scaled, 0.0)
    assert int((wanted == 0).sum()) > 0 or size == 2
    torch.testing.assert_close(lookup.sparse_kernel.detach(), wanted)
    x = torch.randn(3, 8, 9, 8)
    expected = paper(x, rows / lengths[:, None], wanted, geometry)
    torch.testing.assert_close(lookup(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_variances_are_kept_and_gaussian() -> None:
    torch.manual_seed(0)
    lookup = gaussian_lookup(layer_of(ConvGeometry((3, 3), padding=(1, 1, 1, 1)), 64, 256), 16)
    kernel, rows = lookup.sparse_kernel.detach(), lookup.dictionary.detach()
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (16 * 9)), rel=0.02)
    assert float(rows.std()) == pytest.approx(1 / 8, rel=0.1)
    assert float((kernel.abs() < kernel.std()).float().mean()) == pytest.approx(0.6827, abs=0.01)
    assert bool((lookup.bias == 0).all())


def test_a_start_is_a_function_of_the_seed_and_not_of_the_weights_that_were_there() -> None:
    first, again, other = started(0), started(0), started(1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(first.get_parameter("conv2.sparse_kernel"), other.get_parameter("conv2.sparse_kernel"))
    assert not torch.equal(first.get_parameter("fc2.weight"), other.get_parameter("fc2.weight"))
    assert {name for name, m in first.named_modules() if isinstance(m, LookupConv2d)} == {"conv1", "conv2", "fc1"}
    assert first.get_parameter("fc1.sparse_kernel").shape == (24, 5, 4, 4)  # a 4x4 convolution on 16 channels

    trained = captured()
    with torch.no_grad():
        for tensor in (*trained.net.parameters(), *trained.net.buffers()):
            tensor.fill_(9)
    plans = choose(trained.layers, TrainSettings(dictionary=DICTIONARY)).plans
    for name, tensor in gaussian_start(trained, plans, 0).state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name]), name


def checkpoint_of(net: fx.GraphModule, path: Path) -> Path:
    from lcnn_compress.train.checkpoint import write_checkpoint

    training = Training(net, Recipe(sparsity="threshold", threshold_c=1.0), 64, nonzeros={})
    write_checkpoint(path, training.state())
    return path


def test_a_net_starts_from_another_training_and_dead_entries_stay_dead(tmp_path: Path) -> None:
    net = started(3)
    path = checkpoint_of(net, tmp_path / "final.ckpt")
    other = started(0)
    start_from(other, path)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    for name in ("conv1", "conv2", "fc1"):
        kept = other.get_submodule(name).support
        assert torch.equal(kept, net.get_submodule(name).support)
        assert 0 < int(kept.sum()) < kept.numel()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dictionary": "conv1=3,conv2=7,fc1=5"}, "conv2.dictionary is 6x12 there and 7x12 here"),
        ({"dictionary": "conv1=3,conv2=6"}, "fc1.weight is missing there and 24x256 here"),
        ({"n_classes": 5}, "fc2.weight is 4x24 there and 5x24 here"),
    ],
)
def test_a_checkpoint_of_another_net_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = checkpoint_of(started(3), tmp_path / "final.ckpt")
    with pytest.raises(ArtefactError, match=message):
        start_from(started(0, **changes), path)  # type: ignore[arg-type]


def test_a_start_from_nothing_or_from_something_else(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no checkpoint"):
        start_from(started(), tmp_path / "final.ckpt")
    (tmp_path / "other.ckpt").write_bytes(b"something else")
    with pytest.raises(ArtefactError, match="damaged"):
        start_from(started(), tmp_path / "other.ckpt")

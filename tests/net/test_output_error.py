"""How far a net's outputs are from the dense one's."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import small_net
from torch import Tensor, nn

from lcnn_compress import api
from lcnn_compress.compression.plan import PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured
from lcnn_compress.net.output_error import Outputs, affordable_images, some_images

EXAMPLE = torch.zeros(1, 3, 16, 16)


def test_calibration_images_may_differ_in_size() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU()
    )
    source = api.open_model(net.eval(), (1, 3, 12, 12))
    images = [torch.randn(70, 3, 12, 12), torch.randn(90, 3, 16, 14)]
    # Four of five, in batches of at most 32.
    assert [tuple(x.shape) for x in some_images(images, 128)] == [
        (32, 3, 12, 12), (24, 3, 12, 12), (32, 3, 16, 14), (32, 3, 16, 14), (8, 3, 16, 14)
    ]  # fmt: skip
    settings = CompressSettings(PlanSettings("4", 2, only=("3",), keep_slow=True), init="svd", measure=False)
    judge = Outputs(source.net, images)
    before = judge.error(api.compress(source, settings=settings).net)
    assert judge.error(api.compress(source, settings=settings, data=TrainingData(images)).net) < before


def test_outputs_of_the_same_net_have_no_error() -> None:
    net, images = capture(small_net(), EXAMPLE), torch.randn(40, 3, 16, 16)
    judge = Outputs(net, [images[:16], images[16:]])
    assert judge.error(net) == 0
    assert judge.variance == pytest.approx(float(net(images).detach().double().var(correction=0)))


def test_what_comes_before_a_layer_need_not_be_run_again() -> None:
    net, images = capture(small_net(), EXAMPLE), torch.randn(40, 3, 16, 16)
    judge, other = Outputs(net, [images[:16], images[16:]]), copy.deepcopy(net)
    (error_now,) = judge.errors_behind(other, ["conv2"])
    assert error_now() == error_now() == 0
    with torch.no_grad():
        other.get_parameter("conv2.weight").mul_(0.5)
    assert 0 < error_now() == pytest.approx(judge.error(other), rel=1e-6)


class InPlace(nn.Module):
    """Changes a value in place that was there before the second layer, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Conv2d(3, 3, 3, 1, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        early = self.first(x)
        also = torch.relu_(early)
        early += self.second(also)
        found: Tensor = self.last(also.mul_(2)) + early
        return found


def test_values_changed_in_place_are_restored() -> None:
    torch.manual_seed(0)
    net = capture(InPlace(), torch.zeros(2, 3, 6, 6))
    images = torch.randn(8, 3, 6, 6)
    judge = Outputs(net, [images[:4], images[4:]])
    (error_now,) = judge.errors_behind(net, ["second"])
    assert error_now() == error_now() == 0


def test_images_are_taken_at_even_distances():
    batches = [torch.arange(0, 30)[:, None], torch.arange(30, 90)[:, None]]
    assert torch.equal(torch.cat(some_images(batches, 9, 16))[:, 0], torch.arange(0, 90, 10))
    for count in (90, 1000):
        assert torch.equal(torch.cat(some_images(batches, count, 16))[:, 0], torch.arange(90))
    assert some_images([], 3) == []


@pytest.mark.parametrize(("macs", "count"), [(0.0, 3), (5.5, 5), (1e9, 7)])
def test_images_are_as_many_as_their_macs_allow(macs: float, count: int) -> None:
    """At least 3 and at most 7 of 40, at even distances."""
    captured = Captured.of(capture(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.zeros(1, 3, 8, 8)), (1, 3, 8, 8))
    per_image = 3 * 4 * 9 * 36
    batches = list(torch.arange(40.0)[:, None, None, None].expand(-1, 3, 8, 8).split(8))
    chosen = torch.cat(affordable_images(captured.net, captured.layers, batches, macs * per_image, (3, 7)))
    assert chosen[:, 0, 0, 0].tolist() == [40 * i // count for i in range(count)]
    # Images of four times the pixels have four times the MACs.
    large = [torch.zeros(40, 3, 16, 16)]
    assert sum(map(len, affordable_images(captured.net, captured.layers, large, 20.5 * per_image, (1, 40)))) == 5

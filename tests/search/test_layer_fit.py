"""Least squares of one layer's coefficients: against gradients, and moments against the inputs themselves."""

from __future__ import annotations

import pytest
import torch
from cases import LookupConvCase
from torch import nn

from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import layers
from lcnn_compress.search import layer_fit
from lcnn_compress.search.layer_fit import gather

EXAMPLE = torch.zeros(1, 3, 16, 16)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "case", [LookupConvCase(), LookupConvCase(groups=2, c_out=6, stride=(2, 1)), LookupConvCase(density=1.0)], ids=str
)
def test_coefficients_are_the_ridge_least_squares_of_the_inputs(case):
    g = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(case.c_in, case.c_out, case.kernel, case.stride, (1, 1), groups=case.groups)
    x = torch.randn(60, case.c_in, *case.size, generator=g) + 0.5
    example = torch.zeros(1, case.c_in, *case.size)
    net = capture(nn.Sequential(conv, nn.ReLU()), example)
    (layer,) = layers(net, example)
    start = case.module()
    (moments,) = gather(net, [layer], [x])
    factors = start.dictionary.detach(), start.sparse_kernel.detach(), layer.weight().detach()
    weight, shift = moments.solve(*factors, ridge=1e-9, max_responses=0)  # the pattern stays
    solved = LookupConv2d(start.dictionary, start.sparse_kernel, None, layer.geometry)
    best = nn.Parameter(solved.sparse_kernel.detach().clone())
    with torch.no_grad():
        wanted = conv(x)
        bias = conv.bias + shift
        got = nn.functional.conv2d(x, weight.view_as(conv.weight), bias, case.stride, (1, 1), 1, case.groups)
        mean_error = (got - wanted).mean((0, 2, 3))
    # Least squares with a bias: errors are uncorrelated with every response that may be used, and zero on average.
    assert mean_error.abs().max() < 1e-3 * wanted.std()
    error = (got - wanted - mean_error[:, None, None]).detach()
    output = nn.functional.conv2d(
        nn.functional.conv2d(x, start.dictionary[:, :, None, None].detach(), groups=case.groups),
        best * solved.support, None, case.stride, (1, 1), 1, case.groups,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad((output * error).mean(), best)
    assert gradient.abs().max() < 1e-3 * float(wanted.var())
    assert float(error.square().mean()) < float(
        (nn.functional.conv2d(x, start.weight().detach(), None, case.stride, (1, 1), 1, case.groups) - wanted).var()
    )


class Twice(nn.Module):
    """One layer is called twice, and its first input is changed in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 1), nn.Linear(16, 4)

    def forward(self, x):
        early = torch.relu(self.first(x))
        once = self.twice(early)
        early.add_(1)
        return self.last(self.twice(once + early))


def test_moments_are_of_what_every_call_is_given():
    torch.manual_seed(0)
    net = capture(Twice(), EXAMPLE)
    found, x = layers(net, EXAMPLE), torch.randn(24, 3, 16, 16)
    steps = []
    together = list(gather(net, found, [x[:16], x[16:]], lambda *step: steps.append(step)))
    assert steps == [("reading inputs", done, 2) for done in range(3)]  # one pass for all layers
    with torch.no_grad():
        early = torch.relu(net.get_submodule("first")(x))
        given = torch.cat([early, net.get_submodule("twice")(early) + early + 1])
    rows = given.permute(0, 2, 3, 1).flatten(0, 2)
    moments = together[[layer.name for layer in found].index("twice")]
    torch.testing.assert_close(moments.mean[0], rows.mean(0))  # of 342 of 256 positions of an image: all of them
    torch.testing.assert_close(moments.covariance[0], rows.T.cov(correction=0), rtol=1e-4, atol=1e-6)
    steps.clear()
    alone = list(gather(net, found, [x[:16], x[16:]], lambda *step: steps.append(step), pass_bytes=0))
    assert len(steps) == 3 * len(found)
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.covariance, other.covariance)


class Counted(nn.Module):
    """Three convolutions of large planes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, 1, 1) for _ in range(3))

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


def test_no_more_images_and_layers_are_run_than_the_patches_need(monkeypatch):
    monkeypatch.setattr(layer_fit, "MAX_READ_MACS", 0.0)  # nothing beyond what is needed
    example = torch.zeros(1, 3, 64, 64)
    net = capture(Counted(), example)
    found, images = layers(net, example), torch.randn(100, 3, 64, 64)
    ran = dict.fromkeys(("first", "second", "third"), 0)

    def count(name):
        return lambda _, given, __: ran.update({name: ran[name] + len(given[0])})

    for name in ran:
        net.get_submodule(name).register_forward_hook(count(name))
    list(gather(net, found[:2], [images[:60], images[60:]]))
    assert ran == {"first": layer_fit.IMAGES, "second": 0, "third": 0}  # an input is known before its layer is run
    ran = dict.fromkeys(ran, 0)
    small = torch.zeros(1, 3, 8, 8)
    net = capture(Counted(), small)
    found = layers(net, small)
    for name in ran:
        net.get_submodule(name).register_forward_hook(count(name))
    list(gather(net, found, [torch.randn(200, 3, 8, 8)]))
    assert ran["first"] == layer_fit.SAMPLES // 64  # 64 positions of each image

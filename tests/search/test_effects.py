"""What replacing one layer does to the outputs: against the built layer, whatever else the net has."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import LookupConvCase
from torch import nn

from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import with_lookups
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.net.output_error import Outputs
from lcnn_compress.search import effects
from lcnn_compress.search.candidates import candidates
from lcnn_compress.search.effects import choose_probes, estimate, replaced
from lcnn_compress.search.layer_errors import coded, local_errors
from lcnn_compress.search.layer_fit import gather

EXAMPLE = torch.zeros(1, 3, 16, 16)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_replaced_layer_is_the_lookup_convolution_and_comes_back(net, found, images):
    layer, lookup = found["conv1"], LookupConvCase(c_in=16, c_out=32, k=6).module()
    lookup = LookupConv2d(lookup.dictionary, lookup.sparse_kernel, None, layer.geometry)
    other, state = copy.deepcopy(net), {name: t.clone() for name, t in net.state_dict().items()}
    with torch.no_grad():
        expected = with_lookups(Captured.of(net, (1, 3, 16, 16)), {"conv1": lookup})(images)
        with replaced(other, layer, lookup.weight().detach().flatten(2), torch.zeros(32)):
            torch.testing.assert_close(other(images), expected, rtol=1e-4, atol=1e-4)
    assert other.get_submodule("conv1").bias is None
    assert all(torch.equal(state[name], t) for name, t in other.state_dict().items())


@pytest.mark.parametrize(("most_features", "few"), [(5000, False), (1, False), (5000, True)])
def test_effects_are_those_of_the_built_layer_and_grow_with_the_error(net, found, images, most_features, few):
    layer = found["conv2"]
    listed = [replace(c, ms=1.0) for c in candidates(layer, "float16", 0)]
    batches = list(images.split(20))
    steps = []
    limits = {"max_features": most_features} | ({"max_probe_macs": 0.0} if few else {})
    (effects,) = estimate(net, [layer], [listed], batches, lambda *step: steps.append(step), **limits)
    (moments,) = gather(net, [layer], batches)
    errors = local_errors(layer, listed, moments, max_features=most_features) or [c.weight_error for c in listed]
    judge, other = Outputs(net, list(images.split(32))), copy.deepcopy(net)
    probes = choose_probes(listed, few)
    assert steps[-1] == ("trying layers", len(probes) + 1, len(probes) + 1)
    for kind in ("sparse", "lowrank"):
        of_kind = sorted((e, v) for c, e, v in zip(listed, errors, effects, strict=True) if c.plan.kind == kind)
        assert all(b >= a * (1 - 1e-9) for (_, a), (_, b) in pairwise(of_kind))
        for c, effect in zip(listed, effects, strict=True):
            if c.plan.kind == kind and c in probes:
                with replaced(other, layer, *moments.solve(*coded(layer, c), layer.weight().detach())):
                    real = judge.error(other)
                # Exact but for what the sample and the smoothing of noise of few images add.
                assert effect == pytest.approx(real, rel=0.35), c.plan


@pytest.mark.parametrize("kind", ["sparse", "lookup"])
def test_options_with_common_patterns_only_have_effects_too(net, found, images, kind):
    layer = found["conv2"]
    listed = [
        replace(c, ms=1.0) for c in candidates(layer, "float16", 0) if c.plan.kind == kind and c.plan.filters_per_pattern == 4
    ]
    (effects,) = estimate(net, [layer], [listed], [images])
    assert all(0 < effect < 10 for effect in effects)


class Volumes(nn.Module):
    """A convolution of planes before one of volumes, as timm's lambda layers have."""

    def __init__(self) -> None:
        super().__init__()
        self.planes, self.volumes = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv3d(1, 2, (1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.volumes(self.planes(x)[:, None])


def test_other_layers_of_the_net_may_be_of_any_kind(images):
    torch.manual_seed(0)
    net = capture(Volumes(), EXAMPLE)
    layer = next(layer for layer in layers(net, EXAMPLE) if layer.name == "planes")
    listed = [replace(c, ms=1.0) for c in candidates(layer, "float16", 0)]
    (effects,) = estimate(net, [layer], [listed], [images])
    assert all(0 < effect < 2 for effect in effects)


def test_few_probes_are_the_ends_of_every_kind(found):
    listed = candidates(found["conv2"], "float16", 0)
    few = choose_probes(listed, few=True)
    assert len(few) < len(choose_probes(listed)) / 2
    for kind in ("lookup", "sparse", "lowrank"):
        own = [c.nonzeros for c in listed if c.plan.kind == kind and c.plan.filters_per_pattern == 1]
        tried = [c.nonzeros for c in few if c.plan.kind == kind]
        assert (min(own), max(own)) == (min(tried), max(tried))


class Restoring(nn.Module):
    """Gives an image of the size of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.third(torch.relu(self.second(torch.relu(self.first(x)))))


@pytest.mark.parametrize(("size", "least"), [(16, 16), (64, 2)])
def test_where_much_has_to_be_run_few_images_are_and_what_comes_before_a_layer_once(monkeypatch, size, least):
    torch.manual_seed(0)
    example = torch.zeros(1, 3, size, size)
    net = capture(Restoring(), example)
    tried = [layer for layer in layers(net, example) if layer.name != "first"]
    listed = [[replace(c, ms=1.0) for c in candidates(layer, "float16", 0)] for layer in tried]
    images = torch.randn(40, 3, size, size)
    whole = estimate(net, tried, listed, [images])
    monkeypatch.setattr(effects, "MAX_MACS", 1.0)
    seen = {name: [] for name in ("first", "second", "third")}
    with seen_by(net, "first", seen["first"]), seen_by(net, "second", seen["second"]), seen_by(net, "third", seen["third"]):
        sampled = estimate(net, tried, listed, [images])
    n_second, n_third = (len(choose_probes(options)) for options in listed)
    # Inputs of layers are read once of all images; one image tells the size of the output, ``least`` give the dense outputs.
    start = len(images) + 1 + least
    assert sum(seen["first"]) == start + least  # once before the second layer
    assert sum(seen["second"]) == start + least + n_second * least  # once before the third layer, and for its own forms
    assert sum(seen["third"]) == start + (n_second + n_third) * least
    ratios = np.concatenate(sampled) / np.concatenate(whole)
    assert ratios.min() > 0.6
    assert ratios.max() < 1.6


@contextmanager
def seen_by(net, name, seen):
    """While it is entered, a layer of the net and of its copies notes how many images it is given."""
    handle = net.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    yield
    handle.remove()

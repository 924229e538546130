"""Options of a layer and what replacing it alone does: counted, rebuilt and solved by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import LookupConvCase, small_net
from torch import nn

from lcnn_compress.benchmark.layer_cost import ORDINARY, LookupForm, Shape
from lcnn_compress.compression.output_error import Outputs
from lcnn_compress.compression.plan import LayerPlan, check_plan, planned_macs
from lcnn_compress.forms.dictionary import draft, draft_errors, factorise
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import with_lookups
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.search import candidates as candidates_module
from lcnn_compress.search.candidates import Candidate, candidates, dense_candidate, list_bytes, timed
from lcnn_compress.search.effects import choose_probes, estimate, replaced
from lcnn_compress.search.layer_errors import coded, local_errors
from lcnn_compress.search.layer_fit import gather

EXAMPLE = torch.zeros(1, 3, 16, 16)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def net():
    return capture(small_net(), EXAMPLE)


@pytest.fixture(scope="module")
def found(net):
    return {layer.name: layer for layer in layers(net, EXAMPLE)}


@pytest.fixture(scope="module")
def images():
    return torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def relative_error(dictionary, kernel, weight):
    rebuilt = np.einsum("okrc,km->omrc", kernel, dictionary)
    return float(((rebuilt - weight) ** 2).sum() / (weight**2).sum())


def test_options_are_possible_plans_with_their_macs_and_errors(found):
    layer = found["conv2"]
    listed = candidates(layer, 2, 0)
    assert {c.plan.kind for c in listed} == {"lookup", "sparse", "lowrank"}
    weight = layer.weight().detach().numpy()
    for c in listed:
        check_plan(c.plan, layer)
        assert c.macs == planned_macs(layer, c.plan) < layer.dense_macs
        if c.plan.kind != "lookup":
            init = {"sparse": "identity", "lowrank": "svd"}[c.plan.kind]
            pair = factorise(
                weight, groups=1, dictionary_size=c.plan.dictionary_size, lookups=c.plan.lookups, init=init, seed=0,
                filters_per_pattern=c.plan.filters_per_pattern,
            )  # fmt: skip
            assert abs(np.count_nonzero(pair[1]) - c.nonzeros) < c.plan.filters_per_pattern  # whole blocks
            block = (
                0.0
                if c.plan.filters_per_pattern == 1
                else c.plan.filters_per_pattern * float((weight**2).max() / (weight**2).sum())
            )
            real = relative_error(*pair, weight)
            assert c.weight_error == pytest.approx(real, rel=1e-4, abs=max(block, 1e-6))  # sums of float32


def test_drafts_are_near_the_real_coding(found):
    weight = found["conv2"].weight().detach().numpy()
    for lookups in (1, 4):
        (guess,) = draft_errors(weight, groups=1, dictionary_size=16, lookups=[lookups], seed=0, shares=[1]).values()
        real = factorise(weight, groups=1, dictionary_size=16, lookups=lookups, init="ksvd", seed=0)
        quick = draft(weight, groups=1, dictionary_size=16, lookups=lookups, seed=0)
        assert guess == pytest.approx(relative_error(*quick, weight), rel=1e-4)  # every slice is in the sample here
        # What a draft is for: on random filters, the hardest, it is not a fifth off.
        assert abs(guess / relative_error(*real, weight) - 1) < 0.2


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.9])
@pytest.mark.parametrize("coefficient_bytes", [2, 4])
def test_the_length_of_a_list_is_foreseen(density, coefficient_bytes):
    rng = np.random.default_rng(0)
    kernel = np.where(rng.random((200, 50, 3, 3)) < density, 1.0, 0.0).astype(np.float32)
    gaps, _ = encode_positions(kernel)
    foreseen = list_bytes(int(np.count_nonzero(kernel)), kernel.size, coefficient_bytes)
    # The number of bridges scatters: about 1 / sqrt(90 entries) at the least density, half of that in bytes.
    assert foreseen == pytest.approx(len(gaps) * (gaps.itemsize + coefficient_bytes), rel=0.06)


def test_times_are_interpolated_between_the_forms_measured(found, monkeypatch):
    layer = found["conv2"]  # 32 > 32, 3x3: 288 positions
    listed = [Candidate(LayerPlan("conv2", "lookup", "", 20, count), count * 288, 0, 0, 0.0) for count in (1, 2, 4, 10, 16)]
    times = {LookupForm(20, 288): 1.0, LookupForm(20, 4 * 288): 4.0, LookupForm(20, 16 * 288): 10.0}
    asked = {}

    def fake(wanted, **_):
        asked.update(wanted)
        return dict.fromkeys(wanted, times)

    monkeypatch.setattr("lcnn_compress.search.candidates.time_forms", fake)
    (done,) = timed([layer], [listed], {"conv2": 3.0}, threads=1)
    assert [c.ms for c in done] == [1.0, 2.0, 4.0, 7.0, 10.0]
    (shape,) = asked
    assert shape == Shape(32, 32, layer.geometry, (8, 8))
    times[LookupForm(20, 4 * 288)] = 11.0  # disturbed: more lookups took less
    assert [c.ms for c in timed([layer], [listed], {"conv2": 3.0}, threads=1)[0]] == [1.0, 4.0, 10.0, 10.0, 10.0]


def test_times_are_of_the_machine_as_fast_as_it_was_for_the_dense_net(found, monkeypatch):
    names = ("conv1", "conv2", "fc")
    listed = [[Candidate(LayerPlan(name, "lowrank", "", 2, 2), 0, 0, 0, 0.0)] for name in names]
    dense_ms = {"conv1": 1.0, "conv2": 2.0, "fc": 5.0}
    # The machine is twice as fast when forms are timed.
    alone = {name: ms / 2 for name, ms in dense_ms.items()}

    def fake(wanted, **_):
        name_of = {shape: name for name in names for shape in candidates_module._shapes(found[name])}
        assert all(ORDINARY in forms for forms in wanted.values())
        return {
            shape: {form: alone[name_of[shape]] if form is ORDINARY else 0.25 for form in forms}
            for shape, forms in wanted.items()
        }

    def times():
        return [options[0].ms for options in timed([found[name] for name in names], listed, dense_ms, threads=1)]

    monkeypatch.setattr("lcnn_compress.search.candidates.time_forms", fake)
    assert times() == [0.5, 0.5, 0.5]
    alone["conv1"] = 0.1  # disturbed
    assert times() == [0.5, 0.5, 0.5]


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


@pytest.mark.parametrize(
    "case", [LookupConvCase(), LookupConvCase(groups=2, c_out=6, stride=(2, 1)), LookupConvCase(density=1.0)], ids=str
)
def test_coefficients_are_the_ridge_least_squares_of_the_inputs(case, monkeypatch):
    monkeypatch.setattr("lcnn_compress.search.layer_fit.RIDGE", 1e-9)
    monkeypatch.setattr("lcnn_compress.search.layer_fit.MAX_RESPONSES", 0)  # the pattern stays
    g = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(case.c_in, case.c_out, case.kernel, case.stride, (1, 1), groups=case.groups)
    x = torch.randn(60, case.c_in, *case.size, generator=g) + 0.5
    example = torch.zeros(1, case.c_in, *case.size)
    net = capture(nn.Sequential(conv, nn.ReLU()), example)
    (layer,) = layers(net, example)
    start = case.module()
    (moments,) = gather(net, [layer], [x])
    weight, shift = moments.solve(start.dictionary.detach(), start.sparse_kernel.detach(), layer.weight().detach())
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


def exact_local_error(layer, candidate, moments):
    """Of a form with its pattern chosen and its coefficients solved, all filters."""
    rebuilt, _ = moments.solve(*coded(layer, candidate), layer.weight().detach(), candidate.plan.filters_per_pattern)
    weight = layer.weight().detach().flatten(2)
    return moments.variance(rebuilt - weight) / moments.variance(weight)


def test_local_errors_are_those_of_the_outputs(net, found, images):
    layer = found["conv2"]  # 32 filters: all of them are in the sample
    (moments,) = gather(net, [layer], [images])
    listed = candidates(layer, 2, 0)
    errors = local_errors(layer, listed, moments)
    assert errors is not None
    kinds = set()
    for candidate, error in zip(listed, errors, strict=True):
        plan = candidate.plan
        if plan.kind == "lookup" and plan.lookups not in (1, 8):
            continue
        kinds.add((plan.kind, plan.filters_per_pattern))
        # Exact for low rank but for the ridge; else the iteration stops early, and errors between solved forms are guessed.
        tolerance = 0.01 if plan.kind == "lowrank" else 0.25
        assert error == pytest.approx(exact_local_error(layer, candidate, moments), rel=tolerance), plan
    assert kinds == {("lookup", 1), ("lookup", 4), ("sparse", 1), ("sparse", 4), ("lowrank", 1)}
    at = {c.plan: e for c, e in zip(listed, errors, strict=True)}
    for plan, error in at.items():
        if plan.filters_per_pattern > 1 and plan.kind == "sparse":
            assert error > at[replace(plan, filters_per_pattern=1)]  # a common pattern is less choice


def test_a_sample_of_filters_tells_the_error_of_all(monkeypatch):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 96, 3)
    net = capture(nn.Sequential(conv, nn.ReLU()), torch.zeros(1, 8, 9, 9))
    (layer,) = layers(net, torch.zeros(1, 8, 9, 9))
    (moments,) = gather(net, [layer], [torch.randn(100, 8, 9, 9)])
    listed = candidates(layer, 2, 0)
    sampled = local_errors(layer, listed, moments)
    monkeypatch.setattr("lcnn_compress.search.layer_errors.FILTERS", (96, 96))
    every = local_errors(layer, listed, moments)
    assert sampled != every
    assert sampled == pytest.approx(every, rel=0.1)  # 64 filters of one distribution
    monkeypatch.setattr("lcnn_compress.search.layer_errors.MAX_FEATURES", 71)
    assert local_errors(layer, listed, moments) is None


@pytest.mark.parametrize(("most_features", "few"), [(5000, False), (1, False), (5000, True)])
def test_effects_are_those_of_the_built_layer_and_grow_with_the_error(net, found, images, most_features, few, monkeypatch):
    monkeypatch.setattr("lcnn_compress.search.layer_errors.MAX_FEATURES", most_features)
    if few:
        monkeypatch.setattr("lcnn_compress.search.effects.MAX_PROBE_MACS", 0.0)
    layer = found["conv2"]
    listed = [replace(c, ms=1.0) for c in candidates(layer, 2, 0)]
    batches = list(images.split(20))
    steps = []
    (effects,) = estimate(net, [layer], [listed], batches, lambda *step: steps.append(step))
    (moments,) = gather(net, [layer], batches)
    errors = local_errors(layer, listed, moments) or [c.weight_error for c in listed]
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
    listed = [replace(c, ms=1.0) for c in candidates(layer, 2, 0) if c.plan.kind == kind and c.plan.filters_per_pattern == 4]
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
    listed = candidates(found["conv2"], 2, 0)
    few = choose_probes(listed, few=True)
    assert len(few) < len(choose_probes(listed)) / 2
    for kind in ("lookup", "sparse", "lowrank"):
        own = [c.nonzeros for c in listed if c.plan.kind == kind and c.plan.filters_per_pattern == 1]
        tried = [c.nonzeros for c in few if c.plan.kind == kind]
        assert (min(own), max(own)) == (min(tried), max(tried))


def test_outputs_of_the_same_net_have_no_error(net, images):
    judge = Outputs(net, [images[:16], images[16:]])
    assert judge.error(net) == 0
    assert judge.variance == pytest.approx(float(net(images).detach().double().var(correction=0)))


def test_what_comes_before_a_layer_need_not_be_run_again(net, images):
    judge = Outputs(net, [images[:16], images[16:]])
    layer = next(layer for layer in layers(net, EXAMPLE) if layer.name == "conv2")
    other = copy.deepcopy(net)
    error_now = judge.error_behind(other, "conv2")
    assert error_now() == error_now() == 0
    with replaced(other, layer, 0.5 * layer.weight().detach(), torch.zeros(layer.out_channels)):
        assert 0 < error_now() == pytest.approx(judge.error(other), rel=1e-6)


def test_staying_dense_costs_what_it_did(found):
    dense = dense_candidate(found["conv2"], "why", 2.5)
    assert (dense.plan.kind, dense.plan.reason, dense.ms, dense.weight_error) == ("dense", "why", 2.5, 0.0)
    assert dense.macs == found["conv2"].dense_macs


class InPlace(nn.Module):
    """Changes a value in place that was there before the second layer, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Conv2d(3, 3, 3, 1, 1) for _ in range(3))

    def forward(self, x):
        early = self.first(x)
        also = torch.relu_(early)
        early += self.second(also)
        return self.last(also.mul_(2)) + early


def test_values_changed_in_place_are_restored():
    torch.manual_seed(0)
    net = capture(InPlace(), torch.zeros(2, 3, 6, 6))
    images = torch.randn(8, 3, 6, 6)
    judge = Outputs(net, [images[:4], images[4:]])
    error_now = judge.error_behind(net, "second")
    assert error_now() == error_now() == 0

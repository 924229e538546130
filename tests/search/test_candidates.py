"""Options of a layer: what is possible, what it costs, and how it is timed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lcnn_compress.benchmark.layer_forms import ORDINARY, LookupForm, NarrowForm, Rounding, Shape
from lcnn_compress.compression.plan import check_plan, planned_macs
from lcnn_compress.compression.settings import LayerPlan
from lcnn_compress.forms.dictionary import draft, draft_errors, factorise
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import layers
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.geometry import dense_macs
from lcnn_compress.search.candidates import (
    STRIP_MACS,
    Candidate,
    candidates,
    dense_candidate,
    edge_times,
    layer_shapes,
    list_bytes,
    narrow_candidates,
    timed,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def relative_error(dictionary, kernel, weight):
    rebuilt = np.einsum("okrc,km->omrc", kernel, dictionary)
    return float(((rebuilt - weight) ** 2).sum() / (weight**2).sum())


def test_options_are_possible_plans_with_their_macs_and_errors(found):
    layer = found["conv2"]
    listed = candidates(layer, "float16", 0)
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


def test_times_are_interpolated_between_the_forms_measured(found):
    layer = found["conv2"]  # 32 > 32, 3x3: 288 positions
    listed = [Candidate(LayerPlan("conv2", "lookup", "", 20, count), count * 288, 0, 0, 0.0) for count in (1, 2, 4, 10, 16)]
    times = {LookupForm(20, 288): 1.0, LookupForm(20, 4 * 288): 4.0, LookupForm(20, 16 * 288): 10.0}
    asked = {}

    def fake(wanted, **_):
        asked.update(wanted)
        return dict.fromkeys(wanted, times)

    (done,) = timed([layer], [listed], {"conv2": 3.0}, threads=1, time_forms=fake)
    assert [c.ms for c in done] == [1.0, 2.0, 4.0, 7.0, 10.0]
    (shape,) = asked
    assert shape == Shape(32, 32, layer.geometry, (8, 8))
    times[LookupForm(20, 4 * 288)] = 11.0  # disturbed: more lookups took less
    assert [c.ms for c in timed([layer], [listed], {"conv2": 3.0}, threads=1, time_forms=fake)[0]] == [
        1.0,
        4.0,
        10.0,
        10.0,
        10.0,
    ]


def test_times_are_of_the_machine_as_fast_as_it_was_for_the_dense_net(found):
    names = ("conv1", "conv2", "fc")
    listed = [[Candidate(LayerPlan(name, "lowrank", "", 2, 2), 0, 0, 0, 0.0)] for name in names]
    dense_ms = {"conv1": 1.0, "conv2": 2.0, "fc": 5.0}
    # The machine is twice as fast when forms are timed.
    alone = {name: ms / 2 for name, ms in dense_ms.items()}

    def fake(wanted, **_):
        name_of = {shape: name for name in names for shape in layer_shapes(found[name])}
        assert all(ORDINARY in forms for forms in wanted.values())
        return {
            shape: {form: alone[name_of[shape]] if form is ORDINARY else 0.25 for form in forms}
            for shape, forms in wanted.items()
        }

    def times():
        return [
            options[0].ms for options in timed([found[name] for name in names], listed, dense_ms, threads=1, time_forms=fake)
        ]

    assert times() == [0.5, 0.5, 0.5]
    alone["conv1"] = 0.1  # disturbed
    assert times() == [0.5, 0.5, 0.5]


def test_a_strip_stands_for_a_large_image():
    net = capture(nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU()), torch.zeros(1, 64, 400, 300))
    (layer,) = layers(net, torch.zeros(1, 64, 400, 300))
    ((shape, parts),) = layer_shapes(layer).items()
    macs = dense_macs(64, 64, layer.geometry, shape.size)
    assert shape.size[1] == 300
    assert STRIP_MACS <= macs < 1.05 * STRIP_MACS
    assert parts * macs == pytest.approx(layer.dense_macs)
    listed = [Candidate(LayerPlan("0", "lowrank", "", 2, 2), 0, 0, 0, 0.0)]
    strips = {ORDINARY: 10.0}

    def fake(wanted, **_):
        return {shape: {form: strips.get(form, 5.0) for form in forms} for shape, forms in wanted.items()}

    (done,) = timed([layer], [listed], {"0": 12.0 * parts}, threads=1, time_forms=fake)
    assert done[0].ms == pytest.approx(6.0 * parts)  # half of dense, as in the strip


def test_staying_dense_costs_what_it_did(found):
    dense = dense_candidate(found["conv2"], "why", 2.5)
    assert (dense.plan.kind, dense.plan.reason, dense.ms, dense.weight_error) == ("dense", "why", 2.5, 0.0)
    assert dense.macs == found["conv2"].dense_macs


@pytest.mark.parametrize(("arithmetic", "item", "scale"), [("int8", 1, 4), ("bfloat16", 2, 0)])
def test_dense_and_low_rank_layers_have_narrow_twins(found, arithmetic, item, scale):
    layer = found["conv2"]
    listed = candidates(layer, "float16", 0)
    made = narrow_candidates(layer, listed, "why", arithmetic)
    assert [(c.plan.kind, c.plan.reason) for c in made[:1]] == [("dense", "why")]
    ranks = [c for c in listed if c.plan.kind == "lowrank"]
    assert [replace(c.plan, arithmetic="float32") for c in made[1:]] == [c.plan for c in ranks]
    assert {c.arithmetic for c in made} == {arithmetic}
    assert all(c.is_narrow for c in made)
    assert not any(c.is_narrow for c in listed)
    assert [c.macs for c in made] == [layer.dense_macs, *(c.macs for c in ranks)]
    for c in made[1:]:
        check_plan(c.plan, layer)
    # 32 > 32, 3x3: what a weight, the scale and bias of a filter and a node take.
    assert made[0].weight_bytes == item * 32 * 32 * 9 + 32 * (4 + scale) + 400
    k = ranks[0].plan.dictionary_size
    assert made[1].weight_bytes == k * (item * 32 + scale) + item * k * 32 * 9 + 32 * (4 + scale) + 400


def test_narrow_times_are_of_their_forms_and_tell_what_rounding_takes(found):
    layer = found["conv2"]
    listed = candidates(layer, "float16", 0)
    given = [*listed, *(c for kind in ("int8", "bfloat16") for c in narrow_candidates(layer, listed, "", kind))]
    asked = {}
    start = {"int8": 0.5, "bfloat16": 0.7}

    def fake(wanted, **_):
        asked.update(wanted)
        times = {ORDINARY: 2.0, Rounding("int8"): 0.25, Rounding("bfloat16"): 0.125}
        return {
            shape: {f: times.get(f, start[f.arithmetic] + f.rows / 100 if isinstance(f, NarrowForm) else 1.0) for f in forms}
            for shape, forms in wanted.items()
        }

    (done,) = timed([layer], [given], {"conv2": 4.0}, threads=1, time_forms=fake)
    (forms,) = asked.values()
    assert {ORDINARY, Rounding("int8"), NarrowForm("int8", 0), NarrowForm("bfloat16", 8)} <= set(forms)
    narrow = [c for c in done if c.is_narrow]
    # The net is twice as slow as the layer alone.
    assert [c.ms for c in narrow] == [2 * (start[c.arithmetic] + c.plan.dictionary_size / 100) for c in narrow]
    assert {(c.arithmetic, c.rounding_ms) for c in narrow} == {("int8", 0.5), ("bfloat16", 0.25)}
    assert {c.rounding_ms for c in done if not c.is_narrow} == {0.0}
    asked.clear()
    timed([layer], [listed], {"conv2": 4.0}, threads=1, time_forms=fake)
    assert not any(isinstance(form, Rounding) for forms in asked.values() for form in forms)


def test_a_layer_in_float32_among_narrow_ones_costs_the_way_there_and_back(found):
    names = ("stem", "conv1", "conv2")
    # 3 channels of 16 x 16 for the stem, 16 for conv1; conv2 has 32 of 8 x 8.
    given = {"stem": 768, "conv1": 4096, "conv2": 2048}
    plain = {name: dense_candidate(found[name], "", 1.0) for name in names}

    def narrow(name, kind, ms):
        return replace(plain[name], plan=replace(plain[name].plan, arithmetic=kind), rounding_ms=ms * given[name])

    options = {name: [plain[name], narrow(name, "int8", 1e-3), narrow(name, "bfloat16", 1.0)] for name in names}
    made = {name: found[name].out_channels * found[name].geometry.output_size(*found[name].sizes[0])[0] ** 2 for name in names}
    edges = edge_times([found[name] for name in names], options, "int8", {"stem"})
    wanted = {name: 1e-3 * (made[name] + (0 if name == "stem" else given[name])) for name in names}
    assert edges == pytest.approx(wanted)
    assert edge_times([found["stem"]], {"stem": []}, "int8", ()) == {"stem": 0.0}

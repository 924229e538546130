"""A net's options in one value: the choice within a budget, its model and its table."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from given_times import BUSY_MS, DENSE_MS, SETTINGS, SHAPE, captured, small_problem, timers
from torch import nn

from lcnn_compress import api, runtime
from lcnn_compress.benchmark.gain import Gain
from lcnn_compress.benchmark.profile import OTHER, NetTimes
from lcnn_compress.compression.settings import TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.net.edit import fold_batch_norms, with_lookups
from lcnn_compress.net.layers import Captured
from lcnn_compress.search.meet_target import correct_times
from lcnn_compress.search.problem import CAST_PART, Corrections, Problem, prepare

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_choice_is_within_its_budget_and_better_with_more() -> None:
    made = small_problem()
    assert made.dense_ms == pytest.approx(3.5)
    assert made.corrections == Corrections(
        other_ms={"float32": pytest.approx(0.3)}, quiet_over_busy=pytest.approx(3.5 / BUSY_MS)
    )
    errors = []
    for budget in (1.5, 2.0, 2.5, 3.0):
        choice = made.within_ms(budget)
        assert choice is not None
        assert choice.ms is not None
        assert choice.ms <= budget
        rows = made.table(choice)
        assert sum(row.predicted_ms or 0.0 for row in rows) + made.other_ms(choice.arithmetic) == pytest.approx(choice.ms)
        assert sum(row.error**2 for row in rows) == pytest.approx(choice.error**2)
        errors.append(choice.error)
    assert errors == sorted(errors, reverse=True)
    assert made.within_ms(3.5) == made.stay_dense()
    assert made.within_ms(0.5) is None
    fastest = made.fastest()
    assert fastest.ms is not None
    assert made.within_ms(1.001 * fastest.ms) is not None
    assert [c.plan.kind for c in made.stay_dense().picked] == ["dense"] * 4


def test_budgets_of_bytes_and_macs_are_kept_without_times() -> None:
    made = prepare(captured(), SETTINGS, with_times=False)
    dense, smallest = made.stay_dense(), made.smallest()
    assert (dense.ms, made.table(dense)[0].predicted_ms, made.table(dense)[0].dense_ms) == (None, None, None)
    assert made.within_bytes(dense.weight_bytes) == made.within_macs(dense.macs) == dense
    assert made.within_bytes(smallest.weight_bytes - 1) is None
    for found, limit in ((made.within_bytes(dense.weight_bytes / 2), None), (made.within_macs(dense.macs / 2), dense.macs / 2)):
        assert found is not None
        assert found.error > 0
        assert found.macs <= limit if limit is not None else found.weight_bytes <= dense.weight_bytes / 2


def test_corrections_make_another_problem_and_leave_the_first_alone() -> None:
    made = small_problem()
    fastest = made.fastest()
    coded = next(c for c in fastest.picked if c.plan.name == "conv2")
    dense = made.stay_dense().picked[0]
    known = Corrections({("conv2", "float32"): 1.5}, {"stem": 0.25}, other_ms={"float32": 1.0})
    other = replace(made, corrections=known)
    assert (other.ms(coded), other.ms(dense)) == (1.5 * coded.ms, 0.25)
    assert (made.ms(coded), made.ms(dense)) == (coded.ms, DENSE_MS["stem"])
    assert made.fastest() == fastest
    with pytest.raises(FrozenInstanceError):
        made.corrections = known  # type: ignore[misc]


def test_the_model_of_a_choice_is_the_exported_net() -> None:
    made = small_problem()
    choice = made.within_ms(2.0)
    assert choice is not None
    model = made.model(choice)
    lookups = {plan.name: made.reusable.built[plan] for plan in choice.plans if plan.kind != "dense"}
    net = with_lookups(made.captured, lookups)
    fold_batch_norms(net)
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)  # what is timed takes that shape alone
    got = runtime.session(model.SerializeToString()).run(None, {"input": x})[0]
    with torch.no_grad():
        wanted = net(torch.from_numpy(x)).numpy()
    # Factors are rounded to float16: 2^-11 of each.
    assert np.abs(got - wanted).max() < 10 * 2.0**-11 * np.abs(wanted).max()
    assert len(to_onnx(net, SHAPE, ExportSettings(), {}).graph.node) == len(model.graph.node)


def test_layers_whose_batch_norm_scales_by_zero_are_told_apart() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1),
    )  # fmt: skip
    for i in (2, 5):
        nn.init.zeros_(net[i].weight)  # as residual nets start, and pruned channels end
    made = prepare(Captured.of(api.open_model(net, SHAPE).net, SHAPE), SETTINGS, with_times=False)
    weights = {i.name: list(i.dims) for i in made.model(made.stay_dense()).graph.initializer if len(i.dims) == 4}
    assert sorted(weights.values()) == [[16, 3, 3, 3], [16, 16, 3, 3], [16, 32, 3, 3], [32, 16, 3, 3]]


def test_a_layer_without_a_time_stays_dense() -> None:
    seen = {name: ms for name, ms in DENSE_MS.items() if name != "conv2"}
    given = replace(timers(), net_times=lambda *_, **__: NetTimes(BUSY_MS, seen))
    made = small_problem(given=given)
    reasons = {row.name: row.reason for row in made.table(made.fastest())}
    assert reasons["conv2"] == "its time was not found in the profile"
    assert reasons["conv1"] == ""
    with pytest.raises(SettingsError, match=r"no layer can be compressed: .*its time was not found in the profile"):
        small_problem(given=replace(given, net_times=lambda *_, **__: NetTimes(BUSY_MS, {OTHER: 0.3})))


def calibrated(arithmetic: str = "auto") -> Problem:
    images = torch.rand(12, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    return small_problem(TrainingData(calibration=[images]), replace(SETTINGS, arithmetic=arithmetic))


def test_layers_compute_in_8_bits_where_that_is_worth_it() -> None:
    plain, made = calibrated("float32"), calibrated()
    assert not any(c.is_narrow for listed in plain.options for c in listed)
    assert [listed[0] for listed in made.options] == [listed[0] for listed in plain.options]
    for budget in (0.8, 1.2, 2.0, 3.0):
        choice, before = made.within_ms(budget), plain.within_ms(budget)
        assert choice is not None
        assert choice.ms is not None
        assert choice.ms <= budget
        assert before is None or choice.error <= before.error
        rows = made.table(choice)
        assert sum(row.predicted_ms or 0.0 for row in rows) + made.other_ms(choice.arithmetic) == pytest.approx(choice.ms)
        assert [row.arithmetic for row in rows] == [c.arithmetic if c.is_narrow else None for c in choice.picked]
    # Dense layers in 8 bits take a part of the time and are next to right.
    fast = made.within_ms(2.0)
    assert fast is not None
    assert fast.arithmetic == "int8"
    assert made.within_ms(3.5) == made.stay_dense()


def test_layers_compute_in_bfloat16_where_there_is_no_data() -> None:
    made = small_problem(settings=replace(SETTINGS, arithmetic="auto"))
    assert {c.arithmetic for listed in made.options for c in listed} == {"float32", "bfloat16"}
    choice, plain = made.within_ms(2.0), small_problem().within_ms(2.0)
    assert choice is not None
    assert plain is not None
    assert (choice.arithmetic, plain.arithmetic) == ("bfloat16", "float32")
    # Dense layers in bfloat16 hardly change outputs.
    assert choice.error < 0.01 < plain.error
    only = small_problem(settings=replace(SETTINGS, arithmetic="bfloat16")).within_ms(3.5)
    assert only is not None
    assert {c.arithmetic for c in only.picked} == {"bfloat16"}


def test_a_layer_in_float32_among_bytes_is_charged_for_it() -> None:
    made = calibrated()
    choice = made.within_ms(2.0)
    assert choice is not None
    dense = made.stay_dense()
    assert dense.ms == pytest.approx(sum(DENSE_MS.values()))
    for candidate in dense.picked:
        name = candidate.plan.name
        assert made.ms(candidate, "int8") == pytest.approx(DENSE_MS[name] + made.edge_ms["int8"][name])
    assert all(made.ms(c, choice.arithmetic) == made.ms(c) for c in choice.picked if c.is_narrow)


def test_a_layer_that_8_bits_harm_computes_in_bfloat16_among_bytes() -> None:
    made = calibrated()
    harms = [
        [1.0 if (c.plan.name, c.arithmetic) == ("conv1", "int8") else harm for c, harm in zip(listed, effects, strict=True)]
        for listed, effects in zip(made.options, made.effects, strict=True)
    ]
    choice = replace(made, effects=harms).within_ms(0.6)
    assert choice is not None
    assert choice.arithmetic == "int8"
    among = {c.plan.name: c for c in choice.picked}
    assert (among["conv1"].arithmetic, among["conv2"].arithmetic) == ("bfloat16", "int8")
    charged = made.ms(among["conv1"], "int8") - made.ms(among["conv1"])
    assert charged == pytest.approx(CAST_PART * made.edge_ms["int8"]["conv1"])
    assert charged > 0
    model = made.model(choice)
    types = [node.op_type for node in model.graph.node if node.domain == "ai.lcnn"]
    assert {"ConvIntegerToBfloat16", "Bfloat16Conv", "QuantizeBfloat16"} < set(types)
    assert made.smallest().picked == replace(made, dense_ms=None).smallest().picked


def test_all_layers_that_can_compute_in_8_bits_if_that_is_asked_for() -> None:
    made = calibrated("int8")
    for choice in (made.within_ms(2.0), made.fastest(), made.smallest(), made.within_macs(made.stay_dense().macs)):
        assert choice is not None
        can = [any(c.is_narrow for c in listed) for listed in made.options]
        assert [c.is_narrow for c in choice.picked] == can
    with pytest.raises(SettingsError, match="`arithmetic` int8 needs the ranges of activations, and there is no data"):
        small_problem(settings=replace(SETTINGS, arithmetic="int8"))


def test_low_ranks_in_8_bits_add_to_what_they_do_in_float32() -> None:
    made = calibrated()
    for listed, harm in zip(made.options, made.effects, strict=True):
        effects = {c.plan: effect for c, effect in zip(listed, harm, strict=True)}
        for plan, effect in effects.items():
            twin = replace(plan, arithmetic="float32")
            if plan.arithmetic == "int8" and twin in effects and plan.form.is_coded:
                assert effect > effects[twin]


def test_what_a_net_in_8_bits_teaches_is_told_apart() -> None:
    made = calibrated()
    choice = made.within_ms(2.0)
    assert choice is not None
    assert choice.ms is not None
    times = {c.plan.name: (1.0, 2 * c.ms) for c in choice.picked}
    taught = correct_times(made, choice, Gain(times, 3.5, 1.5 * choice.ms), taken=1.5 * choice.ms)
    before, after = made.corrections.other_ms, taught.corrections.other_ms
    assert {way for way in before if before[way] != after[way]} == {choice.arithmetic}
    for c in choice.picked:
        if c.is_narrow:
            assert taught.ms(c) == pytest.approx(2**0.5 * c.ms)
    again = replace(taught, options=made.options)._chosen(
        [o.index(c) for o, c in zip(made.options, choice.picked, strict=True)], choice.arithmetic
    )
    assert again.ms == pytest.approx(1.5**0.5 * choice.ms)


def test_a_model_in_8_bits_has_the_layers_of_its_choice() -> None:
    made = calibrated()
    choice = made.within_ms(2.0)
    assert choice is not None
    model = made.model(choice)
    names = {node.name for node in model.graph.node if node.domain == "ai.lcnn" and "Conv" in node.op_type}
    assert names == {c.plan.name for c in choice.picked if c.is_narrow}
    runtime.session(model.SerializeToString()).run(None, {"input": np.zeros((1, 3, 16, 16), np.float32)})

"""Targets: the choice within a budget, landing on a measured target, what cannot be reached, and the largest drop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cases import Noise, small_net
from command_line import lcnn, lcnn_json, needs_library
from torch import nn

from lcnn_compress import api, runtime
from lcnn_compress.bench.gain import Gain
from lcnn_compress.bench.layer_cost import ORDINARY, Form, Shape
from lcnn_compress.bench.profile import OTHER, NetTimes
from lcnn_compress.compress import improve, keep_faster
from lcnn_compress.compress.plan import PlanSettings
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import fold_batch_norms, with_lookups
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.operators.common import layer_name
from lcnn_compress.operators.lookup_conv import OP_TYPE
from lcnn_compress.search import max_drop, search
from lcnn_compress.search.max_drop import Drop, drop_of
from lcnn_compress.search.meet_target import CLOSE, corrected, fit, foresee, learn, part_of_target
from lcnn_compress.search.problem import Problem, prepare
from lcnn_compress.search.target import Target
from lcnn_compress.train.loop import Goal, finetune
from lcnn_compress.train.recipe import FinetuneSettings

SHAPE = (1, 3, 16, 16)
SETTINGS = CompressSettings(PlanSettings(), init="kmeans", measure=False)
DENSE_MS = {"stem": 0.1, "conv1": 1.0, "conv2": 2.0, "fc": 0.1, OTHER: 0.3}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def fake_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which rows and lookups cost what is written here."""

    def time_forms(wanted: dict[Shape, set[Form]], **_: Any) -> dict[Shape, dict[Form, float]]:
        def ms(form: Form) -> float:
            return 0.04 if form is ORDINARY else 0.05 + form.rows / 100 + form.nonzeros / 3000

        return {shape: {form: ms(form) for form in forms} for shape, forms in wanted.items()}

    monkeypatch.setattr("lcnn_compress.search.candidates.time_forms", time_forms)
    dense_times = NetTimes(2 * sum(DENSE_MS.values()), dict(DENSE_MS))
    monkeypatch.setattr("lcnn_compress.search.problem.net_times", lambda *_, **__: dense_times)


def problem(data: TrainingData = TrainingData()) -> Problem:
    source = api.open_model(small_net(), SHAPE)
    return prepare(Captured.of(source.net, SHAPE), SETTINGS, data.calibration)


@pytest.mark.usefixtures("fake_times")
def test_the_choice_is_within_its_budget_and_better_with_more() -> None:
    made = problem()
    assert made.dense_ms == pytest.approx(3.5)
    assert made.other_ms == pytest.approx(0.3)
    errors = []
    for budget in (1.5, 2.0, 2.5, 3.0):
        choice = made.within_ms(budget)
        assert choice is not None
        assert choice.ms is not None
        assert choice.ms <= budget
        rows = made.table(choice)
        assert sum(row["predicted_ms"] for row in rows) + made.other_ms == pytest.approx(choice.ms)
        assert sum(row["error"] ** 2 for row in rows) == pytest.approx(choice.error**2)
        errors.append(choice.error)
    assert errors == sorted(errors, reverse=True)
    assert made.within_ms(3.5) == made.stay_dense()
    assert made.within_ms(0.5) is None
    fastest = made.fastest()
    assert fastest.ms is not None
    assert made.within_ms(1.001 * fastest.ms) is not None
    assert [c.plan.kind for c in made.stay_dense().picked] == ["dense"] * 4


@pytest.mark.usefixtures("fake_times")
def test_the_model_of_a_choice_is_the_exported_net() -> None:
    made = problem()
    choice = made.within_ms(2.0)
    assert choice is not None
    model = made.model(choice)
    lookups = {plan.name: made.built[plan] for plan in choice.plans if plan.kind != "dense"}
    net = with_lookups(Captured.of(made.captured.net, SHAPE), lookups)
    fold_batch_norms(net)
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32)
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


@pytest.mark.usefixtures("fake_times")
@pytest.mark.parametrize("scale", [0.8, 1.0, 1.4])
@pytest.mark.parametrize(("kind", "value"), [("speedup", 1.6), ("latency_ms", 4.5)])
def test_a_target_is_met_although_layers_take_longer_in_the_net(
    scale: float, kind: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = problem()

    def gain(dense: Path, lookup: Path, **_: Any) -> Gain:
        # What is built now: alone each layer takes ``ms``; in the net ``scale`` times that; the machine is twice as slow.
        taken = {c.plan.name: c.ms * (1 if c.plan.kind == "dense" else scale) for c in built[-1].picked}
        whole = sum(taken.values()) + DENSE_MS[OTHER]
        return Gain({n: (DENSE_MS[n], ms) for n, ms in taken.items()}, 2 * sum(DENSE_MS.values()), 2 * whole)

    built: list[Any] = []
    model = Problem.model
    monkeypatch.setattr(Problem, "model", lambda self, choice, *_: built.append(choice) or model(self, choice))
    monkeypatch.setattr("lcnn_compress.search.meet_target.measure_gain", gain)
    result = fit(made, Target(kind, value))
    key = "measured_ms" if kind == "latency_ms" else "measured_speedup"
    assert min(abs(r[key] / value - 1) for r in result.rounds) <= 2 * CLOSE
    assert (len(result.rounds) == 1) == (scale == 1.0)


@pytest.mark.usefixtures("fake_times")
@pytest.mark.parametrize("slower", [0.7, 1.0, 1.5])
def test_what_is_learnt_does_not_depend_on_how_fast_the_machine_is_by_then(slower: float) -> None:
    made = problem()
    choice = made.within_ms(2.2)
    assert choice is not None
    names = [c.plan.name for c in choice.picked]
    # In the net all layers take a fifth longer than foreseen; the profile is of a moment when the machine is so much slower.
    layers_ms = {c.plan.name: (slower * DENSE_MS[c.plan.name], slower * 1.2 * c.ms) for c in choice.picked}
    layers_ms[OTHER] = slower * DENSE_MS[OTHER], slower * 1.2 * DENSE_MS[OTHER]
    assert choice.ms is not None
    learn(made, choice, Gain(layers_ms, 3.5, 1.2 * choice.ms), taken=1.2 * choice.ms)
    # Half of each difference is believed.
    found = {name: made.ms(c) / c.ms for name, c in zip(names, choice.picked, strict=True)}
    assert found == pytest.approx(dict.fromkeys(names, 1.2**0.5))


@pytest.mark.usefixtures("fake_times")
def test_a_finished_net_that_is_faster_than_foreseen_gives_the_plan_more_time() -> None:
    made, target = problem(), Target("speedup", 1.6)
    part = part_of_target(made, target, {"totals": {"speedup": 1.8}})
    assert part == pytest.approx(1.8 / 1.6)
    first, second = made.within_ms(3.5 / 1.6), corrected(made, target, part)
    assert first is not None
    assert second == made.within_ms(3.5 / 1.6 * part)
    assert second is not None
    assert second.error < first.error
    assert corrected(made, target, 1 + CLOSE / 2) is None
    assert part_of_target(made, target, {"totals": {}}) == 1.0


@pytest.mark.usefixtures("fake_times")
def test_what_cannot_be_reached_is_refused_with_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    made = problem()
    with pytest.raises(SettingsError, match=r"`speedup` 50 cannot be reached: .* expected to take .*x; ask for less"):
        foresee(made, Target("speedup", 50))
    monkeypatch.setattr("lcnn_compress.search.meet_target.measure_gain", lambda *_, **__: Gain({}, 7.0, 2.0))
    with pytest.raises(SettingsError, match=r"`speedup` 50 cannot be reached: .* measured 2 ms, 3.50x; ask for less"):
        fit(made, Target("speedup", 50))
    with pytest.raises(SettingsError, match=r"`size_mb` 0.001 cannot be reached: .* makes a file of 0\.\d+ MB"):
        fit(made, Target("size_mb", 0.001))


@pytest.mark.usefixtures("fake_times")
def test_a_file_is_at_most_as_large_as_asked(tmp_path: Path) -> None:
    made = problem()
    dense_bytes = len(made.model(made.stay_dense()).SerializeToString())
    wanted = 0.6 * dense_bytes / 1e6
    result = fit(made, Target("size_mb", wanted))
    size = len(made.model(result.choice).SerializeToString())
    assert 0.85 * wanted * 1e6 <= size <= wanted * 1e6  # two layers and steps of a quarter in k leave a gap
    assert result.rounds[-1]["measured_bytes"] == size or len(result.rounds) > 1


@pytest.mark.parametrize(("kind", "value"), [("speedup", 1.0), ("speedup", float("nan")), ("latency_ms", 0), ("max_drop", -1)])
def test_impossible_targets_are_refused(kind: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{value:g}; it must be a number above"):
        Target(kind, value)


def test_a_drop_and_its_interval_by_hand() -> None:
    dense, lookup = torch.tensor([100.0, 100, 0, 100]), torch.tensor([100.0, 0, 0, 100])
    drop = drop_of("top1_percent", dense.double(), lookup.double())
    assert (drop.dense, drop.value, drop.n) == (75.0, 25.0, 4)
    assert drop.high - drop.value == pytest.approx(1.96 * 50 / 2)  # lost 0, 100, 0, 0: standard deviation 50
    assert drop.value - drop.low == pytest.approx(49.0)


@pytest.mark.usefixtures("fake_times")
def test_the_fastest_net_within_a_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "measured_report", lambda artefact, *_: artefact.report)
    net = small_net()
    data = TrainingData([torch.randn(16, 3, 16, 16)], held_out=Noise(40))
    source = api.open_model(net, SHAPE)
    generous = search.compress_to_target(source.net, SHAPE, SETTINGS, Target("max_drop", 100), data)
    made = problem(data)
    assert [p["kind"] for p in generous.config["layers"]] == [p.kind for p in made.fastest().plans]
    assert generous.report.budget["drop"]["value"] <= 100
    tight = search.compress_to_target(source.net, SHAPE, SETTINGS, Target("max_drop", 5), data)
    drops = tight.report.budget["tried"]
    assert tight.report.budget["drop"]["value"] <= 5
    assert drops == sorted(drops, key=lambda trial: trial["predicted_ms"])
    within = [trial["predicted_ms"] for trial in drops if trial["value"] <= 5]
    assert tight.report.budget["predicted_ms"] == min(within)


@pytest.mark.usefixtures("fake_times")
def test_training_is_judged_before_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[object] = []
    asked: list[bool] = []  # whether training could stop, at the end of each epoch

    def drop(_: object, net: torch.nn.Module) -> Drop:
        dense = sum(module.weight.numel() for module in net.modules() if isinstance(module, nn.Conv2d))
        kept = dense + sum(module.n_nonzeros for module in net.modules() if isinstance(module, LookupConv2d))
        lost = (16 if any(net is made for made in trained) else 40) * (1 - kept / weights)
        return Drop("top-1", 90.0, lost, lost - 1, lost + 1, 40)

    def training(net: torch.nn.Module, *arguments: Any, goal: Goal, **options: Any) -> Any:
        trained.append(net)
        assert goal.enough is not None
        asked.append(goal.enough(net))
        return finetune(net, *arguments, goal=goal, **options)

    monkeypatch.setattr(improve, "finetune", training)

    monkeypatch.setattr(max_drop._Judge, "drop", drop)
    monkeypatch.setattr(search, "measured_report", lambda artefact, *_: artefact.report)
    source = api.open_model(small_net(), SHAPE)
    weights = sum(layer.weight().numel() for layer in layers(source.net, torch.zeros(SHAPE)))
    data = TrainingData([torch.randn(16, 3, 16, 16)], Noise(40), held_out=Noise(40))
    settings = replace(SETTINGS, finetune=FinetuneSettings(epochs=1, batch_size=8))
    made = search.compress_to_target(source.net, SHAPE, settings, Target("max_drop", 8), data)
    budget = made.report.budget
    # The fastest that lost at most four times as much before was trained, then slower ones until one was within the limit.
    worth = [trial["predicted_ms"] for trial in budget["tried"] if not trial["trained"] and trial["value"] <= 32]
    trials = [trial for trial in budget["tried"] if trial["trained"]]
    times = [trial["predicted_ms"] for trial in trials]
    assert times == sorted(times)
    assert times[0] == min(worth)
    assert [trial["value"] <= 8 for trial in trials] == [False] * (len(trials) - 1) + [True]
    assert len(trials) > 1
    assert asked == [trial["high"] <= 8 for trial in trials]
    assert (budget["drop"]["value"], budget["predicted_ms"]) == (trials[-1]["value"], trials[-1]["predicted_ms"])
    assert made.config["finetune"] is not None


@pytest.mark.usefixtures("fake_times")
def test_a_drop_without_held_out_examples_is_refused() -> None:
    source = api.open_model(small_net(), SHAPE)
    with pytest.raises(SettingsError, match="`max_drop` is judged on labelled examples"):
        api.compress_to_target(source, SETTINGS, Target("max_drop", 1))


# The command line


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.save(small_net().state_dict(), tmp_path / "model.pt")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((40, 3, 16, 16), np.float32), y=np.arange(40) % 10)
    return tmp_path


MODEL = ("compress", "model.pt", "--arch", "cases:small_net", "--input-shape", "1,3,16,16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dict", 8, "--target-speedup", 2), "--dict and --target-speedup both say how far to compress; give one of them"),
        (("--target-speedup", 2, "--max-drop", 1), "--target-speedup and --max-drop both say"),
        (("--target-speedup", 2, "--lookups", 2), "--lookups does nothing with --target-speedup, which decides it"),
        (("--max-drop", 2, "--share", 2), "--filters-per-pattern does nothing with --max-drop, which decides it"),
        (("--target-speedup", 1), "--target-speedup is 1; it must be a number above 1"),
        (("--target-speedup", 2, "--no-measure"), "--no-measure leaves out what a target of time or drop needs"),
        (("--target-speedup", 2, "--init", "svd"), "--init svd does not go with a target; use kmeans or ksvd"),
        (("--dry-run",), "--dry-run does nothing without a target such as --target-speedup 4"),
        (("--max-drop", 1), "--max-drop is judged on labelled examples; add --data"),
        (("--data", "data.npz"), "--data does nothing without --epochs N or a target such as --max-drop"),
    ],
)
@pytest.mark.usefixtures("model")
def test_options_that_contradict_are_refused(options: tuple[object, ...], message: str) -> None:
    assert message in lcnn(*MODEL, *options, code=2).stderr


@needs_library
def test_a_dry_run_shows_the_plan_and_writes_nothing(model: Path) -> None:
    before = sorted(p.name for p in model.iterdir())
    answer = lcnn_json(*MODEL, "--target-speedup", 1.05, "--dry-run")
    assert [row["name"] for row in answer["layers"]] == ["stem", "conv1", "conv2", "fc"]
    assert answer["budget"]["target"] == {"speedup": 1.05}
    assert answer["budget"]["predicted_ms"] <= answer["budget"]["dense_ms"] / 1.05
    assert answer["budget"]["effects"] == "filters"
    assert sorted(p.name for p in model.iterdir()) == sorted({*before, "cache"})
    table = lcnn(*MODEL, "--target-speedup", 1.05, "--dry-run").stdout
    assert "nothing was built or written" in table
    assert "error" in table.splitlines()[1]


@needs_library
def test_a_size_is_met_and_the_run_can_be_repeated(model: Path) -> None:
    lcnn(*MODEL, "--target-size-mb", 0.05, "--calib", "data.npz", "-o", "one.lcnn", code=None)
    report = api.load(model / "one.lcnn").report
    assert report.budget["target"] == {"size_mb": 0.05}
    assert report.budget["effects"] == "outputs"
    assert report.budget["measured_error"] > 0
    lcnn("export", "--onnx", "one.lcnn")
    assert (model / "one.lcnn" / "model.onnx").stat().st_size <= 1.02 * 0.05e6  # rows of the metadata come on top
    lcnn(*MODEL[:4], "-c", "one.lcnn/config.json", "-o", "two.lcnn", code=None)
    for name in ("config.json", "model.safetensors"):
        assert (model / "one.lcnn" / name).read_bytes() == (model / "two.lcnn" / name).read_bytes()


@needs_library
@pytest.mark.usefixtures("fake_times")
@pytest.mark.parametrize(("kind", "value"), [("speedup", 2.0), ("max_drop", 50)])
def test_the_net_that_is_measured_is_not_exported_anew(kind: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[list[str]] = []

    def gain(dense: Path, lookup: Path, **_: Any) -> Gain:
        measured.append(sorted(layer_name(n) for n in onnx.load(lookup).graph.node if n.op_type == OP_TYPE))
        return Gain({}, 2.0, 1.0)

    def refused(*_: Any) -> None:
        raise AssertionError("exported")

    source = api.open_model(small_net(), SHAPE)
    data = TrainingData([torch.randn(16, 3, 16, 16)], held_out=Noise(40))
    monkeypatch.setattr(keep_faster, "to_onnx", refused)
    monkeypatch.setattr(keep_faster, "measure_gain", gain)
    made = search.compress_to_target(source.net, SHAPE, replace(SETTINGS, measure=True), Target(kind, value), data)
    assert made.report.totals.speedup == 2.0
    lookups = [name for name, module in made.net.named_modules() if isinstance(module, LookupConv2d)]
    assert lookups
    assert measured[-1] == sorted(lookups)


@needs_library
def test_a_report_tells_the_calibration_images(model: Path) -> None:
    shown = lcnn(*MODEL, "--dict", 0.5, "--calib", "data.npz", "--samples", 8, "-o", "few.lcnn", code=None)
    assert api.load(model / "few.lcnn").report.calibration_images == 8
    assert "8 calibration images are few" in " ".join(shown.stderr.split())

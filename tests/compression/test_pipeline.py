"""A dense net in, an artefact out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import Noise, small_net
from command_line import needs_library

from lcnn_compress import api
from lcnn_compress.benchmark.gain import Gain
from lcnn_compress.benchmark.timers import Timers
from lcnn_compress.compression.pipeline import Reusable, compress_net
from lcnn_compress.compression.plan import LayerPlan, PlanSettings
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d
from lcnn_compress.forms.int8 import Int8Conv2d
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.layers import Captured
from lcnn_compress.train.checkpoint import read_checkpoint
from lcnn_compress.train.recipe import FinetuneSettings


@pytest.mark.parametrize(("epochs", "factor"), [(249, 1), (250, 2)])  # of 4 steps; from 1000 on a net recovers from pruning
def test_training_starts_with_more_lookups_only_where_it_prunes(epochs: int, factor: int, tmp_path: Path) -> None:
    def stop(stage: str, *_: int) -> None:
        if stage == "fine-tuning":
            raise KeyboardInterrupt  # before the first step, which writes a checkpoint

    shape, tuning = (1, 3, 16, 16), FinetuneSettings(epochs=epochs, batch_size=8)
    settings = CompressSettings(PlanSettings("8", 2), measure=False, finetune=tuning)
    data = TrainingData(examples=Noise(32), checkpoint=tmp_path / "training.pt")
    with pytest.raises(KeyboardInterrupt):
        compress_net(api.open_model(small_net(), shape).captured, settings, data, progress=stop)
    assert data.checkpoint is not None
    state = read_checkpoint(data.checkpoint)
    targets = {"conv1": 2 * 32 * 9, "conv2": 2 * 32 * 9}
    assert state["starts"] == {name: factor * count for name, count in targets.items()}
    assert state["identity"]["non-zeros at the end"] == targets


def test_what_an_earlier_call_built_is_not_built_again() -> None:
    shape = (1, 3, 16, 16)
    dense = api.open_model(small_net(), shape).net
    settings = CompressSettings(PlanSettings("6"), measure=False)
    built: dict[LayerPlan, LookupConv2d] = {}
    first = compress_net(Captured.of(dense, shape), settings, reusable=Reusable(built))
    assert {plan.name for plan in built} == {row.name for row in first.report.layers if row.form.is_coded} != set()
    made = list(built.items())
    second = compress_net(Captured.of(dense, shape), settings, reusable=Reusable(built))
    assert all(built[plan] is lookup for plan, lookup in made)
    assert len(built) == len(made)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(second.net(x), first.net(x), rtol=0, atol=0)
    with torch.no_grad():
        for _, lookup in made:
            lookup.sparse_kernel.zero_()
    third = compress_net(Captured.of(dense, shape), settings, reusable=Reusable(built))
    assert {third.net.get_submodule(plan.name).n_nonzeros for plan, _ in made} == {0}  # they are what is given, not made anew


INT8 = CompressSettings(PlanSettings("0.5", 1.0, keep_slow=True), measure=False, arithmetic="int8")
BFLOAT16 = replace(INT8, arithmetic="bfloat16")
CALIBRATED = TrainingData(calibration=[torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))])


def test_layers_compute_in_the_arithmetic_that_is_asked_for(tmp_path: Path) -> None:
    source = api.open_model(small_net(), (1, 3, 16, 16))
    made = api.compress_source(source, INT8, CALIBRATED)
    layers = {row.name: made.net.get_submodule(row.name) for row in made.report.layers}
    assert {type(layer) for layer in layers.values()} == {Int8Conv2d}
    assert [plan["arithmetic"] for plan in made.config["layers"]] == ["int8"] * len(layers)
    plain = api.compress_source(source, replace(INT8, arithmetic="float32"), CALIBRATED)
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        want = plain.net(x)
        assert float((made.net(x) - want).square().mean() / want.var()) < 0.01
    # Saved, read, exported and repeated it is the same net.
    api.save(made, tmp_path / "net.lcnn")
    read = api.load(tmp_path / "net.lcnn")
    with torch.no_grad():
        assert torch.equal(read.net(x), made.net(x))
    api.export_onnx(read, tmp_path / "net.onnx")
    plans = [LayerPlan.from_json(plan) for plan in made.config["layers"]]
    again = api.compress_source(source, INT8, CALIBRATED, plans=plans)
    with torch.no_grad():
        assert torch.equal(again.net(x), made.net(x))
    # The decisions alone ask for data, whatever the settings say.
    with pytest.raises(SettingsError, match="there is no data; add `calib`"):
        api.compress_source(source, CompressSettings(measure=False), plans=plans)


def test_training_must_take_labels_for_what_the_data_says_they_are() -> None:
    shape, settings = (1, 3, 16, 16), CompressSettings(PlanSettings("8"), measure=False, finetune=FinetuneSettings(epochs=1))
    data = TrainingData(examples=Noise(32), task=Task.LABELS)
    with pytest.raises(SettingsError, match="`task` of the data is multilabel; let that of the recipe of training be the same"):
        compress_net(api.open_model(small_net(), shape).captured, settings, data)


def test_layers_in_bfloat16_need_no_data(tmp_path: Path) -> None:
    source = api.open_model(small_net(), (1, 3, 16, 16))
    made = api.compress_source(source, BFLOAT16)
    layers = {row.name: made.net.get_submodule(row.name) for row in made.report.layers}
    assert {type(layer) for layer in layers.values()} == {Bfloat16Conv2d}
    assert [plan["arithmetic"] for plan in made.config["layers"]] == ["bfloat16"] * len(layers)
    plain = api.compress_source(source, replace(BFLOAT16, arithmetic="float32"))
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        want = plain.net(x)
        assert 0 < float((made.net(x) - want).square().mean() / want.var()) < 1e-4
    # Saved, read, exported and repeated it is the same net.
    api.save(made, tmp_path / "net.lcnn")
    read = api.load(tmp_path / "net.lcnn")
    with torch.no_grad():
        assert torch.equal(read.net(x), made.net(x))
    api.export_onnx(read, tmp_path / "net.onnx")
    told = api.describe_onnx(tmp_path / "net.onnx")
    assert {row["arithmetic"] for row in told.layers} == {"bfloat16"}
    assert [row.get("dictionary_size") for row in told.layers] == [layer.dictionary_size or None for layer in layers.values()]
    again = api.compress_source(source, BFLOAT16, plans=[LayerPlan.from_json(plan) for plan in made.config["layers"]])
    with torch.no_grad():
        assert torch.equal(again.net(x), made.net(x))


def test_every_kind_of_layer_computes_in_bfloat16(tmp_path: Path) -> None:
    source = api.open_model(small_net(), (1, 3, 16, 16))
    (one, two, *rest) = api.compress_source(source, replace(BFLOAT16, plan=PlanSettings(skip=("*",)))).config["layers"]
    rest = [LayerPlan.from_json(plan) for plan in (one, *rest)]
    channels = next(layer for layer in source.captured.layers if layer.name == two["name"]).in_channels
    x = torch.rand(2, 3, 16, 16)
    for kind, size, lookups in (
        ("sparse", channels, 0.5),
        ("lowrank", channels // 2, channels // 2),
        ("lookup", channels, 0.75),
    ):
        plans = [rest[0], LayerPlan(two["name"], kind, "", size, lookups, arithmetic="bfloat16"), *rest[1:]]
        made = api.compress_source(source, BFLOAT16, plans=plans)
        layer = made.net.get_submodule(two["name"])
        assert isinstance(layer, Bfloat16Conv2d)
        assert layer.dictionary_size == (0 if kind == "sparse" else size)
        api.save(made, tmp_path / f"{kind}.lcnn")
        api.export_onnx(api.load(tmp_path / f"{kind}.lcnn"), tmp_path / f"{kind}.onnx")
        plain = api.compress_source(source, BFLOAT16, plans=[replace(plan, arithmetic="float32") for plan in plans])
        with torch.no_grad():
            want = plain.net(x)
            assert 0 < float((made.net(x) - want).square().mean() / want.var()) < 1e-4


@needs_library
def test_each_layer_has_the_arithmetic_of_its_plan(tmp_path: Path) -> None:
    source = api.open_model(small_net(), (1, 3, 16, 16))
    planned = [LayerPlan.from_json(plan) for plan in api.compress_source(source, BFLOAT16).config["layers"]]
    chosen = dict(zip([plan.name for plan in planned], ("bfloat16", "int8", "float32"), strict=False))
    plans = [replace(plan, arithmetic=chosen.get(plan.name, "bfloat16")) for plan in planned]
    made = api.compress_source(source, CompressSettings(measure=False), CALIBRATED, plans=plans)
    kinds = {"bfloat16": Bfloat16Conv2d, "int8": Int8Conv2d}
    for plan in plans:
        layer = made.net.get_submodule(plan.name)
        assert isinstance(layer, kinds.get(plan.arithmetic, (torch.nn.Module,)))
        assert isinstance(layer, tuple(kinds.values())) == (plan.arithmetic != "float32")
    assert {"bfloat16", "int8", None} == {row.arithmetic for row in made.report.layers}
    # What is checked before a file is written holds here too; the ranges of the layers in 8 bits ask for data.
    api.save(made, tmp_path / "net.lcnn")
    api.export_onnx(api.load(tmp_path / "net.lcnn"), tmp_path / "net.onnx")
    with pytest.raises(SettingsError, match="there is no data; add `calib`"):
        api.compress_source(source, CompressSettings(measure=False), plans=plans)


def test_8_bits_need_data() -> None:
    source = api.open_model(small_net(), (1, 3, 16, 16))
    for make in (
        lambda: api.compress_source(source, INT8),
        lambda: api.compress_to_target(source, INT8, api.Target("size_mb", 2.0)),
    ):
        with pytest.raises(SettingsError, match="`arithmetic` int8 needs the ranges of activations, and there is no data; add"):
            make()


@needs_library
@pytest.mark.parametrize("arithmetic", ["int8", "bfloat16"])
def test_layers_that_are_not_faster_stay_dense_in_their_arithmetic(arithmetic: str) -> None:
    source = api.open_model(small_net(), (1, 3, 16, 16))
    gain = Gain({"conv1": (1.0, 2.0), "conv2": (1.0, 0.1)}, 2.0, 1.0)
    timers = Timers(measure_gain=lambda *_, **__: gain, time_ratio=lambda *_, **__: 1.1)
    settings = replace(INT8, measure=True, plan=PlanSettings("0.5", 1.0), arithmetic=arithmetic)
    made = compress_net(source.captured, settings, CALIBRATED, timers=timers)
    kinds = {plan["name"]: (plan["kind"], plan.get("arithmetic")) for plan in made.config["layers"]}
    assert kinds["conv1"] == ("dense", arithmetic)
    assert kinds["conv2"] == ("lookup", arithmetic)


def test_a_layer_that_cannot_compute_in_8_bits_is_not_asked_to() -> None:
    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mix = torch.nn.Conv2d(3, 16, 4, 4), torch.nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(self.conv(x).flatten(2).transpose(1, 2))

    source = api.open_model(Tokens(), (1, 3, 16, 16))
    made = api.compress_source(source, INT8, CALIBRATED)
    mix = made.report.layers[1]
    assert (mix.arithmetic, mix.note) == (None, "in float32: a linear layer on tokens")
    edited = [replace(LayerPlan.from_json(plan), arithmetic="int8") for plan in made.config["layers"]]
    with pytest.raises(SettingsError, match=r"mix: arithmetic is 'int8' in the configuration; it must be float32 \(a linear"):
        api.compress_source(source, INT8, CALIBRATED, plans=edited)


@needs_library
def test_a_net_without_lookups_is_timed_in_8_bits_too() -> None:
    source = api.open_model(small_net(), (1, 3, 16, 16))
    timers = Timers(measure_gain=lambda *_, **__: Gain({"conv1": (1.0, 0.4)}, 3.0, 1.0))
    settings = replace(INT8, measure=True, plan=PlanSettings(skip=("*",)))
    made = compress_net(source.captured, settings, CALIBRATED, timers=timers)
    assert made.report.totals.speedup == 3.0
    assert {row.name: row.lookup_ms for row in made.report.layers}["conv1"] == 0.4

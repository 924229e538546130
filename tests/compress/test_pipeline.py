"""What the pipeline hands to fine-tuning: the final lookups in a short training, twice as many in one long enough to prune."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from cases import Noise, small_net
from command_line import needs_library

from lcnn_compress import api
from lcnn_compress.bench.gain import Gain
from lcnn_compress.compress.batch_norms import reestimate_batch_norms
from lcnn_compress.compress.improve import _reestimate_where_no_worse, _refit_layers
from lcnn_compress.compress.make import make_lookup
from lcnn_compress.compress.output_error import Outputs, first_images
from lcnn_compress.compress.pipeline import Reusable, compress_net
from lcnn_compress.compress.plan import LayerPlan, PlanSettings
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.edit import with_lookups
from lcnn_compress.net.layers import Captured, layers
from lcnn_compress.operators.lookup_conv import OP_TYPE
from lcnn_compress.progress import silent
from lcnn_compress.train.loop import finetune
from lcnn_compress.train.recipe import FinetuneSettings


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e3])
def test_stored_factors_are_exact_in_float16_and_near_the_weight(size: float) -> None:
    net = small_net()
    with torch.no_grad():
        net.conv2.weight *= size
    # As many lookups as the slices have channels: only rounding is left.
    settings = CompressSettings(PlanSettings("conv2=32", 32, keep_slow=True), init="svd", measure=False)
    artefact = api.compress(api.open_model(net, (1, 3, 16, 16)), settings=settings)
    lookup = artefact.net.get_submodule("conv2")
    for factor in (lookup.dictionary, lookup.sparse_kernel):
        assert torch.equal(factor, factor.half().float())
    dense = api.compress(api.open_model(net, (1, 3, 16, 16)), settings=replace(settings, storage="float32"))
    exact = dense.net.get_submodule("conv2").weight()
    # Both factors round by 2^-11 of each value, or by 2^-25 of the largest where they are subnormal.
    assert (lookup.weight() - exact).norm() <= 2 * 2.0**-11 * 32**0.5 * exact.norm()


def test_calibration_helps_where_batch_norms_do_not_fit_the_images() -> None:
    """Those of small_net are random: normalised by the images themselves, its outputs would be others."""
    source = api.open_model(small_net(), (1, 3, 16, 16))
    images = torch.randn(96, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 + 1
    settings = CompressSettings(PlanSettings("0.5", 0.5, keep_slow=True), init="svd", measure=False)
    judge = Outputs(source.net, [torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 + 1])
    before = judge.error(api.compress(source, settings=settings).net)
    after = judge.error(api.compress(source, settings=settings, data=TrainingData(list(images.split(32)))).net)
    assert after < 0.5 * before


@pytest.mark.parametrize("fits", [True, False])
def test_batch_norms_are_reestimated_where_that_brings_outputs_nearer(fits: bool) -> None:
    dense = api.open_model(small_net(), (1, 3, 16, 16)).net
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 + 1
    if fits:
        reestimate_batch_norms(dense, [images])
    net = copy.deepcopy(dense)
    with torch.no_grad():
        net.get_submodule("conv1").weight *= 1.5
    before, judge = copy.deepcopy(net.state_dict()), Outputs(dense, [images])
    wrong = judge.error(net)
    _reestimate_where_no_worse(net, dense, list(images.split(32)))
    same = all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert same != fits
    assert judge.error(net) < 0.05 * wrong if fits else judge.error(net) == wrong


def test_calibration_images_may_differ_in_size() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU()
    )
    source = api.open_model(net.eval(), (1, 3, 12, 12))
    images = [torch.randn(70, 3, 12, 12), torch.randn(90, 3, 16, 14)]
    assert [tuple(x.shape) for x in first_images(images, 128)] == [
        (32, 3, 12, 12), (32, 3, 12, 12), (6, 3, 12, 12), (32, 3, 16, 14), (26, 3, 16, 14)
    ]  # fmt: skip
    settings = CompressSettings(PlanSettings("4", 2, only=("3",), keep_slow=True), init="svd", measure=False)
    judge = Outputs(source.net, images)
    before = judge.error(api.compress(source, settings=settings).net)
    assert judge.error(api.compress(source, settings=settings, data=TrainingData(images)).net) < before


@pytest.mark.parametrize(("images", "enough"), [(60, True), (20, False)])  # of 64 pixels, for 8 times 288 weights
def test_dense_layers_make_up_for_lookup_layers_before_them(images: int, enough: bool) -> None:
    shape = (1, 3, 16, 16)
    dense = api.open_model(small_net(), shape).net
    x = torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = {layer.name: layer for layer in layers(dense, x[:1])}
    lookup = make_lookup(found["conv1"], LayerPlan("conv1", "lookup", "", 6, 2), "kmeans", 0)
    net = with_lookups(Captured.of(dense, shape), {"conv1": lookup})
    _refit_layers(net, Captured.of(dense, shape), [x], silent)
    unlike = [n for n in found if n != "conv1" and not torch.equal(net.get_submodule(n).weight, dense.get_submodule(n).weight)]
    assert unlike == (["conv2"] if enough else [])  # the stem comes before, and the classifier has one pixel of each image

    def error(weights: torch.nn.Module) -> float:
        """Return the variance of what conv2 with these weights gives in the compressed net, less what the dense one gave."""
        outputs = []
        for whole, part in ((dense, copy.deepcopy(dense.get_submodule("conv2"))), (net, copy.deepcopy(weights))):
            handle = whole.get_submodule("conv2").register_forward_pre_hook(
                lambda _, args, part=part: outputs.append(part(args[0]))
            )
            with torch.no_grad():
                whole(x)
            handle.remove()
        return float((outputs[0] - outputs[1]).var((0, 2, 3)).mean())

    if enough:
        assert error(net.get_submodule("conv2")) < 0.9 * error(dense.get_submodule("conv2"))


@needs_library
def test_rounding_that_many_layers_add_up_is_no_failed_export() -> None:
    torch.manual_seed(0)
    blocks = [(torch.nn.Conv2d(16, 16, 3), torch.nn.InstanceNorm2d(16), torch.nn.ReLU()) for _ in range(8)]
    source = api.open_model(torch.nn.Sequential(*(module for block in blocks for module in block)), (1, 16, 24, 24))
    settings = CompressSettings(PlanSettings("4", 2, keep_slow=True))
    artefact = api.compress(source, settings=settings)
    assert {row.kind for row in artefact.report.layers} == {"lookup"}


def test_layers_in_another_memory_layout_are_solved_too() -> None:
    """A 1x1 layer whose channels come last in memory has views of one tensor that differ only in strides of no meaning."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 12, 1)).eval()
    source, x = api.open_model(net, (1, 8, 9, 9)), torch.randn(40, 8, 9, 9)
    settings = CompressSettings(PlanSettings("4", 2, only=("0",)), measure=False)
    expected = api.compress_source(source, settings, TrainingData([x])).net(x)
    source.net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(api.compress_source(source, settings, TrainingData([x])).net(x), expected, rtol=1e-3, atol=1e-3)


@needs_library
@pytest.mark.parametrize(
    ("net_ms", "kept"),
    [
        ({("conv1", "conv2"): 1.1, (): 1.0}, ()),  # without both it is faster
        ({("conv1", "conv2"): 0.9, (): 1.0, ("conv2",): 0.8}, ("conv2",)),  # without the slowest alone
        ({("conv1", "conv2"): 0.8, (): 1.0, ("conv2",): 0.9, ("conv1",): 0.85}, ("conv1", "conv2")),  # with both
    ],
)
def test_layers_not_faster_alone_stay_where_the_net_is_faster_with_them(
    net_ms: dict[tuple[str, ...], float], kept: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup_layers(path: Path) -> tuple[str, ...]:
        return tuple(sorted(node.name for node in onnx.load(path).graph.node if node.op_type == OP_TYPE))

    def measured(dense: Path, lookup: Path, **_: Any) -> Gain:
        return Gain({"conv1": (0.1, 0.2), "conv2": (0.1, 0.11)}, 1.0, net_ms[lookup_layers(lookup)])

    def ratio(first: Path, second: Path, **_: Any) -> float:
        return net_ms[lookup_layers(first)] / net_ms[lookup_layers(second)]

    monkeypatch.setattr("lcnn_compress.compress.keep_faster.measure_gain", measured)
    monkeypatch.setattr("lcnn_compress.compress.keep_faster.time_ratio", ratio)
    artefact = api.compress(api.open_model(small_net(), (1, 3, 16, 16)), 8, lookups=2)
    rows = {row.name: row for row in artefact.report.layers if row.name in ("conv1", "conv2")}
    assert tuple(name for name, row in rows.items() if row.kind == "lookup") == kept
    assert artefact.report.totals.lookup_ms == (net_ms[kept] if kept else None)
    for name, row in rows.items():
        text = f"measured: lookup {0.2 if name == 'conv1' else 0.11:.3f} ms, dense 0.100 ms"
        assert (row.note if name in kept else row.reason) == text + (", but the net is faster with it" if name in kept else "")


@pytest.mark.parametrize(("pruning_steps", "factor"), [(10_000, 1), (1, 2)])
def test_training_starts_with_more_lookups_only_where_it_prunes(
    pruning_steps: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, int] = {}
    train = finetune

    def spy(net: Any, *args: Any, **kwargs: Any) -> Any:
        starts.update({name: m.n_nonzeros for name, m in net.named_modules() if isinstance(m, LookupConv2d)})
        return train(net, *args, **kwargs)

    monkeypatch.setattr("lcnn_compress.compress.improve.finetune", spy)
    monkeypatch.setattr("lcnn_compress.compress.improve.PRUNING_STEPS", pruning_steps)
    settings = CompressSettings(PlanSettings("8", 2), measure=False, finetune=FinetuneSettings(epochs=2, batch_size=8))
    artefact = api.compress(api.open_model(small_net(), (1, 3, 16, 16)), settings=settings, data=TrainingData(examples=Noise()))
    targets = {"conv1": 2 * 32 * 9, "conv2": 2 * 32 * 9}
    assert starts == {name: factor * count for name, count in targets.items()}
    assert artefact.report.training.nonzeros == targets


def test_what_an_earlier_call_built_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1, 3, 16, 16)
    dense = api.open_model(small_net(), shape).net
    settings = CompressSettings(PlanSettings("6"), measure=False)
    built: dict[LayerPlan, LookupConv2d] = {}
    first = compress_net(Captured.of(dense, shape), settings, reusable=Reusable(built))
    assert {plan.name for plan in built} == {row.name for row in first.report.layers if row.form.is_coded} != set()
    monkeypatch.setattr("lcnn_compress.compress.make.make_lookup", None)  # calling it would raise
    second = compress_net(Captured.of(dense, shape), settings, reusable=Reusable(built))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(second.net(x), first.net(x), rtol=0, atol=0)

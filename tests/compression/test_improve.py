"""What data do for a compressed net: coefficients, batch norms, training."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import small_net
from flattened import PLANE, Flattened, planes
from torch import Tensor

from lcnn_compress import api
from lcnn_compress.compression.batch_norms import reestimate_batch_norms
from lcnn_compress.compression.improve import _refit_layers, improve, reestimate_where_no_worse, twice_the_lookups
from lcnn_compress.compression.make import make_lookup, make_lookups
from lcnn_compress.compression.plan import LayerPlan, PlanSettings, plan_layers
from lcnn_compress.compression.settings import CompressSettings, TrainingData
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.export.verify import verify
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import round_factors
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import with_lookups
from lcnn_compress.net.layers import Captured, calls, layers
from lcnn_compress.net.output_error import Outputs
from lcnn_compress.progress import silent
from lcnn_compress.train.recipe import FinetuneSettings

pytestmark = pytest.mark.usefixtures("one_thread")


class LabelledPlanes:
    """Random images with random classes."""

    def __len__(self) -> int:
        return 16

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return planes(len(indices)), indices % 10


@pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
def test_fine_tuning_trains_a_linear_layer_on_planes(sparsity: str) -> None:
    plan = PlanSettings("fc1=4", 2, only=("fc1",))
    settings = CompressSettings(plan, measure=False, finetune=FinetuneSettings(epochs=1, batch_size=8, sparsity=sparsity))
    made = api.compress(
        api.open_model(Flattened(dropout=0.5), PLANE), settings=settings, data=TrainingData(examples=LabelledPlanes())
    )
    lookup = made.net.get_submodule("fc1")
    assert isinstance(lookup, LookupConv2d)
    assert lookup.sparse_kernel.shape == (12, 4, 4, 5)
    assert verify(made.net, to_onnx(made.net, PLANE, ExportSettings(), {}).SerializeToString(), PLANE, 1e-5) < 1e-5


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
    reestimate_where_no_worse(net, dense, list(images.split(32)))
    same = all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert same != fits
    assert judge.error(net) < 0.05 * wrong if fits else judge.error(net) == wrong


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


def test_layers_in_another_memory_layout_are_solved_too() -> None:
    """A 1x1 layer whose channels come last in memory has views of one tensor that differ only in strides of no meaning."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 12, 1)).eval()
    source, x = api.open_model(net, (1, 8, 9, 9)), torch.randn(40, 8, 9, 9)
    settings = CompressSettings(PlanSettings("4", 2, only=("0",)), measure=False)
    expected = api.compress_source(source, settings, TrainingData([x])).net(x)
    source.net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(api.compress_source(source, settings, TrainingData([x])).net(x), expected, rtol=1e-3, atol=1e-3)


class Labelled:
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(64, 3, 16, 16, generator=generator)
        self.y = torch.randint(0, 4, (64,), generator=generator)

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        return self.x[indices], self.y[indices]


@pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
def test_a_net_keeps_common_patterns_through_calibration_and_training(sparsity: str) -> None:
    shape = (1, 3, 16, 16)
    tuning = FinetuneSettings(epochs=2, batch_size=8, sparsity=sparsity, threshold_c=0.05)
    settings = CompressSettings(PlanSettings("0.5", 2, keep_slow=True, filters_per_pattern=4), measure=False, finetune=tuning)
    dense = capture(small_net(), torch.zeros(shape))
    found = layers(dense, torch.zeros(shape))
    plans = plan_layers(found, settings.plan)
    final = make_lookups(found, plans, settings, {})
    targets = {name: lookup.n_nonzeros for name, lookup in final.items()}
    start = make_lookups(found, twice_the_lookups(plans), settings, {}) if sparsity == "gradual" else final
    net = with_lookups(Captured.of(dense, shape), start)
    report = improve(
        net, Captured.of(dense, shape), targets, settings, TrainingData([torch.randn(8, 3, 16, 16)], Labelled()), silent
    )
    assert report is not None
    assert report.nonzeros == targets or sparsity == "threshold"
    round_factors(net, settings.storage)
    lookups = [lookup for _, lookup in calls(net, LookupConv2d)]
    assert lookups
    for lookup in lookups:
        listed = 4 * int(lookup.support.unflatten(0, (-1, 4)).any(1).sum())
        # Not all: ties at the number asked for, and coefficients that rounding to float16 made zero.
        assert lookup.n_nonzeros > 0.98 * listed
        assert lookup.filters_per_pattern == 4

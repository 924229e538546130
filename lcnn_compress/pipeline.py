"""A dense net in, an artefact out: plan, dictionaries, measurement, calibration, fine-tuning, folding, report."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from torch import Tensor, fx, nn

from lcnn_compress import benchmark, runtime
from lcnn_compress.artefact import Artefact
from lcnn_compress.calibrate import SAMPLES, batch_norms, reestimate_batch_norms, refit
from lcnn_compress.data import Examples, batches
from lcnn_compress.dictionary import IDENTITY, INITS, factorise
from lcnn_compress.effects import Outputs, first_images
from lcnn_compress.errors import SettingsError
from lcnn_compress.export import only_timed, to_onnx, with_factors
from lcnn_compress.files import write_atomically
from lcnn_compress.finetune import FinetuneSettings, finetune
from lcnn_compress.graph import Layer, fold_batch_norms, layers
from lcnn_compress.graph import replace as replace_layer
from lcnn_compress.modules import LookupConv2d
from lcnn_compress.ordinary import dense_form
from lcnn_compress.parallel import in_parallel
from lcnn_compress.plan import LayerPlan, PlanSettings, check_plan, lookups_per_position, plan_layers
from lcnn_compress.progress import Progress, silent
from lcnn_compress.stored import check_type, round_factors
from lcnn_compress.summary import add_times, layer_rows, make_report

log = logging.getLogger(__name__)

CALIBRATION_IMAGES = 512  # of the training data, where no calibration data is given
CALIBRATION_BATCH = 64
JUDGED_IMAGES = 128  # of the calibration data, on which outputs are held against the dense net's
# Re-estimated batch norms may take outputs so much further from the dense net's and stay: on the images that coefficients were
# solved for, those look better than they are.
MOST_WORSE = 1.1
LEAST_GAIN = 0.95  # of the dense time: the medians of one layer differ by a few per cent between two measurements
FIXED_INITS = {"sparse": IDENTITY, "lowrank": "svd"}  # what kind of layer leaves no choice of start
MOST_DENSE_FEATURES = 1200  # of a dense layer that is solved anew: its cost grows with their square
SAMPLES_PER_FEATURE = 8
PRUNING_STEPS = 1000  # a net that prunes while it trains needs time to recover; shorter trainings start from the final lookups


@dataclass(frozen=True)
class CompressSettings:
    """Everything that decides the result, apart from the model and the data."""

    plan: PlanSettings = field(default_factory=PlanSettings)
    init: str = "kmeans"
    seed: int = 0
    coefficients: str = "float16"
    measure: bool = True  # layers not measured faster go back to dense
    threads: int = 1  # of the measurement
    finetune: FinetuneSettings | None = None

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise SettingsError(f"--init is '{self.init}'; it must be one of {', '.join(INITS)}")
        check_type(self.coefficients)
        if self.threads < 1:
            raise SettingsError(f"--threads is {self.threads}; it must be at least 1")


@dataclass(frozen=True)
class TrainingData:
    """What may improve a compressed net: unlabelled calibration batches, training examples, a checkpoint to keep or resume.

    ``on_plan`` gets the layer decisions before training starts: a resumed run must be given the same ones. ``origin`` says
    where the data came from, for the configuration; None where it was in memory. ``held_out`` are labelled examples nothing
    is trained or calibrated on: a largest drop is judged by them. ``enough`` may stop training early: see ``finetune``.
    """

    calibration: Sequence[Tensor] = ()
    examples: Examples | None = None
    held_out: Examples | None = None
    checkpoint: Path | None = None
    resume: bool = False
    on_plan: Callable[[Sequence[LayerPlan]], None] | None = None
    origin: dict[str, Any] | None = None
    enough: Callable[[nn.Module], bool] | None = None

    def calibrated(self) -> TrainingData:
        """Let the first training examples serve where no calibration inputs are given."""
        if self.calibration or self.examples is None:
            return self
        some = torch.arange(min(CALIBRATION_IMAGES, len(self.examples)))
        return replace(self, calibration=[x for x, _ in batches(self.examples, CALIBRATION_BATCH, some)])

    def recorded_origin(self) -> dict[str, Any] | None:
        """Return what the configuration says of the data: None where there is none."""
        present = bool(self.calibration) or self.examples is not None
        return self.origin or ({"in_memory": True} if present else None)


def compress_net(
    dense: fx.GraphModule,
    input_shape: tuple[int, ...],
    settings: CompressSettings,
    data: TrainingData = TrainingData(),
    plans: Sequence[LayerPlan] | None = None,
    progress: Progress = silent,
    built: dict[LayerPlan, LookupConv2d] | None = None,
    template: onnx.ModelProto | None = None,
) -> Artefact:
    """Compress a captured net; ``dense`` itself is not changed.

    Args:
        dense: the net, batch norms not folded.
        input_shape: (1, C, H, W); layers are planned and measured at this size.
        settings: how.
        data: calibration and training data; none of it is required.
        plans: decisions of an earlier run (its ``config["layers"]``); nothing is planned or measured then.
        progress: called as work goes on.
        built: lookup convolutions that earlier calls with this net and these settings made; this call adds its own.
        template: the net as ``export.with_factors`` wants it; what is measured is not exported anew then.

    Raises:
        ModelError: the net cannot be compressed or does not run on ``input_shape``.
        SettingsError: an option does not fit the net.
    """
    if settings.finetune is not None and data.examples is None:
        raise SettingsError("--epochs asks for fine-tuning, but there is no training data; add --data")
    built = {} if built is None else built
    found = layers(dense, torch.zeros(input_shape))
    decided = plan_layers(found, settings.plan) if plans is None else _check_plans(plans, found)
    lookups = make_lookups(found, decided, settings, built, progress)
    measures = settings.measure and runtime.library_path() is not None and lookups
    timing = _Timing(input_shape, settings, template) if measures else None
    if timing is not None and plans is None:
        timing.export(build_net(dense, input_shape, lookups), progress)
        decided = timing.keep_what_gains(decided, settings.plan.keep_slow, progress)
        lookups = {plan.name: lookups[plan.name] for plan in decided if plan.kind != "dense"}
    if data.on_plan is not None:
        data.on_plan(decided)
    targets = {name: lookup.n_nonzeros for name, lookup in lookups.items()}
    if _prunes(settings.finetune, data.examples):
        lookups = make_lookups(found, _twice_the_lookups(decided), settings, built, progress)
    net = build_net(dense, input_shape, lookups)
    training = _improve(net, dense, input_shape, targets, settings, data, progress)
    rows = layer_rows(net, found, decided, settings.coefficients)
    fold_batch_norms(net)
    round_factors(net, settings.coefficients)
    if timing is not None and (training is not None or plans is not None):
        timing.export(net, progress)  # training chose other lookups than those measured before
    config = {
        "init": settings.init, "seed": settings.seed, "coefficients": settings.coefficients,
        "layers": [asdict(plan) for plan in decided],
        "finetune": None if settings.finetune is None else asdict(settings.finetune), "data": data.recorded_origin(),
    }  # fmt: skip
    times = timing.times if timing is not None and lookups else None
    report = make_report(rows, input_shape, sum(map(len, data.calibration)), training, times)
    return Artefact(net, input_shape, config, report)


def _check_plans(plans: Sequence[LayerPlan], found: Sequence[Layer]) -> list[LayerPlan]:
    names, expected = [plan.name for plan in plans], [layer.name for layer in found]
    if names != expected:
        odd = sorted(set(names) ^ set(expected))[:4]
        raise SettingsError(
            f"the configuration is of another net: it lists {len(names)} layers, the model has {len(expected)} "
            f"(they differ in {', '.join(odd) or 'order'})"
        )
    for plan, layer in zip(plans, found, strict=True):
        check_plan(plan, layer)
    return list(plans)


def make_lookups(
    found: Sequence[Layer],
    plans: Sequence[LayerPlan],
    settings: CompressSettings,
    built: dict[LayerPlan, LookupConv2d],
    progress: Progress = silent,
) -> dict[str, LookupConv2d]:
    """Return the lookup convolution of every layer planned to become one, by name; those not in ``built`` are added to it."""
    chosen = {plan: layer for layer, plan in zip(found, plans, strict=True) if plan.kind != "dense"}
    missing = [plan for plan in chosen if plan not in built]
    made = in_parallel(
        lambda plan: make_lookup(chosen[plan], plan, settings.init, settings.seed), missing, "dictionaries", progress
    )
    built.update(zip(missing, made, strict=True))
    return {plan.name: built[plan] for plan in chosen}


def make_lookup(layer: Layer, plan: LayerPlan, init: str, seed: int) -> LookupConv2d:
    """Return the lookup convolution a plan makes of a layer; ``init`` is for layers whose kind does not fix it."""
    dictionary, kernel = factorise(
        layer.weight().detach().numpy(), groups=layer.geometry.groups, dictionary_size=plan.dictionary_size,
        lookups=plan.lookups, init=FIXED_INITS.get(plan.kind, init), seed=seed, share=plan.share,
    )  # fmt: skip
    factors = torch.from_numpy(dictionary), torch.from_numpy(kernel)
    return LookupConv2d(*factors, layer.module.bias, layer.geometry, plan.share)


def build_net(dense: fx.GraphModule, input_shape: tuple[int, ...], lookups: dict[str, LookupConv2d]) -> fx.GraphModule:
    """Return a copy of ``dense`` with the named layers replaced."""
    net = copy.deepcopy(dense)
    for layer in layers(net, torch.zeros(input_shape)):
        if layer.name in lookups:
            replace_layer(net, layer, copy.deepcopy(lookups[layer.name]))
    return net.eval()


def measured_totals(
    artefact: Artefact, settings: CompressSettings, template: onnx.ModelProto | None, progress: Progress = silent
) -> dict[str, float]:
    """Measure a finished net against its dense form; note the times of layers, return those of the net."""
    timing = _Timing(artefact.input_shape, settings, template)
    timing.export(artefact.net, progress)
    return add_times(artefact.report["layers"], timing.times)


class _Timing:
    """Measures a net layer by layer against its dense form, both in ONNX Runtime."""

    def __init__(self, input_shape: tuple[int, ...], settings: CompressSettings, template: onnx.ModelProto | None) -> None:
        self.input_shape, self.settings, self.template = input_shape, settings, template
        self.model: onnx.ModelProto
        self.times: benchmark.Gain

    def export(self, net: fx.GraphModule, progress: Progress) -> None:
        """Export ``net`` and measure it."""
        progress("exporting", 0, 1)
        coefficients = self.settings.coefficients
        folded = copy.deepcopy(net)
        fold_batch_norms(folded)
        round_factors(folded, coefficients)  # as the file stores them: normalisation can magnify rounding
        if self.template is None:
            self.model = to_onnx(folded, self.input_shape, only_timed(coefficients), {})
        else:  # the exporter takes minutes for some nets
            self.model = with_factors(self.template, folded, coefficients)
        progress("exporting", 1, 1)
        self.measure(progress)

    def measure(self, progress: Progress) -> None:
        with self._written(dense_form(self.model), self.model) as paths:
            self.times = benchmark.measure_gain(*paths, threads=self.settings.threads, progress=progress)

    @contextmanager
    def _written(self, first: onnx.ModelProto, second: onnx.ModelProto) -> Iterator[tuple[Path, Path]]:
        with tempfile.TemporaryDirectory(prefix="lcnn-") as folder:
            paths = Path(folder) / "first.onnx", Path(folder) / "second.onnx"
            for path, model in zip(paths, (first, second), strict=True):
                write_atomically(path, model.SerializeToString())
            yield paths

    def keep_what_gains(self, plans: Sequence[LayerPlan], keep_slow: bool, progress: Progress) -> list[LayerPlan]:
        """Turn lookup layers back to dense where that makes the net faster.

        Candidates are those not measured faster than dense, by more than the noise. They go all at once or, if the net is
        slower then (a dense layer between lookups costs two changes of layout), one by one, the slowest first.
        """
        timed = {p.name: self.times.layers.get(p.name, (0.0, 0.0)) for p in plans if p.kind != "dense" and not keep_slow}
        slow = {n: lookup / max(dense, 1e-9) for n, (dense, lookup) in timed.items() if lookup >= LEAST_GAIN * dense}
        full, dropped = self.model, set[str]()
        trials = (set(slow), *({name} for name in sorted(slow, key=lambda name: -slow[name])))
        for done, names in enumerate(trials if slow else ()):
            progress("choosing layers", done, len(trials))
            if names <= dropped:
                continue
            trial = dense_form(full, dropped | names)
            with self._written(self.model, trial) as paths:
                faster = benchmark.time_ratio(*paths, threads=self.settings.threads) > 1
            if faster:
                self.model, dropped = trial, dropped | names
        if dropped:
            self.measure(progress)
        return [
            self._with_times(plan, plan.name in dropped, *timed[plan.name]) if plan.name in slow else plan for plan in plans
        ]

    @staticmethod
    def _with_times(plan: LayerPlan, dropped: bool, dense_ms: float, lookup_ms: float) -> LayerPlan:
        measured = f"measured: lookup {lookup_ms:.3f} ms, dense {dense_ms:.3f} ms"
        if dropped:
            return LayerPlan(plan.name, "dense", measured, note=plan.note)
        return replace(plan, note="; ".join(filter(None, [plan.note, f"{measured}, but the net is faster with it"])))


def _prunes(tuning: FinetuneSettings | None, examples: Examples | None) -> bool:
    """Tell whether training starts with more lookups than stay: worth it only where it is long enough to recover."""
    if tuning is None or examples is None or tuning.sparsity != "gradual":
        return False
    return tuning.epochs * len(examples) // tuning.batch_size >= PRUNING_STEPS


def _twice_the_lookups(plans: Sequence[LayerPlan]) -> list[LayerPlan]:
    def denser(plan: LayerPlan) -> LayerPlan:
        return replace(plan, lookups=min(plan.dictionary_size, 2 * max(1, round(lookups_per_position(plan)))))

    return [denser(plan) if plan.kind != "dense" else plan for plan in plans]


def _improve(
    net: fx.GraphModule,
    dense: fx.GraphModule,
    input_shape: tuple[int, ...],
    targets: dict[str, int],
    settings: CompressSettings,
    data: TrainingData,
    progress: Progress,
) -> dict[str, Any] | None:
    """Refit coefficients, re-estimate batch norms and fine-tune, as far as there is data; return the training report."""
    calibration = (data if settings.finetune is None else data.calibrated()).calibration
    if calibration:
        _refit_layers(net, dense, input_shape, calibration, progress)
        _reestimate_where_no_worse(net, dense, calibration)
    if settings.finetune is None or data.examples is None:
        return None
    if settings.finetune.sparsity == "threshold":
        for name in targets:
            _fill(net.get_submodule(name), dense.get_submodule(name).weight)
    report = finetune(
        net, dense, data.examples, settings.finetune, targets=targets, checkpoint=data.checkpoint, resume=data.resume,
        enough=data.enough, progress=progress,
    )  # fmt: skip
    net.eval()
    return asdict(report)


def _reestimate_where_no_worse(net: fx.GraphModule, dense: fx.GraphModule, calibration: Sequence[Tensor]) -> None:
    """Re-estimate batch norms unless that takes the outputs clearly further from the dense net's.

    It does where the dense net's own statistics are not those of the images: they are of another kind than it was trained on,
    or few, or its batch norms were never trained.
    """
    norms = batch_norms(net)
    if not norms:
        return
    judge = Outputs(dense, first_images(calibration, JUDGED_IMAGES))
    before = {name: copy.deepcopy(norm.state_dict()) for name, norm in norms.items()}
    limit = judge.error(net) * MOST_WORSE**2
    reestimate_batch_norms(net, calibration)
    if not judge.error(net) <= limit:
        for name, norm in norms.items():
            norm.load_state_dict(before[name])
        log.info("batch norms stay as they were: re-estimated, they took the outputs further from the dense net's")


@torch.no_grad()
def _refit_layers(
    net: fx.GraphModule, dense: fx.GraphModule, input_shape: tuple[int, ...], batches: Sequence[Tensor], progress: Progress
) -> None:
    """Solve lookup layers anew, their patterns out of all entries, and the layers after them that stayed dense.

    A dense layer is an identity dictionary with every coefficient: solved like the others it makes up for what the layers
    before it lost.
    """
    parts: dict[str, LookupConv2d] = {}
    counts: dict[str, int] = {}
    for layer in layers(dense, torch.zeros(input_shape)):
        module: Any = net.get_submodule(layer.name)
        if isinstance(module, LookupConv2d):
            parts[layer.name] = module
            counts[layer.name] = module.n_nonzeros
        elif parts and _can_refit(layer, sum(map(len, batches))):
            identity = torch.eye(layer.in_channels // layer.geometry.groups).repeat(layer.geometry.groups, 1)
            parts[layer.name] = LookupConv2d(identity, layer.weight(), layer.module.bias, layer.geometry)
    trial = build_net(dense, input_shape, parts)
    for name in counts:
        _fill(trial.get_submodule(name), dense.get_submodule(name).weight)
    refit(trial, dense, batches, progress, counts)
    for name in parts:
        module, solved = net.get_submodule(name), cast(LookupConv2d, trial.get_submodule(name))
        if isinstance(module, LookupConv2d):
            module.load_state_dict(solved.state_dict())
            module.support.copy_(solved.support)
        else:
            assert isinstance(module.weight, Tensor)
            module.weight.copy_(solved.sparse_kernel.view_as(module.weight))
            module.bias = nn.Parameter(solved.bias.clone())


def _can_refit(layer: Layer, images: int) -> bool:
    """Tell whether so many images determine all weights of a layer."""
    if layer.obstacle is not None or isinstance(layer.module, LookupConv2d):
        return False
    features = layer.in_channels // layer.geometry.groups * layer.geometry.taps
    positions = images * sum(math.prod(layer.geometry.output_size(*size)) for size in layer.sizes)
    return features <= MOST_DENSE_FEATURES and min(SAMPLES, positions) >= SAMPLES_PER_FEATURE * features


@torch.no_grad()
def _fill(lookup: Any, weight: Any) -> None:
    """Set every entry of the kernel to its least-squares value for ``weight``: training prunes from there."""
    groups = lookup.geometry.groups
    slices = weight.double().reshape(groups, lookup.out_channels // groups, -1, *lookup.geometry.kernel)
    inverse = torch.linalg.pinv(lookup.dictionary.double().unflatten(0, (groups, -1)), rtol=1e-5)  # (groups, m, k)
    kernel = torch.einsum("gomrc,gmk->gokrc", slices, inverse).flatten(0, 1)
    lookup.sparse_kernel.copy_(kernel.to(lookup.sparse_kernel.dtype))
    lookup.support.fill_(True)

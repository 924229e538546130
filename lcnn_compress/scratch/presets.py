"""What a preset makes of the layers of a net: published dictionaries where there are some, shares of the channels elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lcnn_compress.compression.plan import plan_layers, size_limits
from lcnn_compress.compression.settings import LayerPlan, PlanSettings
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.kinds import DENSE
from lcnn_compress.forms.published import ALEXNET_FAST, RESNET_FAST, Published, published_for
from lcnn_compress.net.layers import Layer
from lcnn_compress.scratch.schedules import ALEXNET, COSINE, RESNET
from lcnn_compress.scratch.train_settings import PRESETS, TrainSettings

# Rows of the published dictionary of a first layer, which three colours fill.
FIRST = 3


@dataclass(frozen=True)
class Chosen:
    """What becomes of each layer, what was published for the net at its preset, and the timetable of its family."""

    plans: tuple[LayerPlan, ...]
    published: Published | None
    timetable: str


def choose(layers: Sequence[Layer], settings: TrainSettings) -> Chosen:
    """Return what a preset, or ``settings.dictionary``, makes of the layers of a net.

    Raises:
        ModelError: the net has no convolution or linear layer.
        SettingsError: no layer gets a dictionary, a glob matches no layer, or a size is larger than any layer allows.
    """
    names = [layer.name for layer in layers]
    timetable = ALEXNET if ALEXNET_FAST.fits(names) else RESNET if RESNET_FAST.fits(names) else COSINE
    preset = PRESETS[settings.preset]
    if preset is None:
        return Chosen(tuple(LayerPlan(name, DENSE.name, "preset dense") for name in names), None, timetable)
    published = published_for(names, preset)
    # Threshold starts from full kernels, top and gradual say how many entries each position ends with.
    lookups: int | float = 1.0 if settings.sparsity == "threshold" else settings.lookups
    if settings.dictionary is not None or published is None:
        dictionary = settings.dictionary or preset
        plans = plan_layers(layers, PlanSettings(dictionary, lookups, keep_slow=True))
    else:
        skip = tuple(glob for glob in published.dense if _is_there(glob, names))
        planned = plan_layers(layers, PlanSettings(published.text, lookups, skip=skip, keep_slow=True))
        plans = [_as_published(plan, layer, published) for plan, layer in zip(planned, layers, strict=True)]
    if not any(plan.form.is_coded for plan in plans):
        reasons = "; ".join(f"{plan.name}: {plan.reason}" for plan in plans[:4])
        raise SettingsError(
            f"`preset` {settings.preset} fits no layer of the net ({reasons}); give `dictionary` by name, or `preset` dense"
        )
    return Chosen(tuple(plans), published, timetable)


def _is_there(glob: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for name in names)


def _as_published(plan: LayerPlan, layer: Layer, published: Published) -> LayerPlan:
    """Return a plan with the published size, or a dense one where the layer is too small for it, as in the published code."""
    size, channels = published.size_of(layer.name), layer.in_channels // layer.geometry.groups
    if size is None or not plan.form.is_coded:
        return plan
    vectors = size_limits(layer)[1] + 1
    reason = ""
    if size >= vectors:
        reason = f"the published dictionary of {size} is no smaller than the {vectors} vectors it would code"
    elif channels < min(size, FIRST):
        reason = f"{channels} input channel{'s' if channels > 1 else ''}: no room for the published dictionary of {size}"
    return LayerPlan(plan.name, DENSE.name, reason) if reason else plan

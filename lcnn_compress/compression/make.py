"""Make the lookup convolutions that plans ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lcnn_compress.compression.settings import CompressSettings, LayerPlan
from lcnn_compress.forms.dictionary import factorise
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.layers import Layer
from lcnn_compress.parallel import in_parallel
from lcnn_compress.progress import Progress, silent


def make_lookups(
    found: Sequence[Layer],
    plans: Sequence[LayerPlan],
    settings: CompressSettings,
    built: dict[LayerPlan, LookupConv2d],
    progress: Progress = silent,
) -> dict[str, LookupConv2d]:
    """Return the lookup convolution of every layer planned to become one, by name; those not in ``built`` are added to it."""
    chosen = {plan: layer for layer, plan in zip(found, plans, strict=True) if plan.form.is_coded}
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
        lookups=plan.lookups, init=plan.form.init or init, seed=seed, filters_per_pattern=plan.filters_per_pattern,
    )  # fmt: skip
    factors = torch.from_numpy(dictionary), torch.from_numpy(kernel)
    common = plan.filters_per_pattern
    return LookupConv2d(*factors, layer.module.bias, layer.geometry, kind=plan.form, filters_per_pattern=common)

"""Decide for every layer whether it becomes a lookup convolution, and with how large a dictionary.

The rules are the paper's (Bagherinezhad et al. 2017, section 4) as far as they carry over to a pretrained net: a dictionary has
fewer rows than there are vectors to code, and no more than the vectors are long unless that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from lcnn_compress.compression.settings import LayerPlan, PlanSettings
from lcnn_compress.errors import ModelError, SettingsError
from lcnn_compress.forms.kinds import DENSE, FILTERS_PER_PATTERN, KINDS, LOOKUP
from lcnn_compress.forms.size_rules import DictionaryRule, parse_dictionary
from lcnn_compress.net.layers import MAX_BARE_CHANNELS, Layer
from lcnn_compress.operators.geometry import lookup_macs

# A layer is tiny if its parts of the net's MACs and of its weights are both below this fraction.
TINY_SHARE = 0.01
# In nets of many layers a tiny layer's parts are also below this fraction of an average layer's.
TINY_PART = 0.2


def plan_layers(layers: Sequence[Layer], settings: PlanSettings) -> list[LayerPlan]:
    """Return one LayerPlan for each layer, in order.

    Raises:
        ModelError: the net has no convolution or linear layer.
        SettingsError: a glob matches nothing, or the dictionary is larger than any layer allows.
    """
    rules = parse_dictionary(settings.dictionary)
    _check_globs(layers, [*settings.only, *settings.skip, *(rule.glob for rule in rules if rule.explicit)])
    _check_size(layers, rules)
    parts = _parts(layers)
    return [_plan_layer(layer, settings, rules, part) for layer, part in zip(layers, parts, strict=True)]


def reasons_against(layers: Sequence[Layer], settings: PlanSettings) -> list[str | None]:
    """Return for each layer why it stays dense on principle, or None where it may be compressed; ``dictionary`` plays no part.

    Raises:
        ModelError: the net has no convolution or linear layer.
        SettingsError: a glob matches nothing.
    """
    _check_globs(layers, [*settings.only, *settings.skip])
    parts = _parts(layers)
    return [_reason_against(layer, settings, _named(layer, settings), part) for layer, part in zip(layers, parts, strict=True)]


@dataclass(frozen=True)
class _Part:
    """What part of the net's MACs a layer has, and whether that and its part of the weights are too small to bother."""

    macs: float
    tiny: bool


def _parts(layers: Sequence[Layer]) -> list[_Part]:
    macs, weights = [layer.dense_macs for layer in layers], [layer.weight().numel() for layer in layers]
    limit = min(TINY_SHARE, TINY_PART / len(layers))
    parts = [(m / max(1, sum(macs)), w / max(1, sum(weights))) for m, w in zip(macs, weights, strict=True)]
    return [_Part(part[0], max(part) < limit) for part in parts]


def _check_globs(layers: Sequence[Layer], globs: Sequence[str]) -> None:
    if not layers:
        raise ModelError("the model has no Conv2d and no Linear layer; there is nothing to compress")
    for glob in globs:
        if not any(fnmatchcase(layer.name, glob) for layer in layers):
            names = ", ".join(layer.name for layer in layers[:8])
            raise SettingsError(f"'{glob}' matches no layer; the layers are {names}{', ...' if len(layers) > 8 else ''}")


def _check_size(layers: Sequence[Layer], rules: Sequence[DictionaryRule]) -> None:
    for rule in rules:
        limits = [size_limits(layer)[1] for layer in layers if layer.obstacle is None and fnmatchcase(layer.name, rule.glob)]
        if limits and isinstance(rule.size, int) and rule.size > max(limits):
            raise SettingsError(
                f"`dictionary` asks for {rule.size} entries, but the largest layer '{rule.glob}' matches codes "
                f"{max(limits) + 1} vectors and a dictionary must be smaller than that; use at most {max(limits)}"
            )


def size_limits(layer: Layer) -> tuple[int, int]:
    """Return (usual, hard) upper limits of k: the vector length, and one less than the number of vectors in a group."""
    groups = layer.geometry.groups
    vectors = layer.out_channels // groups * layer.geometry.taps
    return min(layer.in_channels // groups, max(1, vectors - 1)), max(1, vectors - 1)


def check_plan(plan: LayerPlan, layer: Layer) -> None:
    """Refuse the plan of an earlier run, which may have been edited, where it cannot be carried out.

    Raises:
        SettingsError: its kind, dictionary_size or lookups are impossible for the layer.
    """

    def check(name: str, rule: str | None) -> None:
        if rule is not None:
            raise SettingsError(f"{plan.name}: {name} is {plan.to_json()[name]!r} in the configuration; it must be {rule}")

    check("kind", None if plan.kind in KINDS else f"one of {', '.join(KINDS)}")
    if not plan.form.is_coded:
        return
    check("kind", None if layer.obstacle is None else f"dense ({layer.obstacle})")
    channels = layer.in_channels // layer.geometry.groups
    check("dictionary_size", plan.form.size_rule(plan.dictionary_size, channels, size_limits(layer)[1]))
    known = plan.filters_per_pattern in FILTERS_PER_PATTERN
    check("share", None if known else f"one of {', '.join(map(str, FILTERS_PER_PATTERN))}")
    check("lookups", plan.form.lookups_rule(plan.lookups, plan.dictionary_size))


def _plan_layer(layer: Layer, settings: PlanSettings, rules: Sequence[DictionaryRule], part: _Part) -> LayerPlan:
    named = _named(layer, settings)
    rule = next((r for r in rules if fnmatchcase(layer.name, r.glob)), None)
    reason = _reason_against(layer, settings, named or (rule is not None and rule.explicit), part)
    if reason is None and rule is None:
        reason = "no --dict entry matches it"
    if reason is not None:
        return LayerPlan(layer.name, DENSE.name, reason)
    assert rule is not None
    channels = layer.in_channels // layer.geometry.groups
    usual, hard = size_limits(layer)
    asked = rule.rows(min(channels, hard + 1))
    limit = hard if rule.explicit else usual
    size = min(asked, limit)
    note = f"dictionary of {asked} limited to {size}" if size < asked else ""
    lookups = settings.effective_lookups
    if isinstance(lookups, int) and lookups > size:
        note = "; ".join(filter(None, [note, f"{lookups} lookups limited to {size}"]))
        lookups = size
    elif lookups == 1.0 and isinstance(lookups, float):
        lookups = size
    plan = LayerPlan(layer.name, LOOKUP.name, "", size, lookups, note, settings.filters_per_pattern)
    macs = planned_macs(layer, plan)
    if macs >= layer.dense_macs and not settings.keep_slow:
        reason = f"lookup does not pay: {macs / 1e6:.3g} million MACs against {layer.dense_macs / 1e6:.3g} dense"
        return replace(plan, kind=DENSE.name, reason=reason, dictionary_size=0, lookups=0.0, filters_per_pattern=1)
    return plan


def _named(layer: Layer, settings: PlanSettings) -> bool:
    return any(fnmatchcase(layer.name, glob) for glob in settings.only)


def lookups_per_position(plan: LayerPlan) -> float:
    """Return the planned mean number of lookups for one kernel position."""
    return plan.lookups if plan.lookups >= 1 else plan.lookups * plan.dictionary_size


def planned_macs(layer: Layer, plan: LayerPlan) -> int:
    """Return the MACs of the layer for one image if the plan is carried out."""
    if not plan.form.is_coded:
        return layer.dense_macs
    lookups = max(plan.form.min_lookups, lookups_per_position(plan))
    nonzeros = round(lookups * layer.out_channels * layer.geometry.taps)
    rows = plan.form.projected_rows(plan.dictionary_size)
    return sum(lookup_macs(layer.in_channels, rows, nonzeros, layer.geometry, size) for size in layer.sizes)


def _reason_against(layer: Layer, settings: PlanSettings, named: bool, part: _Part) -> str | None:
    if layer.obstacle is not None:
        return layer.obstacle
    if settings.only and not _named(layer, settings):
        return "not named by --only"
    for glob in settings.skip:
        if fnmatchcase(layer.name, glob):
            return f"kept dense by --skip '{glob}'"
    if named:
        return None
    channels = layer.in_channels // layer.geometry.groups
    if layer.is_classifier:
        return "classifier: few vectors, each of its own class (name it with --only to compress it)"
    if channels <= MAX_BARE_CHANNELS:
        return f"only {channels} input channel{'s' if channels > 1 else ''}: no room for a dictionary (--only overrides)"
    if part.tiny:
        return f"tiny: {part.macs:.2%} of the net's MACs (--only overrides)"
    return None

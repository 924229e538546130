"""Find the weights of a net in what a trainer saved: in dicts in dicts, behind prefixes, beside averages and other things.

One rule: every tensor goes by the keys that lead to it, joined by dots. A set of weights is a prefix behind which every name of
the net is found, and it fits where shapes and kinds of numbers agree and nothing beside it behind the prefix is left over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lcnn_compress.errors import ModelError
from lcnn_compress.sources.model import wrapped
from lcnn_compress.sources.tensor_check import check_tensors

_MAX_DEPTH = 50
# torch.compile, FSDP and checkpointing of activations name what they wrap so, in the middle of other names too.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Profilers (thop) leave the first two in every module; averaged models count their updates.
_COUNTERS = ("total_ops", "total_params", "n_averaged")
_AVERAGED = re.compile(r"(?<![A-Za-z])([Ee]ma|[Ss]wa|[Aa]vg|[Aa]veraged?|shadow)(?![a-z])|(EMA|SWA|Ema|Swa|Avg)(?![a-z])")


@dataclass
class Held:
    """What a file held.

    Attributes:
        tensors: name of a tensor -> the tensor, and the keys of the dict that it is in.
        modules: keys that lead to a net -> the net inside its wrappers.
    """

    tensors: dict[str, tuple[Tensor, tuple[str, ...]]] = field(default_factory=dict)
    modules: dict[tuple[str, ...], nn.Module] = field(default_factory=dict)

    @property
    def nets(self) -> dict[tuple[str, ...], nn.Module]:
        """The modules, without losses and the like, which have no parameters, where anything else is held."""
        found = {keys: net for keys, net in self.modules.items() if any(True for _ in net.parameters())}
        return found if found or self.tensors else self.modules

    @property
    def places(self) -> list[str]:
        """The dicts that hold tensors, by the keys that lead to them."""
        return [".".join(place) for place in dict.fromkeys(place for _, place in self.tensors.values())]


def held_in(held: object, path: Path) -> Held:
    """Walk what a file held; what an optimiser keeps is left out.

    Raises:
        ModelError: it is nested deeper than any checkpoint of a net.
    """
    found = Held()
    waiting: list[tuple[tuple[str, ...], object]] = [((), held)]
    seen: set[int] = set()
    while waiting:
        keys, value = waiting.pop()
        if isinstance(value, Tensor) or id(value) in seen:
            continue
        seen.add(id(value))
        if len(keys) > _MAX_DEPTH:
            raise ModelError(
                f"{path}: is nested more than {_MAX_DEPTH} deep, as no checkpoint is; save the state_dict of the net"
            )
        if isinstance(value, nn.Module):
            inner = wrapped(value)
            if inner is not None:
                found.tensors |= _named({k: v for k, v in vars(value)["_buffers"].items() if k in _COUNTERS}, keys)
                waiting.append(((*keys, "module"), inner))
                continue
            found.modules[keys] = value
            value = value.state_dict()
        if isinstance(value, Mapping) and "param_groups" not in value:
            found.tensors |= _named(value, keys)
            inside = [((*keys, str(key)), inner) for key, inner in value.items() if isinstance(key, (str, int))]
            waiting += reversed(inside)
        elif isinstance(value, (list, tuple)):
            waiting += [((*keys, str(index)), value[index]) for index in reversed(range(len(value)))]
    return found


def _named(values: Mapping[object, object], keys: tuple[str, ...]) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    tensors = [(key, value) for key, value in values.items() if isinstance(key, str) and isinstance(value, Tensor)]
    return {_WRAPPERS.sub("", ".".join((*keys, key))): (value, keys) for key, value in tensors}


@dataclass(frozen=True)
class WeightSet:
    """Weights of a net behind a prefix.

    Attributes:
        prefix: what stands before the names of the net, "" or with a dot at its end.
        state: name in the net -> tensor, of all that are there.
        place: keys that lead to the dict that holds them, joined by dots.
        averaged: an average of the weights of many steps of training, by its name or by the counter beside it.
        differences: what is missing, left over or of another shape or kind, "" where the set fits.
        beside: names of other tensors in that dict.
    """

    prefix: str
    state: dict[str, Tensor]
    place: str
    averaged: bool
    differences: str
    beside: list[str]

    @property
    def name(self) -> str:
        """The prefix as it is shown."""
        return repr(self.prefix.rstrip("."))


def weights_for(net: nn.Module, held: Held, path: Path, whose: str) -> tuple[WeightSet, tuple[str, ...]]:
    """Return the weights for a net, and notes: where they were, what else would have fitted, what lies beside them.

    Of several sets that fit, the averaged one is taken: its accuracy is what trainers report.

    Args:
        net: the net, which is not changed.
        whose: names the net in messages.

    Raises:
        ModelError: no set fits, or several do and none or more than one is averaged.
    """
    own = {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    found = _prefixes(own, held)
    complete = [prefix for prefix in found if needed and all(prefix + name in held.tensors for name in needed)]
    sets = [_weight_set(prefix, complete, own, held, path) for prefix in complete or [_closest(found, held)]]
    fitting = [candidate for candidate in sets if not candidate.differences]
    if not fitting:
        raise ModelError(f"{path}: does not fit {whose} ({sets[0].differences}); name the factory of the saved net")
    names = ", ".join(candidate.name for candidate in fitting)
    distinct: list[WeightSet] = []
    for candidate in fitting:
        if not any(_same(candidate.state, other.state) for other in distinct):
            distinct.append(candidate)
    averaged = [candidate for candidate in distinct if candidate.averaged]
    if len(distinct) > 1 and len(averaged) != 1:
        raise ModelError(
            f"{path}: holds {len(fitting)} sets of weights that fit {whose}: {names}; "
            "write the one you mean to a file of its own with torch.save"
        )
    chosen = distinct[0] if len(distinct) == 1 else averaged[0]
    notes = [f"{path.name}: the net is under {chosen.place!r} of a checkpoint"] if chosen.place else []
    if len(distinct) > 1:
        notes.append(
            f"{path.name}: holds {len(fitting)} sets of weights that fit: {names}; {chosen.name} is taken, the averaged one; "
            "to take another, write it to a file of its own with torch.save"
        )
    parts = [prefix for prefix in found if _AVERAGED.search(prefix) and not prefix.startswith(tuple(complete))]
    if parts and not averaged:
        most = max(parts, key=lambda prefix: found[prefix])
        where = f"{found[most]} of the {len(own)} tensors of the net lie, averaged, under {most.rstrip('.')!r}"
        notes.append(f"{path.name}: {where}; without the others they are not used")
    if chosen.beside:
        notes.append(f"{path.name}: beside the weights of the net lie others, which are left out: {listed(chosen.beside)}")
    return chosen, tuple(notes)


def fill(net: nn.Module, chosen: WeightSet) -> None:
    """Load weights that fit into a net."""
    net.load_state_dict(chosen.state, strict=False)  # only num_batches_tracked may be missing


def _prefixes(own: Mapping[str, Tensor], held: Held) -> Counter[str]:
    """Count, for each prefix, the names of a net that are found behind it."""
    longest = max((name.count(".") + 1 for name in own), default=0)
    found: Counter[str] = Counter()
    for name in held.tensors:
        parts = name.split(".")
        for length in range(1, min(longest, len(parts)) + 1):
            inner = ".".join(parts[-length:])
            if inner in own:
                found[name.removesuffix(inner)] += 1
    return found


def _closest(found: Counter[str], held: Held) -> str:
    """Return the prefix with the most names of the net or, where nothing is found of it, that of the largest dict."""
    largest = Counter(".".join((*place, "")) for _, place in held.tensors.values()).most_common(1)
    return (found.most_common(1) or largest or [("", 0)])[0][0]


def _weight_set(prefix: str, complete: list[str], own: Mapping[str, Tensor], held: Held, path: Path) -> WeightSet:
    state = {name: held.tensors[prefix + name][0] for name in own if prefix + name in held.tensors}
    check_tensors({prefix + name: value for name, value in state.items()}, str(path))
    places = dict.fromkeys(held.tensors[prefix + name][1] for name in state)
    others = tuple(other for other in complete if other != prefix)
    rest = [
        name
        for name, (_, place) in held.tensors.items()
        if (place in places or not places)
        and name.removeprefix(prefix) not in state
        and name.rpartition(".")[2] not in _COUNTERS
        and not any(name.startswith(other) and name.removeprefix(other) in own for other in others)
    ]
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name.removeprefix(prefix) for name in rest if name.startswith(prefix)]
    changed = [
        f"{name} {_kind(state[name])} in the file, {_kind(value)} in the net"
        for name, value in own.items()
        if name in state and not is_lazy(value) and not _alike(state[name], value)
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("different", changed))
    return WeightSet(
        prefix,
        state,
        ".".join(next(iter(places), ())),
        bool(_AVERAGED.search(prefix)) or prefix.removesuffix("module.") + "n_averaged" in held.tensors,
        "; ".join(f"{len(names)} {what}: {listed(names, 3)}" for what, names in groups if names),
        [name for name in rest if not name.startswith(prefix)],
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    """Tell whether shapes and kinds of numbers agree: torch would cast integers to floats."""
    return (a.shape, a.is_floating_point()) == (b.shape, b.is_floating_point())


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def listed(names: list[str], most: int = 5) -> str:
    """Return the first names, which may be any text of a file, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:200] if name.isprintable() else repr(name[:200]) for name in names[:most]) + more

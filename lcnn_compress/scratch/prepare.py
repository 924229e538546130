"""What is trained from scratch: a net with as many classes as the data has, and the data as the net takes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lcnn_compress import zoo
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.data.examples import Examples, Preprocessing
from lcnn_compress.data.load_data import image_size
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.errors import DataError, ModelError, SettingsError
from lcnn_compress.net.ordinary import ordinary
from lcnn_compress.scratch.drawn import class_numbers
from lcnn_compress.sources.factory import build_module, import_callable, is_callable_spec
from lcnn_compress.sources.input_shape import infer_input_shape
from lcnn_compress.sources.source import SCRATCH, Origin, Source, open_source

# Names of the parameter by which factories are told the number of classes.
CLASS_PARAMETERS = ("n_classes", "num_classes")


@dataclass(frozen=True)
class Prepared:
    """A net to train and the data to do so.

    Attributes:
        source: the net; its weights play no part.
        examples: what it is trained on.
        scored: labelled examples that it is scored on after every epoch, or None.
        origin: where the data came from, for the configuration; None where it was in memory.
    """

    source: Source
    examples: Examples
    scored: Examples | None = None
    origin: dict[str, object] | None = None


@ordinary
def prepare_training(
    net: nn.Module | str | Path,
    data: DataSettings,
    *,
    scored: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    n_classes: int | None = None,
) -> Prepared:
    """Open a net and the data.

    Args:
        net: a module, a file, a factory ``pkg.mod:fn``, or the name of a net of ``lcnn_compress.zoo``. A factory with a
            parameter ``n_classes`` or ``num_classes`` is told how many classes there are.
        data: ``data`` names the examples to train on.
        scored: labelled data, as ``data.data``, that the net is scored on after every epoch.
        input_shape: (1, C, H, W) or (1, features); without it the shape is found out where that is possible.
        n_classes: how many classes the net shall tell apart; without it as many as the labels name.

    Raises:
        SettingsError: there is no data, or the number of classes is not known or not that of the net.
        DataError, FileError: the data cannot be used, or does not fit the net.
        ModelError: the net cannot be opened.
    """
    if data.data is None:
        raise SettingsError("training needs `data`: a folder of class folders, .npz with x and y, idx images, or pkg.mod:fn")
    spec = _spec(net)
    told = None if spec is None else _class_parameter(spec)
    model = net if spec is None else build_module(spec)
    size: Callable[[], tuple[int, int] | None] = lambda: image_size(data)  # noqa: E731
    if input_shape is None:
        input_shape = infer_input_shape(model, size)[0] if isinstance(model, nn.Module) else open_source(model).input_shape
    preprocessing = Preprocessing(data.mean, data.std)
    examples = load_examples(data.data, input_shape, preprocessing)
    judged = None if scored is None else load_examples(scored, input_shape, preprocessing)
    classes = _classes(examples, n_classes, needed=told is not None)
    if spec is not None and told is not None and classes is not None:
        model = build_module(spec, **{told: classes})
    source = open_source(model, input_shape)
    _check_outputs(source, classes, str(net if isinstance(net, (str, Path)) else type(net).__name__))
    origin = Origin(spec or source.origin.spec, SCRATCH, None, source.origin.sha256)
    return Prepared(replace(source, origin=origin), examples, judged, data.recorded())


def _spec(net: nn.Module | str | Path) -> str | None:
    """Return the factory that ``net`` names, or None where it is something else."""
    if isinstance(net, nn.Module) or Path(net).exists():
        return None
    if str(net).isidentifier() and inspect.isfunction(getattr(zoo, str(net), None)):
        return f"{zoo.__name__}:{net}"
    return str(net) if is_callable_spec(str(net)) else None


def _class_parameter(spec: str) -> str | None:
    try:
        parameters = inspect.signature(import_callable(spec, ModelError)).parameters
    except (TypeError, ValueError):  # a callable that does not tell
        return None
    return next((name for name in CLASS_PARAMETERS if name in parameters), None)


def _classes(examples: Examples, stated: int | None, *, needed: bool) -> int | None:
    """Return how many classes the net shall have; None where labels are targets and the net has its own outputs.

    Raises:
        SettingsError: the number is needed and not known, or smaller than that of the labels.
    """
    y = examples.batch(torch.arange(1))[1]
    if y is not None and y.dtype == torch.bool:
        found = y.shape[1]
    else:
        try:
            found = int(class_numbers(examples).max()) + 1
        except DataError as error:
            if needed or y is None:
                raise SettingsError(
                    f"{error}, or state the number with `n_classes`" if y is not None else str(error)
                ) from error
            return stated
    if stated is not None and stated < found:
        raise SettingsError(
            f"`n_classes` is {stated}, but the labels name {found} classes, 0 to {found - 1}; state at least {found}"
        )
    return stated or max(2, found)


@torch.no_grad()
def _check_outputs(source: Source, classes: int | None, name: str) -> None:
    """Refuse a net of another number of classes than the data. Raises SettingsError."""
    output = source.net(torch.zeros(source.input_shape))
    shape = tuple(getattr(output, "shape", ()))
    if classes is not None and (len(shape) != 2 or shape[1] != classes):
        raise SettingsError(
            f"{name}: returns {shape} for one image, but the labels name {classes} classes; it must return (1, {classes}): let "
            f"its factory have a parameter n_classes, or state with `n_classes` that it shall tell more classes apart"
        )

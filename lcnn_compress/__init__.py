"""lcnn: rewrite the convolutions of a pretrained net as lookup convolutions that are fast in stock ONNX Runtime.

>>> import lcnn_compress as lcnn                                      # doctest: +SKIP
>>> artefact = lcnn.compress(model, dictionary="30")                  # doctest: +SKIP
>>> lcnn.save(artefact, "model.lcnn")                                 # doctest: +SKIP
>>> lcnn.export_onnx(artefact, "model.onnx")                          # doctest: +SKIP
>>> lcnn.runtime.session("model.onnx").run(None, {"input": x})        # doctest: +SKIP

Everything here is imported when it is first used, so that ``import lcnn_compress`` and ``lcnn --help`` answer at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lcnn_compress.errors import (
    ArtefactError,
    ChildError,
    DataError,
    FileError,
    LcnnError,
    MissingError,
    ModelError,
    SettingsError,
)  # fmt: skip
from lcnn_compress.version import __version__

if TYPE_CHECKING:
    from lcnn_compress import runtime
    from lcnn_compress.api import (
        bench,
        check_place,
        compress,
        compress_and_save,
        compress_source,
        compress_to_target,
        evaluate,
        evaluate_file,
        export_dense,
        export_onnx,
        forecast,
        inspect,
        load,
        load_data,
        load_examples,
        open_model,
        read_configuration,
        save,
        sensitivity,
        suite,
    )
    from lcnn_compress.artefact.artefact import Artefact
    from lcnn_compress.benchmark.bench_settings import BenchSettings
    from lcnn_compress.compression.configuration import Configuration
    from lcnn_compress.compression.settings import CompressSettings, LayerPlan, PlanSettings, TrainingData
    from lcnn_compress.data.data_settings import DataSettings
    from lcnn_compress.data.evaluate import Evaluation
    from lcnn_compress.data.examples import Examples, Preprocessing
    from lcnn_compress.data.score import Score
    from lcnn_compress.export.describe import Description
    from lcnn_compress.export.export_settings import ExportSettings
    from lcnn_compress.forms.lookup import LookupConv2d
    from lcnn_compress.scratch.prepare import Prepared, prepare_training
    from lcnn_compress.scratch.train_net import train_from_scratch
    from lcnn_compress.scratch.train_settings import TrainSettings
    from lcnn_compress.search.target import SensitivitySettings, Target
    from lcnn_compress.self_test import check as doctor
    from lcnn_compress.sources.source import Origin, Source
    from lcnn_compress.train.recipe import FinetuneSettings
    from lcnn_compress.views.node_profile import NodeProfile, profile
    from lcnn_compress.views.pictures import plot_layers
    from lcnn_compress.views.predictions import Predictions, predict

__all__ = [
    "Artefact", "ArtefactError", "BenchSettings", "ChildError", "CompressSettings", "Configuration", "DataError",
    "DataSettings", "Description", "Evaluation", "Examples", "ExportSettings", "FileError", "FinetuneSettings", "LayerPlan",
    "LcnnError", "LookupConv2d", "MissingError", "ModelError", "NodeProfile", "Origin", "PlanSettings", "Predictions",
    "Prepared", "Preprocessing", "Score", "SensitivitySettings", "SettingsError", "Source", "Target", "TrainSettings",
    "TrainingData", "__version__", "bench", "check_place", "compress", "compress_and_save", "compress_source",
    "compress_to_target", "doctor", "evaluate", "evaluate_file", "export_dense", "export_onnx", "forecast", "inspect",
    "load", "load_data", "load_examples", "open_model", "plot_layers", "predict", "prepare_training", "profile",
    "read_configuration", "runtime", "save", "sensitivity", "suite", "train_from_scratch",
]  # fmt: skip

# These names work without torch, or are of a room of their own, so each is imported from the module that defines it; all
# others come from ``api``.
_DEFINED_IN = {
    "BenchSettings": "benchmark.bench_settings", "CompressSettings": "compression.settings",
    "DataSettings": "data.data_settings", "ExportSettings": "export.export_settings",
    "FinetuneSettings": "train.recipe", "NodeProfile": "views.node_profile", "PlanSettings": "compression.settings",
    "Predictions": "views.predictions", "Prepared": "scratch.prepare", "SensitivitySettings": "search.target",
    "Target": "search.target", "TrainSettings": "scratch.train_settings", "TrainingData": "compression.settings",
    "plot_layers": "views.pictures", "predict": "views.predictions", "prepare_training": "scratch.prepare",
    "profile": "views.node_profile", "train_from_scratch": "scratch.train_net",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name, and what it needs, when it is asked for."""
    if name == "runtime":
        return importlib.import_module("lcnn_compress.runtime")
    if name == "LookupConv2d":
        return importlib.import_module("lcnn_compress.forms.lookup").LookupConv2d
    if name in __all__:
        return getattr(importlib.import_module(f"lcnn_compress.{_DEFINED_IN.get(name, 'api')}"), name)
    raise AttributeError(f"module 'lcnn_compress' has no attribute '{name}'")

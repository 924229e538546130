"""lcnn: rewrite the convolutions of a pretrained net as lookup convolutions that are fast in stock ONNX Runtime.

>>> import lcnn_compress as lcnn                                      # doctest: +SKIP
>>> artefact = lcnn.compress(model, dictionary="30")                  # doctest: +SKIP
>>> lcnn.save(artefact, "model.lcnn")                                 # doctest: +SKIP
>>> lcnn.export_onnx(artefact, "model.onnx")                          # doctest: +SKIP
>>> lcnn.runtime.session("model.onnx").run(None, {"input": x})        # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lcnn_compress.errors import LcnnError
from lcnn_compress.version import __version__

__all__ = [
    "Artefact",
    "LcnnError",
    "LookupConv2d",
    "__version__",
    "bench",
    "compress",
    "evaluate",
    "export_onnx",
    "load",
    "runtime",
    "save",
]

if TYPE_CHECKING:
    from lcnn_compress import runtime
    from lcnn_compress.api import bench, compress, evaluate, export_onnx, load, save
    from lcnn_compress.artefact.artefact import Artefact
    from lcnn_compress.forms.lookup import LookupConv2d

_HOMES = {"Artefact": "artefact.artefact", "LookupConv2d": "forms.lookup"} | dict.fromkeys(
    ("bench", "compress", "evaluate", "export_onnx", "load", "save"), "api"
)


def __getattr__(name: str) -> Any:
    """Import torch and ONNX only when something that needs them is first used (``lcnn --help`` stays fast)."""
    if name == "runtime":
        return importlib.import_module("lcnn_compress.runtime")
    if name in _HOMES:
        return getattr(importlib.import_module(f"lcnn_compress.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lcnn_compress' has no attribute '{name}'")

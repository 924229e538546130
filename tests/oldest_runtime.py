"""One native library for every ONNX Runtime: ``make`` a model and its right answer here, ``check`` them under an old release.

The check needs only numpy and onnxruntime, so that it runs in an environment of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def make(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from cases import LookupConvCase
    from test_op import expected, node_model

    case = LookupConvCase(stride=(2, 1), groups=2, c_out=6, padding=(1, 0, 1, 2))
    answer, bound = expected(case)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(node_model(case))
    np.savez(folder / "data.npz", x=case.input().numpy(), y=answer.numpy(), bound=bound.numpy())


def check(folder: Path, library: str) -> None:
    import onnxruntime as ort

    data = np.load(folder / "data.npz")
    for native in (True, False):
        options = ort.SessionOptions()
        if native:
            options.register_custom_ops_library(library)
        session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        got = session.run(None, {"X": data["x"]})[0]
        if not (np.abs(got - data["y"]) <= data["bound"]).all():
            raise SystemExit(f"ONNX Runtime {ort.__version__}: wrong result (native: {native})")
        print(f"ONNX Runtime {ort.__version__}, native {native}: right")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        check(Path(sys.argv[2]), sys.argv[3])

"""One native library for every ONNX Runtime: ``make`` models and their right answers here, ``check`` them under an old release.

The check needs only numpy and onnxruntime, so that it runs in an environment of its own.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np


def make(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import torch
    from byte_models import CASES
    from cases import LookupConvCase
    from half_models import HALF_CASES
    from op_models import POOL, expected, node_model

    case = LookupConvCase(stride=(2, 1), groups=2, c_out=6, padding=(1, 0, 1, 2))
    answer, bound = expected(case)
    folder.mkdir()
    pool = torch.nn.MaxPool2d(3, 2, 1)
    kinds = {
        "plain": (node_model(case), answer, bound),
        "hard_swish": (node_model(case, hard_swish=1), torch.nn.functional.hardswish(answer), 2 * bound),
        "pooled": (node_model(case, **POOL), pool(answer), pool(bound)),
    }
    for name, (model, y, allowed) in kinds.items():
        (folder / f"{name}.onnx").write_bytes(model)
        np.savez(folder / f"{name}.npz", x=case.input().numpy(), y=y.numpy(), bound=allowed.numpy())
    byte_case = next(case for case in CASES if case.name == "lookup")
    for name, to_bytes, bound in (("bytes", True, 1), ("bytes_to_float", False, 128 * byte_case.constants()["w_scale"].max())):
        (folder / f"{name}.onnx").write_bytes(byte_case.model(to_bytes=to_bytes))
        y = byte_case.expected(to_bytes=to_bytes).astype(np.float64)
        np.savez(folder / f"{name}.npz", x=byte_case.inputs()["X"], y=y, bound=np.full(y.shape, bound))
    half_case = next(case for case in HALF_CASES if case.name == "lookup residual")
    for name, to_bfloat16 in (("bfloat16", True), ("bfloat16_to_float", False)):
        (folder / f"{name}.onnx").write_bytes(half_case.model(to_bfloat16=to_bfloat16))
        y = half_case.expected(to_bfloat16=to_bfloat16)
        np.savez(folder / f"{name}.npz", x=half_case.input(), y=y, bound=np.zeros(y.shape))


def check(folder: Path, library: str) -> None:
    import onnxruntime as ort

    names = ("plain", "hard_swish", "pooled", "bytes", "bytes_to_float", "bfloat16", "bfloat16_to_float")
    for native, name in itertools.product((True, False), names):
        data = np.load(folder / f"{name}.npz")
        options = ort.SessionOptions()
        if native:
            options.register_custom_ops_library(library)
        session = ort.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        got = session.run(None, {"X": data["x"]})[0]
        if not (np.abs(got - data["y"]) <= data["bound"]).all():
            raise SystemExit(f"ONNX Runtime {ort.__version__}: wrong result (native: {native}, {name})")
        print(f"ONNX Runtime {ort.__version__}, native {native}, {name}: right")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        check(Path(sys.argv[2]), sys.argv[3])

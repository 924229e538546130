"""The native operators on bfloat16 in ONNX Runtime, against whole numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from byte_models import convolved
from command_line import needs_library
from isas import ISAS
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress import runtime
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.geometry import ConvGeometry

GEOMETRY = ConvGeometry((3, 3), (1, 2), (1, 0, 2, 1))
CLIP = (-500.0, 600.0)


def half(name: str, a: np.ndarray) -> onnx.TensorProto:
    """A tensor of numbers that bfloat16 holds."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any()
    return helper.make_tensor(name, TensorProto.BFLOAT16, a.shape, (bits >> 16).astype(np.uint16).tobytes(), raw=True)


def attributes(geometry: ConvGeometry) -> dict[str, tuple[int, ...]]:
    return {
        "kernel_shape": geometry.kernel, "strides": geometry.stride, "pads": geometry.padding, "dilations": geometry.dilation,
    }  # fmt: skip


def chain(d: np.ndarray | None, w: np.ndarray, bias: np.ndarray, residual: np.ndarray | None) -> bytes:
    """A file that turns X to bfloat16 and convolves; without a ``residual`` to float32, else it pools and turns back."""
    to_float = residual is None
    name = f"Bfloat16{'LookupConv' if d is not None else 'Conv'}{'ToFloat' if to_float else ''}"
    halves = ([half("D", d)] if d is not None else []) + [half("W", w)]
    added = [] if residual is None else [half("R", residual)]
    inputs = ["H", *(tensor.name for tensor in halves), "bias", *(tensor.name for tensor in added)]
    conv = helper.make_node(
        name, inputs, ["Y" if to_float else "Z"], name="the-conv", domain=DOMAIN,
        **attributes(GEOMETRY), group=1, clip_min=CLIP[0], clip_max=CLIP[1],
    )  # fmt: skip
    nodes = [helper.make_node("ToBfloat16Nhwc", ["X"], ["H"], domain=DOMAIN), conv]
    if not to_float:
        window = attributes(ConvGeometry((2, 2), padding=(0, 1, 1, 0)))
        nodes.append(helper.make_node("Bfloat16NhwcMaxPool", ["Z"], ["P"], domain=DOMAIN, **window))
        nodes.append(helper.make_node("FromBfloat16Nhwc", ["P"], ["Y"], domain=DOMAIN))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, list("nchw"))],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [*halves, *added, numpy_helper.from_array(bias, "bias")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def drawn(*, lookup: bool) -> tuple[np.ndarray | None, np.ndarray, np.ndarray, np.ndarray]:
    """D or None, W, bias and X (N, C, H, W): whole numbers so small that all sums are exact."""
    random = np.random.default_rng(7)

    def whole(high: int, *shape: int) -> np.ndarray:
        return random.integers(-high, high + 1, shape).astype(np.float32)

    return whole(2, 3, 8) if lookup else None, whole(8, 10, 3, 3, 3 if lookup else 8), whole(9, 10), whole(8, 2, 8, 7, 9)


def expected(d: np.ndarray | None, w: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The sums in real numbers, (N, H, W, O)."""
    y = x.transpose(0, 2, 3, 1).astype(np.int64)
    if d is not None:
        y = convolved(y, d.reshape(len(d), 1, 1, -1), ConvGeometry((1, 1)))
    return convolved(y, w, GEOMETRY) + bias


@needs_library
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("lookup", [False, True])
@pytest.mark.parametrize("result", ["float32", "bfloat16", "bfloat16 with a residual"])
def test_from_floats_to_floats(isa: str, lookup: bool, result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LCNN_ISA", isa)
    *constants, x = drawn(lookup=lookup)
    y = expected(*constants, x)
    residual = None if result == "float32" else np.zeros(1, np.float32)
    if result.endswith("residual"):
        residual = np.random.default_rng(8).integers(-9, 10, y.shape).astype(np.float32)
        y = y + residual
    want = np.clip(y, *CLIP).astype(np.float32)
    got = runtime.session(chain(*constants, residual), native=True).run(None, {"X": x})[0]
    if residual is None:
        np.testing.assert_array_equal(got, want.transpose(0, 3, 1, 2))
        return
    bits = want.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    assert (rounded != want).any()
    padded = np.pad(rounded, ((0, 0), (0, 1), (1, 0), (0, 0)), constant_values=-np.inf)
    rows, columns = rounded.shape[1:3]
    pooled = np.max([padded[:, r : r + rows, c : c + columns] for r in range(2) for c in range(2)], axis=0)
    np.testing.assert_array_equal(got, pooled.transpose(0, 3, 1, 2))


@needs_library
def test_one_number_that_would_add_something_is_refused() -> None:
    *constants, x = drawn(lookup=False)
    zero = runtime.session(chain(*constants, np.zeros(1)), native=True).run(None, {"X": x})[0]
    negative = runtime.session(chain(*constants, np.array([-0.0])), native=True).run(None, {"X": x})[0]
    np.testing.assert_array_equal(negative, zero)
    session = runtime.session(chain(*constants, np.array([1.0])), native=True)
    with pytest.raises(Exception, match=r"'the-conv': input 3 .residual. .* is not zero; it must be 0, for none, or have"):
        session.run(None, {"X": x})


@needs_library
def test_numbers_that_are_none_are_refused() -> None:
    d, w, bias, _ = drawn(lookup=True)
    assert d is not None
    for changed in ((np.full_like(d, np.nan), w, bias), (d, np.full_like(w, np.inf), bias), (d, w, bias * np.nan)):
        with pytest.raises(Exception, match=r"holds .*; values must be finite"):
            runtime.session(chain(*changed, None), native=True)

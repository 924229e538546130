"""The native operators on bytes and bfloat16 in ONNX Runtime, against their definition in NumPy.

Scales have few bits, so that double precision holds what the definition rounds once; the native tests hold it for any.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress import runtime
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET

pytestmark = pytest.mark.skipif(runtime.library_path() is None, reason="the native library is not installed")

TYPES = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.float32): TensorProto.FLOAT}


@dataclass(frozen=True)
class Case:
    """A convolution; ``k`` 0: without a lookup."""

    k: int = 0
    to_bytes: bool = True
    residual: bool = False
    group: int = 1
    batch: int = 2
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 2)
    pads: tuple[int, int, int, int] = (1, 0, 2, 1)
    dilations: tuple[int, int] = (1, 1)

    @property
    def op_type(self) -> str:
        """The operator."""
        name = "LookupConv" if self.k else "Conv"
        return f"QLinear{name}" if self.to_bytes else f"{name}IntegerToFloat"


CASES = [
    Case(k=k, to_bytes=to_bytes, residual=residual, group=group)
    for k in (0, 3) for group in (1, 2) for to_bytes, residual in ((True, False), (True, True), (False, False))
]  # fmt: skip
CASES += [Case(kernel=(1, 1), strides=(2, 2), pads=(0, 0, 0, 0), k=4), Case(dilations=(2, 1)), Case(batch=0)]


def _scales(random, *shape):
    return (random.integers(1, 256, shape) / 4096).astype(np.float32)


def _constants(case: Case, random) -> dict[str, np.ndarray]:
    """The inputs but X, in order; Y is (2, 6, 5, 10)-like and X (2, 7, 9, 8)-like."""
    channels, filters = 8, 10
    depth = channels // case.group
    arrays = {"x_scale": _scales(random, 1), "x_zero_point": np.array([117], np.uint8)}
    if case.k:
        arrays["D"] = random.integers(-128, 128, (case.group * case.k, depth)).astype(np.int8)
        arrays["d_scale"] = _scales(random, case.group * case.k)
        depth = case.k
    arrays["W"] = random.integers(-128, 128, (filters, *case.kernel, depth)).astype(np.int8)
    arrays["w_scale"] = _scales(random, filters) / np.float32(64)
    arrays["bias"] = (random.integers(-256, 256, filters) / 64).astype(np.float32)
    if case.to_bytes:
        arrays |= {"y_scale": np.array([0.125], np.float32), "y_zero_point": np.array([99], np.uint8)}
        arrays["residual"] = np.zeros(1, np.uint8)
        arrays |= {"r_scale": np.array([0.0625], np.float32), "r_zero_point": np.array([3], np.uint8)}
    return arrays


def _session(op_type, inputs, constants, output, **attributes) -> ort.InferenceSession:
    """A model of one node: ``inputs`` are names and arrays like those given at run time, in the node's order."""
    infos = [
        helper.make_tensor_value_info(name, TYPES[a.dtype], [f"{name}{i}" for i in range(a.ndim)])
        for name, a in inputs.items() if a is not None and name not in constants
    ]  # fmt: skip
    node = helper.make_node(op_type, list(inputs), ["Y"], name="the-node", domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node], "g", infos, [helper.make_tensor_value_info("Y", TYPES[np.dtype(output)], None)],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(runtime.library_path()))
    data = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _attributes(case: Case) -> dict[str, object]:
    return {
        "kernel_shape": case.kernel, "strides": case.strides, "pads": case.pads, "dilations": case.dilations,
        "group": case.group, "clip_min": -6.0, "clip_max": 9.0,
    }  # fmt: skip


def _sums(x, w, case, *, unit=False):
    """Integer convolution of NHWC ``x``, whose zero is 0, with (O, kH, kW, K); ``unit``: no strides, padding, dilations."""
    (sh, sw), (dh, dw) = ((1, 1), (1, 1)) if unit else (case.strides, case.dilations)
    top, left, bottom, right = (0, 0, 0, 0) if unit else case.pads
    x = np.pad(x.astype(np.int64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    filters, rows, columns, depth = w.shape
    height, width = (x.shape[1] - dh * (rows - 1) - 1) // sh + 1, (x.shape[2] - dw * (columns - 1) - 1) // sw + 1
    y = np.zeros((len(x), height, width, filters), np.int64)
    for o in range(filters):
        first = o // (filters // case.group) * depth
        for r in range(rows):
            for c in range(columns):
                seen = x[:, r * dh : r * dh + sh * height : sh, c * dw : c * dw + sw * width : sw, first : first + depth]
                y[..., o] += seen[:, :height, :width] @ w[o, r, c].astype(np.int64)
    return y


def _byte(v, zero):
    return np.clip(np.rint(v) + int(zero), 0, 255).astype(np.uint8)


def _expected(case: Case, x, a):
    responses, scale = x.astype(np.int64) - int(a["x_zero_point"][0]), a["x_scale"].astype(np.float64)
    if case.k:
        v = _sums(responses, a["D"][:, None, None], case, unit=True) * (scale * a["d_scale"])
        responses, scale = _byte(v, 128).astype(np.int64) - 128, 1.0
    v = _sums(responses, a["W"], case) * (scale * a["w_scale"].astype(np.float64)) + a["bias"]
    if not case.to_bytes:
        return np.clip(v, -6, 9).transpose(0, 3, 1, 2).astype(np.float32)
    v = (v / a["y_scale"]).astype(np.float32).astype(np.float64)
    if a["residual"].ndim == 4:
        v += (a["residual"].astype(np.int64) - int(a["r_zero_point"][0])) * (a["r_scale"] / a["y_scale"]).astype(np.float64)
    return _byte(np.clip(v.astype(np.float32), -6 / a["y_scale"], 9 / a["y_scale"]), a["y_zero_point"][0])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_is_its_definition(case):
    random = np.random.default_rng(5)
    arrays = _constants(case, random)
    x = random.integers(0, 256, (case.batch, 7, 9, 8)).astype(np.uint8)
    if case.residual:
        arrays["residual"] = random.integers(0, 256, _expected(case, x, arrays).shape).astype(np.uint8)
    given = {"X": x} | ({"residual": arrays["residual"]} if case.residual else {})
    constants = {name: a for name, a in arrays.items() if name not in given}
    session = _session(
        case.op_type, {"X": x} | arrays, constants, np.uint8 if case.to_bytes else np.float32, **_attributes(case)
    )
    got, want = session.run(None, given)[0], _expected(case, x, arrays)
    assert got.shape == want.shape
    assert case.batch == 0 or len(np.unique(want)) > 50
    np.testing.assert_array_equal(got, want)


def test_bytes_and_floats():
    x = np.random.default_rng(1).normal(0, 40, (2, 5, 6, 7)).astype(np.float32)
    scale, zero = np.array([0.5], np.float32), np.array([120], np.uint8)
    constants = {"s": scale, "z": zero}
    there = _session("QuantizeNhwc", {"X": x} | constants, constants, np.uint8)
    y = there.run(None, {"X": x})[0]
    np.testing.assert_array_equal(y, _byte(x / scale, 120).transpose(0, 2, 3, 1))
    back = _session("DequantizeNhwc", {"X": y} | constants, constants, np.float32)
    want = ((y.astype(np.float32) - 120) * scale).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(back.run(None, {"X": y})[0], want)


def test_pooling_and_sums():
    random = np.random.default_rng(2)
    x, b = random.integers(0, 256, (2, 2, 7, 9, 5)).astype(np.uint8)
    window = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "dilations": [1, 1]}
    pooled = _session("NhwcMaxPool", {"X": x}, {}, np.uint8, **window).run(None, {"X": x})[0]
    padded = np.pad(x, ((0, 0), (1, 1), (0, 1), (0, 0)))
    want = np.max([padded[:, r : r + 7 : 2, c : c + 9 : 2] for r in range(3) for c in range(2)], axis=0)
    np.testing.assert_array_equal(pooled, want)

    half, zero, quarter, other = (np.array([v], t) for v, t in ((0.5, "f4"), (7, "u1"), (0.25, "f4"), (33, "u1")))
    scales = {"xs": half, "xz": zero, "ys": quarter, "yz": other}
    average = _session("QLinearGlobalAveragePool", {"X": x} | scales, scales, np.uint8).run(None, {"X": x})[0]
    sums = (x.astype(np.int64) - 7).sum((1, 2), keepdims=True)
    factor = np.float32(0.5 / (0.25 * 63))
    np.testing.assert_array_equal(average, _byte(sums.astype(np.float32) * factor, 33))

    scales = {"as": half, "az": zero, "bs": quarter, "bz": other, "ys": half, "yz": zero}
    inputs = {"A": x, "as": half, "az": zero, "B": b, "bs": quarter, "bz": other, "ys": half, "yz": zero}
    added = _session("QLinearAdd", inputs, scales, np.uint8, clip_min=0.0, clip_max=100.0).run(None, {"A": x, "B": b})[0]
    v = (x.astype(np.int64) - 7) + (b.astype(np.int64) - 33) * 0.5
    np.testing.assert_array_equal(added, _byte(np.clip(v, 0, 200), 7))


@pytest.mark.parametrize(("name", "value", "message"), [
    ("w_scale", np.full(10, -0.5, np.float32), "w_scale holds -0.500000 at 0; scales must be positive"),
    ("bias", np.full(10, np.nan, np.float32), "bias holds nan at 0; values must be finite"),
    ("W", np.zeros((10, 3, 2, 8), np.int8), "input 3 (W) has shape (10, 3, 2, 8); it must be (O, 3, 3, K) by kernel_shape"),
    ("x_scale", np.full(2, 0.5, np.float32), "input 1 (x_scale) has shape (2); it must have 1 elements"),
    ("w_scale", np.full(10, 1e38, np.float32), "w_scale at 0 is"),
])  # fmt: skip
def test_bad_constants_are_refused(name, value, message):
    case = Case()
    arrays = _constants(case, np.random.default_rng(5)) | {name: value}
    if name == "w_scale" and value[0] > 0:
        arrays["y_scale"] = np.array([1e-30], np.float32)
    x = np.zeros((1, 7, 9, 8), np.uint8)
    with pytest.raises(Exception, match="QLinearConv 'the-node': ") as caught:
        _session(case.op_type, {"X": x} | arrays, arrays, np.uint8, **_attributes(case))
    assert message in str(caught.value)


def test_wrong_inputs_are_refused():
    case = Case(residual=True)
    arrays = _constants(case, np.random.default_rng(5))
    x, residual = np.zeros((1, 7, 9, 8), np.uint8), np.zeros((1, 2, 3, 4), np.uint8)
    constants = {name: a for name, a in arrays.items() if name != "residual"}
    session = _session(case.op_type, {"X": x} | arrays | {"residual": residual}, constants, np.uint8, **_attributes(case))
    with pytest.raises(Exception, match=r"input 8 \(residual\) has shape \(1, 2, 3, 4\); it must be \(1\), for none, or"):
        session.run(None, {"X": x, "residual": residual})
    with pytest.raises(Exception, match=r"input 0 \(X\) has shape \(1, 7, 9, 7\); it must be \(N, H, W, 8\)"):
        session.run(None, {"X": x[..., :7], "residual": residual})


def _half(a) -> np.ndarray:
    """Bits of bfloat16 of numbers that it can hold."""
    return (np.ascontiguousarray(a, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _half_tensor(name, a):
    tensor = helper.make_tensor(name, TensorProto.BFLOAT16, a.shape, _half(a).tobytes(), raw=True)
    assert tensor.data_type == TensorProto.BFLOAT16
    return tensor


@pytest.mark.parametrize("lookup", [False, True])
@pytest.mark.parametrize("to_float", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_bfloat16_from_floats_to_floats(lookup, to_float, residual):
    """Numbers with few bits make all sums exact, but for the rounding of the results."""
    case, random = Case(k=3 if lookup else 0), np.random.default_rng(7)
    x = random.integers(-8, 9, (2, 8, 7, 9)).astype(np.float32)
    d = random.integers(-2, 3, (3, 8)).astype(np.float32)
    w = random.integers(-8, 9, (10, 3, 3, 3 if lookup else 8)).astype(np.float32)
    bias = random.integers(-9, 10, 10).astype(np.float32)
    nhwc = x.transpose(0, 2, 3, 1)
    y = _sums(_sums(nhwc, d[:, None, None], case, unit=True) if lookup else nhwc, w, case) + bias
    added = random.integers(-9, 10, y.shape).astype(np.float32)
    adds = residual and not to_float
    want = np.clip(y + (added if adds else 0), -500, 600).astype(np.float32)

    name = ("Bfloat16LookupConv" if lookup else "Bfloat16Conv") + ("ToFloat" if to_float else "")
    inputs = ["H", *(["D"] if lookup else []), "W", "bias", *([] if to_float else ["R"])]
    attributes = _attributes(case) | {"clip_min": -500.0, "clip_max": 600.0}
    window = {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [0, 1, 1, 0], "dilations": [1, 1]}
    nodes = [
        helper.make_node("ToBfloat16Nhwc", ["X"], ["H"], domain=DOMAIN),
        helper.make_node(name, inputs, ["Y" if to_float else "Z"], domain=DOMAIN, **attributes),
    ]
    if not to_float:
        nodes.append(helper.make_node("Bfloat16NhwcMaxPool", ["Z"], ["P"], domain=DOMAIN, **window))
        nodes.append(helper.make_node("FromBfloat16Nhwc", ["P"], ["Y"], domain=DOMAIN))
    initializers = [_half_tensor("W", w), _half_tensor("D", d), _half_tensor("R", added if adds else np.zeros(1))]
    initializers.append(numpy_helper.from_array(bias, "bias"))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, list("nchw"))],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)], initializers,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(runtime.library_path()))
    data = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    got = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"X": x})[0]
    if to_float:
        np.testing.assert_array_equal(got, want.transpose(0, 3, 1, 2))
        return
    bits = want.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    padded = np.pad(rounded, ((0, 0), (0, 1), (1, 0), (0, 0)), constant_values=-np.inf)
    rows, columns = rounded.shape[1:3]
    pooled = np.max([padded[:, r : r + rows, c : c + columns] for r in range(2) for c in range(2)], axis=0)
    np.testing.assert_array_equal(got, pooled.transpose(0, 3, 1, 2))

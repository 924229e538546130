"""Operators on bytes: each instruction set against the definition, bit by bit, and the bodies within a step."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from byte_models import CASES, ByteCase, file_of, with_constants
from command_line import needs_library
from half_models import rounded
from isas import ISAS
from onnx import helper

from lcnn_compress import runtime
from lcnn_compress.errors import LcnnError
from lcnn_compress.operators import int8_conv as ops
from lcnn_compress.operators import narrow
from lcnn_compress.operators.common import DOMAIN, NO_BOUND
from lcnn_compress.operators.geometry import ConvGeometry

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_result = pytest.mark.parametrize("to_bytes", [True, False], ids=["bytes", "floats"])


def check_native(model: bytes, given: dict[str, np.ndarray], want: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in ISAS:
        monkeypatch.setenv("LCNN_ISA", isa)
        assert runtime.isa() == isa
        for threads in (1, 3):
            got = runtime.session(model, native=True, threads=threads).run(None, given)[0]
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want, err_msg=isa)


@needs_library
@each_case
@each_result
def test_every_instruction_set_gives_the_bits_of_the_definition(
    case: ByteCase, to_bytes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.residual and not to_bytes:
        pytest.skip("results in float32 have no residual")
    want, given = case.expected(to_bytes=to_bytes), case.inputs()
    check_native(case.model(to_bytes=to_bytes), given, want, monkeypatch)


@each_case
@each_result
def test_bodies_differ_by_one_step_at_most(case: ByteCase, to_bytes: bool) -> None:
    if case.residual and not to_bytes:
        pytest.skip("results in float32 have no residual")
    want = case.expected(to_bytes=to_bytes).astype(np.float64)
    got = runtime.session(case.model(to_bytes=to_bytes), native=False).run(None, case.inputs())[0].astype(np.float64)
    assert got.shape == want.shape
    if not want.size:
        return
    # A step of S, which a sum near a half may round the other way, is one weight.
    step = 1 if to_bytes else 128 * float(case.constants()["w_scale"].max()) if case.rows else 1e-4
    off = np.abs(got - want)
    assert off.max() <= step
    assert (off > 1e-4).mean() < 0.01


@each_case
def test_results_in_bfloat16_are_those_in_float32_rounded(case: ByteCase, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.residual:
        pytest.skip("results in bfloat16 have no residual")
    model = onnx.load_from_string(case.model(to_bytes=False))
    node = model.graph.node[0]
    node.op_type, node.output[0] = ops.TO_BFLOAT16[node.op_type], "H"
    model.graph.node.append(helper.make_node("Cast", ["H"], ["Y"], to=onnx.TensorProto.FLOAT))
    del model.functions[:]
    model.functions.extend(narrow.bodies(model))
    given, want = case.inputs(), case.expected(to_bytes=False).transpose(0, 2, 3, 1)
    if runtime.library_path() is not None:
        check_native(model.SerializeToString(), given, rounded(want), monkeypatch)
    got = runtime.session(model.SerializeToString(), native=False).run(None, given)[0]
    assert got.shape == want.shape
    # A step of S, which a sum near a half may round the other way, is one weight.
    step = 128 * float(case.constants()["w_scale"].max()) if case.rows else 1e-4
    np.testing.assert_allclose(got, want, rtol=2.0**-8, atol=step)


@needs_library
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_scale": np.float32(0)}, "x_scale holds 0.0"),
        ({"x_scale": np.float32(np.nan)}, "x_scale holds nan"),
        ({"y_scale": np.float32(-1)}, "y_scale holds -1"),
        ({"w_scale": np.full(32, np.inf, np.float32)}, "w_scale holds inf"),
        ({"w_scale": np.ones(31, np.float32)}, "must have 32 elements"),
        ({"bias": np.full(32, np.nan, np.float32)}, "bias holds nan"),
        ({"W": np.ones((32, 3, 2, 5), np.int8)}, "by kernel_shape"),
        ({"W": np.ones((32, 3, 3, 6), np.int8)}, "as in W"),
        ({"W": np.ones((32, 3, 3), np.int8)}, "must have rank 4"),
        ({"D": np.ones((0, 16), np.int8), "d_scale": np.ones(0, np.float32)}, "as in W"),
        ({"d_scale": np.zeros(5, np.float32)}, "d_scale holds 0.0"),
        ({"x_scale": np.full(2, 0.5, np.float32)}, r"input 1 \(x_scale\) has shape \(2\); it must have 1 elements"),
        ({"w_scale": np.full(32, 1e38, np.float32), "y_scale": np.float32(1e-30)}, "w_scale at 0 is"),
    ],
)
def test_constants_that_are_none_are_refused(changes, message: str) -> None:
    case = with_constants(next(case for case in CASES if case.name == "lookup"), **changes)
    with pytest.raises(LcnnError, match=message):
        runtime.session(case.model(to_bytes=True), native=True)


@needs_library
def test_sums_that_could_leave_32_bits_are_refused() -> None:
    wide = ByteCase("wide", 65900, 1, (1, 1), ConvGeometry((1, 1)))
    with pytest.raises(LcnnError, match="may exceed 32 bits"):
        runtime.session(wide.model(to_bytes=True), native=True)


@needs_library
def test_wrong_shapes_are_refused_when_they_come() -> None:
    case = next(case for case in CASES if case.name == "residual")
    session = runtime.session(case.model(to_bytes=True), native=True)
    given = case.inputs()
    with pytest.raises(Exception, match=r"must be \(N, H, W, 16\)"):
        session.run(None, {**given, "X": given["X"][..., :15].copy()})
    for other in (given["residual"][:, :6].copy(), np.zeros((1, 1, 1, 1), np.uint8)):
        with pytest.raises(Exception, match=r"residual.* has shape .* it must be"):
            session.run(None, {**given, "residual": other})


@needs_library
@pytest.mark.parametrize("rows", [0, 5])
def test_one_byte_that_would_add_something_is_refused(rows: int) -> None:
    """No residual is the byte that stands for 0: the definition would add any other to every result, kernels would not."""
    case = ByteCase("one byte", 16, 32, (7, 9), rows=rows, changes={"residual": np.array([12], np.uint8)})
    session = runtime.session(case.model(to_bytes=True), native=True)
    with pytest.raises(Exception, match=r"'the-conv': input .* is not zero; it must be r_zero_point, 11, for none, or have"):
        session.run(None, case.inputs())


def edge(op_type: str, given: dict[str, np.ndarray], constants: dict[str, np.ndarray], order: list[str], **attributes) -> bytes:
    node = helper.make_node(op_type, order, ["Y"], name="the-node", domain=DOMAIN, **attributes)
    floats = next(iter(given.values())).dtype == np.float32
    return file_of(node, list(given), constants, to_bytes=op_type != ops.DEQUANTIZE, floats=floats)


def check_edge(model: bytes, given: dict[str, np.ndarray], want: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold a node against what it should give: natively bit by bit, by its body within a step."""
    if runtime.library_path() is not None:
        check_native(model, given, want, monkeypatch)
    body = runtime.session(model, native=False).run(None, given)[0]
    assert body.shape == want.shape
    if want.size:
        step = 1 if want.dtype == np.uint8 else 1e-6
        assert np.abs(body.astype(np.float64) - want).max() <= step


SHAPES = [(1, 3, 7, 5), (2, 1, 9, 4), (1, 70, 6, 11), (3, 64, 1, 1), (0, 3, 4, 4), (1, 3, 300, 210)]


@pytest.mark.parametrize("shape", SHAPES)
def test_planes_of_float32_become_bytes_and_back(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, shape).astype(np.float32)
    if x.size:
        x.flat[:3] = 1e30, -1e30, 0
    scale, zero = np.float32(0.03), np.uint8(120)
    want = np.clip(np.rint(x / scale) + 120, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    held = {"y_scale": scale, "y_zero_point": zero}
    check_edge(edge(ops.QUANTIZE, {"X": x}, held, ["X", *held]), {"X": x}, want, monkeypatch)
    held = {"x_scale": scale, "x_zero_point": zero}
    back = ((want.astype(np.int32) - 120).astype(np.float32) * scale).transpose(0, 3, 1, 2)
    check_edge(edge(ops.DEQUANTIZE, {"X": want}, held, ["X", *held]), {"X": want}, back, monkeypatch)


@pytest.mark.parametrize("shape", [*SHAPES, (5, 9), (0,)])
def test_numbers_in_bfloat16_become_bytes_in_the_same_order_and_back(shape, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rounded(np.random.default_rng(0).normal(0, 2, shape).astype(np.float32))
    if x.size:
        x.flat[:3] = rounded(np.array([1e30, -1e30, 0], np.float32))
    scale, zero = np.float32(0.03), np.uint8(120)
    bytes_of_x = np.clip(np.rint(x / scale) + 120, 0, 255).astype(np.uint8)
    back = rounded((bytes_of_x.astype(np.int32) - 120).astype(np.float32) * scale)
    for op_type, given, wanted in ((ops.FROM_BFLOAT16, x, bytes_of_x), (ops.BYTES_TO_BFLOAT16, bytes_of_x, back)):
        to_bytes = op_type == ops.FROM_BFLOAT16
        held = {"y_scale" if to_bytes else "x_scale": scale, "y_zero_point" if to_bytes else "x_zero_point": zero}
        node = helper.make_node(op_type, ["H" if to_bytes else "X", *held], ["Y" if to_bytes else "H"], domain=DOMAIN)
        model = onnx.load_from_string(file_of(node, ["X"], held, to_bytes=to_bytes, floats=to_bytes))
        for value in (model.graph.input[0], model.graph.output[0]):
            del value.type.tensor_type.shape.dim[len(shape) :]
        kind = onnx.TensorProto.BFLOAT16 if to_bytes else onnx.TensorProto.FLOAT
        cast = helper.make_node("Cast", ["X" if to_bytes else "H"], ["H" if to_bytes else "Y"], to=kind)
        model.graph.node.insert(0 if to_bytes else 1, cast)
        check_edge(model.SerializeToString(), {"X": given}, wanted, monkeypatch)


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "shape"),
    [
        ((3, 3), (2, 2), (1, 1, 1, 1), (2, 9, 11, 5)),
        ((2, 2), (2, 2), (0, 0, 0, 0), (1, 8, 9, 64)),
        ((2, 5), (1, 3), (1, 2, 0, 4), (3, 6, 20, 1)),
        ((3, 3), (2, 2), (1, 1, 1, 1), (1, 120, 120, 48)),
    ],
)
def test_max_pool_of_bytes(kernel, stride, pads, shape, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    padded = np.pad(x, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (1, 2))[:, :: stride[0], :: stride[1]]
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": pads, "dilations": (1, 1)}
    check_edge(edge(ops.BYTE_MAX_POOL, {"X": x}, {}, ["X"], **attributes), {"X": x}, windows.max((-2, -1)), monkeypatch)


@pytest.mark.parametrize("shape", [(2, 7, 7, 512), (1, 1, 1, 3), (3, 5, 4, 10)])
def test_average_of_planes(shape, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    held = {
        "x_scale": np.float32(0.02), "x_zero_point": np.uint8(4), "y_scale": np.float32(0.013), "y_zero_point": np.uint8(30),
    }  # fmt: skip
    factor = np.float32(np.float64(held["x_scale"]) / (np.float64(held["y_scale"]) * shape[1] * shape[2]))
    sums = (x.astype(np.int64) - 4).sum((1, 2), keepdims=True)
    want = np.clip(np.rint(sums.astype(np.float32) * factor) + 30, 0, 255).astype(np.uint8)
    check_edge(edge(ops.BYTE_AVERAGE, {"X": x}, held, ["X", *held]), {"X": x}, want, monkeypatch)


@pytest.mark.parametrize("clip", [(-NO_BOUND, NO_BOUND), (0.0, 6.0)])
def test_sum_of_bytes(clip, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (2, 9, 8, 13)).astype(np.uint8) for _ in range(2))
    held = {
        "a_scale": np.float32(0.02), "a_zero_point": np.uint8(4), "b_scale": np.float32(0.05), "b_zero_point": np.uint8(90),
        "y_scale": np.float32(0.04), "y_zero_point": np.uint8(60),
    }  # fmt: skip
    steps = [np.float32(np.float64(held[f"{n}_scale"]) / np.float64(held["y_scale"])) for n in "ab"]
    first = (a.astype(np.int32) - 4).astype(np.float32) * steps[0]
    v = ((b.astype(np.float64) - 90) * steps[1].astype(np.float64) + first.astype(np.float64)).astype(np.float32)
    with np.errstate(over="ignore"):
        low, high = (np.float32(np.float64(bound) / np.float64(held["y_scale"])) for bound in clip)
    want = np.clip(np.rint(np.minimum(np.maximum(v, low), high)) + 60, 0, 255).astype(np.uint8)
    order = ["A", "a_scale", "a_zero_point", "B", "b_scale", "b_zero_point", "y_scale", "y_zero_point"]
    model = edge(ops.BYTE_ADD, {"A": a, "B": b}, held, order, clip_min=clip[0], clip_max=clip[1])
    check_edge(model, {"A": a, "B": b}, want, monkeypatch)


def test_bodies_are_those_of_the_nodes_there_are() -> None:
    model = onnx.load_from_string(CASES[0].model(to_bytes=True))
    assert [function.name for function in model.functions] == [ops.QLINEAR_CONV]
    with pytest.raises(ValueError, match="no operator on bytes"):
        ops.edge_body("Median")

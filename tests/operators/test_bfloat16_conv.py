"""Operators on bfloat16: their bodies in any ONNX Runtime, and every instruction set, against whole numbers, bit by bit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from command_line import needs_library
from half_models import HALF_CASES, HalfCase, rounded
from isas import ISAS
from onnx import TensorProto, helper, numpy_helper

from lcnn_compress import runtime
from lcnn_compress.errors import LcnnError
from lcnn_compress.operators import bfloat16_conv as ops
from lcnn_compress.operators import narrow
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET


@pytest.mark.parametrize("to_bfloat16", [False, True])
@pytest.mark.parametrize("case", HALF_CASES, ids=lambda case: case.name)
def test_bodies_and_kernels_give_the_definition(case: HalfCase, to_bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, want = case.model(to_bfloat16=to_bfloat16), case.input(), case.expected(to_bfloat16=to_bfloat16)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    np.testing.assert_array_equal(runtime.session(model, native=False).run(None, {"X": x})[0], want)
    for isa in ISAS if runtime.library_path() is not None else ():
        monkeypatch.setenv("LCNN_ISA", isa)
        np.testing.assert_array_equal(runtime.session(model, native=True).run(None, {"X": x})[0], want)


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_library), False])
def test_pools_of_bfloat16(native: bool) -> None:
    pool = helper.make_node(ops.MAX_POOL, ["H"], ["P"], domain=DOMAIN, **{
        "kernel_shape": (2, 3), "strides": (2, 1), "pads": (0, 1, 1, 0), "dilations": (1, 1),
    })  # fmt: skip
    nodes = [
        helper.make_node(ops.FROM_FLOAT, ["X"], ["H"], domain=DOMAIN), pool,
        helper.make_node(ops.TO_FLOAT, ["P"], ["Y"], domain=DOMAIN),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, list("nchw"))],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [f"y{i}" for i in range(4)])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model.functions.extend(narrow.bodies(model))
    assert {function.name for function in model.functions} == set(ops.EDGES)
    x = np.random.default_rng(0).normal(0, 2, (2, 5, 7, 8)).astype(np.float32)
    padded = np.pad(rounded(x), ((0, 0), (0, 0), (0, 1), (1, 0)), constant_values=-np.inf)
    want = np.lib.stride_tricks.sliding_window_view(padded, (2, 3), (2, 3))[:, :, ::2].max((-2, -1))
    got = runtime.session(model.SerializeToString(), native=native).run(None, {"X": x})[0]
    np.testing.assert_array_equal(got, want)


@needs_library
@pytest.mark.parametrize("rows", [0, 5])
def test_one_number_that_would_add_something_is_refused(rows: int) -> None:
    """No residual is a zero of one element: the definition would add any other to every result, kernels would not."""
    case = HalfCase("one number", 16, 32, (7, 9), rows=rows)
    zero = runtime.session(case.model(to_bfloat16=True), native=True).run(None, {"X": case.input()})[0]
    negative = runtime.session(with_constants(case, residual=np.array([-0.0])), native=True).run(None, {"X": case.input()})[0]
    np.testing.assert_array_equal(negative, zero)
    session = runtime.session(with_constants(case, residual=np.array([1.0])), native=True)
    with pytest.raises(Exception, match=r"'the-conv': input . .residual. .* is not zero; it must be 0, for none, or have"):
        session.run(None, {"X": case.input()})


@needs_library
def test_numbers_that_are_none_are_refused() -> None:
    case = next(case for case in HALF_CASES if case.rows)
    for name, value in case.constants().items():
        for number in (np.nan, np.inf):
            with pytest.raises(LcnnError, match=r"holds .*; values must be finite"):
                runtime.session(with_constants(case, **{name: np.full_like(value, number)}), native=True)


def with_constants(case: HalfCase, **changes: np.ndarray) -> bytes:
    """Return the file of a case, its result in bfloat16, with other constants."""
    model = onnx.load_from_string(case.model(to_bfloat16=True))
    for tensor in model.graph.initializer:
        if tensor.name in changes:
            changed = changes[tensor.name].astype(np.float32)
            is_float = tensor.data_type == TensorProto.FLOAT
            made = numpy_helper.from_array(changed, tensor.name) if is_float else ops.bfloat16_tensor(tensor.name, changed)
            tensor.CopyFrom(made)
    return bytes(model.SerializeToString())


def test_constants_are_rounded_to_the_nearest() -> None:
    values = np.random.default_rng(0).normal(0, 3, (4, 5)).astype(np.float32)
    values[0, :2] = 1 + 2**-8, 1 + 3 * 2**-8
    tensor = ops.bfloat16_tensor("a", values)
    assert (tensor.data_type, list(tensor.dims)) == (TensorProto.BFLOAT16, [4, 5])
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float32), rounded(values))


def test_bodies_are_those_of_the_nodes_there_are() -> None:
    model = onnx.load_from_string(HALF_CASES[0].model(to_bfloat16=False))
    assert [function.name for function in model.functions] == [ops.CONV_TO_FLOAT, ops.FROM_FLOAT]
    with pytest.raises(ValueError, match="no operator on bfloat16"):
        ops.edge_body("Median")

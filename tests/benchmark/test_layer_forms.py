"""One model for all forms of a layer: what it holds, and that it runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from command_line import needs_library

from lcnn_compress import runtime
from lcnn_compress.benchmark.layer_forms import ORDINARY, Form, LookupForm, NarrowForm, Rounding, Shape, forms_model
from lcnn_compress.operators.geometry import ConvGeometry

SHAPE = Shape(8, 6, ConvGeometry((3, 3), padding=(1, 1, 1, 1)), (7, 5))
PIXELS = Shape(8, 6, ConvGeometry((1, 1), groups=2), (1, 1), batch=5)
FORMS: list[Form] = [LookupForm(4, 30), LookupForm(0, 100), LookupForm(2, 108)]


def test_a_model_holds_every_form_with_the_lookups_it_names() -> None:
    model = forms_model(SHAPE, FORMS)
    onnx.checker.check_model(model)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    layers = [(node.name, node.op_type) for node in model.graph.node if node.op_type in ("Conv", "LookupConv")]
    assert layers == [("0", "LookupConv"), ("1", "LookupConv"), ("2/dictionary", "Conv"), ("2", "Conv")]
    assert [value.name for value in model.graph.output] == ["first0", "first1", "first2"]  # the whole would stay in memory
    assert [constants[f"{i}.D"].shape for i in range(2)] == [(4, 8), (8, 8)]
    assert constants["2/dictionary.weight"].shape == (2, 8, 1, 1)
    np.testing.assert_array_equal(constants["1.D"], np.eye(8))
    assert [int(np.count_nonzero(constants[f"{i}.coefficients"])) for i in range(2)] == [30, 100]
    assert constants["2.kernel"].shape == (6, 2, 3, 3)
    with_dense = forms_model(SHAPE, [ORDINARY, *FORMS])
    onnx.checker.check_model(with_dense)
    kinds = [node.op_type for node in with_dense.graph.node if node.op_type not in ("Slice", "Cast")]
    assert kinds == ["Conv", "LookupConv", "LookupConv", "Conv", "Conv"]


@needs_library
def test_grouped_and_batched_shapes_run() -> None:
    session = runtime.session(forms_model(PIXELS, [ORDINARY, LookupForm(3, 7), LookupForm(0, 9)]).SerializeToString())
    outputs = session.run(None, {"X": np.ones((5, 8, 1, 1), np.float32)})
    assert [y.shape for y in outputs] == [(1, 1, 1, 1)] * 3


@needs_library
@pytest.mark.parametrize(("kernel", "first_stage"), [((1, 1), "Gemm"), ((3, 2), "Conv")])
def test_linear_layers_are_matrix_products_where_they_are_not_lookups(kernel: tuple[int, int], first_stage: str) -> None:
    shape = Shape(8, 6, ConvGeometry(kernel), kernel, batch=5, linear=True)
    model = forms_model(shape, [ORDINARY, LookupForm(3, 7), LookupForm(2, 12 * shape.geometry.taps)])
    found = [node.op_type for node in model.graph.node if node.name and node.op_type != "Slice"]
    assert found == ["Gemm", "LookupConv", first_stage, "Gemm"]
    onnx.checker.check_model(model)
    outputs = runtime.session(model.SerializeToString()).run(None, {"X": np.ones((5, 8, *kernel), np.float32)})
    assert [y.shape for y in outputs] == [(1, 1)] * 3


@needs_library
@pytest.mark.parametrize(("arithmetic", "step"), [("int8", "QuantizeNhwc"), ("bfloat16", "ToBfloat16Nhwc")])
@pytest.mark.parametrize("is_timed", [False, True])
@pytest.mark.parametrize("shape", [SHAPE, PIXELS, Shape(8, 6, ConvGeometry((3, 2)), (3, 2), linear=True)])
def test_narrow_forms_read_numbers_made_once(shape: Shape, is_timed: bool, arithmetic: str, step: str) -> None:
    dense, lookup, rounding = NarrowForm(arithmetic, 0), NarrowForm(arithmetic, 3), Rounding(arithmetic)
    forms = [ORDINARY, LookupForm(2, 9), *([rounding] if is_timed else []), dense, lookup]
    model = forms_model(shape, forms)
    onnx.checker.check_model(model)
    found = {node.op_type: node.name for node in model.graph.node}
    assert [node.op_type for node in model.graph.node].count(step) == 1
    # Each form is a node of the name that its time is looked for under.
    prefix = "QLinear" if arithmetic == "int8" else "Bfloat16"
    assert found[f"{prefix}Conv"] == str(forms.index(dense))
    assert found[f"{prefix}LookupConv"] == str(forms.index(lookup))
    assert found[step] == (str(forms.index(rounding)) if is_timed else f"rounding to {arithmetic}")
    session = runtime.session(model.SerializeToString())
    outputs = session.run(None, {"X": np.ones((shape.batch, 8, *shape.size), np.float32)})
    assert [y.size for y in outputs] == [1] * len(forms)


@needs_library
def test_both_kinds_of_narrow_numbers_are_in_one_model() -> None:
    forms: list[Form] = [ORDINARY, *(NarrowForm(kind, rows) for kind in ("bfloat16", "int8") for rows in (0, 2))]
    session = runtime.session(forms_model(SHAPE, forms).SerializeToString())
    assert len(session.run(None, {"X": np.ones((1, 8, 7, 5), np.float32)})) == len(forms)

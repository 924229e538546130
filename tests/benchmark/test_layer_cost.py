"""Times of lookup convolutions: measured once, kept by shape and machine, and never a reason to fail."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import needs_library

from lcnn_compress import runtime
from lcnn_compress.benchmark.layer_cost import ORDINARY, Form, LookupForm, Shape, default_cache, forms_model, time_forms
from lcnn_compress.operators.geometry import ConvGeometry

SHAPE = Shape(8, 6, ConvGeometry((3, 3), padding=(1, 1, 1, 1)), (7, 5))
FORMS: list[Form] = [LookupForm(4, 30), LookupForm(0, 100), LookupForm(2, 108)]


def three_halves(shape: Shape, forms: Sequence[Form], threads: int) -> dict[Form, float]:
    """A measurement by which every form takes 1.5 ms."""
    del shape, threads
    return dict.fromkeys(forms, 1.5)


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
    shape = Shape(8, 6, ConvGeometry((1, 1), groups=2), (1, 1), batch=5)
    session = runtime.session(forms_model(shape, [ORDINARY, LookupForm(3, 7), LookupForm(0, 9)]).SerializeToString())
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
def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    first = time_forms({SHAPE: [ORDINARY, *FORMS]}, cache=tmp_path)
    assert all(ms > 0 for ms in first[SHAPE].values())
    asked: list[list[Form]] = []

    def fake(shape: Shape, forms: Sequence[Form], threads: int) -> dict[Form, float]:
        asked.append([*forms])
        return three_halves(shape, forms, threads) | {ORDINARY: 3.0}

    assert time_forms({SHAPE: FORMS[:2]}, cache=tmp_path, measure=fake) == {
        SHAPE: {form: first[SHAPE][form] for form in FORMS[:2]}
    }
    assert asked == []
    more = time_forms({SHAPE: [ORDINARY, FORMS[0], LookupForm(1, 5)]}, cache=tmp_path, measure=fake)[SHAPE]
    assert asked == [[ORDINARY, LookupForm(1, 5)]]
    # Half as long as the ordinary convolution, whatever the machine's speed was before and is now.
    dense_ms = first[SHAPE][ORDINARY]
    assert more == {ORDINARY: dense_ms, FORMS[0]: first[SHAPE][FORMS[0]], LookupForm(1, 5): pytest.approx(dense_ms / 2)}
    time_forms({SHAPE: FORMS[:1]}, threads=2, cache=tmp_path, measure=fake)  # another number of threads is another machine
    assert asked[1:] == [FORMS[:1]]
    assert len(list(tmp_path.glob("layer-times-*.json"))) == 2
    other = Shape(8, 6, ConvGeometry((3, 3), padding=(1, 1, 1, 1)), (7, 6))
    time_forms({other: FORMS[:1]}, cache=tmp_path, measure=fake)
    assert asked[2:] == [FORMS[:1]]


@needs_library
@pytest.mark.parametrize("content", ["", "{", "[]", '{"times": {"a": 3}}', '{"times": {"a": {"b": "c"}}}'])
def test_a_damaged_cache_is_replaced(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    time_forms({SHAPE: FORMS}, cache=tmp_path, measure=three_halves)
    (path,) = tmp_path.glob("layer-times-*.json")
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert set(time_forms({SHAPE: FORMS}, cache=tmp_path, measure=three_halves)[SHAPE].values()) == {1.5}
    assert "layers are timed anew" in caplog.text
    assert json.loads(path.read_text())["times"].keys() == {SHAPE.key}


@needs_library
def test_a_folder_that_cannot_be_written_only_costs_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        times = time_forms({SHAPE: FORMS}, cache=tmp_path / "file" / "below", measure=three_halves)
    assert times[SHAPE][FORMS[0]] == 1.5
    assert "layer times are not kept" in caplog.text


@needs_library
def test_the_file_of_times_is_as_it_was(tmp_path: Path) -> None:
    time_forms({SHAPE: [LookupForm(4, 30, 8), ORDINARY]}, cache=tmp_path, measure=three_halves)
    (path,) = tmp_path.glob("layer-times-*.json")
    held = json.loads(path.read_text())
    assert held["times"] == {"8 6 3,3 1,1 1,1,1,1 1,1 1 7,5 1 0": {"-1 0 1": 1.5, "4 30 8": 1.5}}
    assert set(held["conditions"]) == {"cpu", "cores", "isa", "onnxruntime", "method", "threads", "library"}


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "lcnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG base directory specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "lcnn"

"""What else runs the dense net: what is written, when it counts as wrong, and what is said of what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_onnx import write

from lcnn_compress import runtime
from lcnn_compress.benchmark import rivals
from lcnn_compress.benchmark.bench_settings import BenchSettings
from lcnn_compress.benchmark.rivals import (
    KINDS,
    LARGEST_ERROR,
    ONNX_INT8,
    OPENVINO_DEFAULT,
    OPENVINO_INT8,
    RivalKind,
    calibration_batches,
    file_bytes,
    make_rivals,
    output_error,
)
from lcnn_compress.benchmark.timing import ONNXRUNTIME, OPENVINO
from lcnn_compress.errors import DataError

SHAPE = (1, 3, 8, 8)
needs_openvino = pytest.mark.skipif(not OPENVINO_DEFAULT.is_installed, reason="openvino is not installed")
needs_nncf = pytest.mark.skipif(not OPENVINO_INT8.is_installed, reason="openvino and nncf are not installed")


@pytest.fixture
def dense_file(tmp_path: Path) -> Path:
    return write(tmp_path, lookup=False)


def test_int8_weights_have_a_scale_for_each_channel(dense_file: Path, tmp_path: Path) -> None:
    made = make_rivals(dense_file, tmp_path, SHAPE, BenchSettings(), kinds=(ONNX_INT8,))
    assert [(row.name, row.engine, row.precision, row.problem) for row in made.rows] == [
        ("ONNX Runtime int8", ONNXRUNTIME, "int8", None)
    ]
    path = made.files["ONNX Runtime int8"].path
    assert file_bytes(path) == path.stat().st_size
    model = onnx.load(path)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = sorted(
        (str(tensors[node.input[0]].dtype), tensors[node.input[0]].shape[:2], tensors[node.input[1]].shape)
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors and tensors[node.input[0]].ndim == 4
    )
    assert weights == [("int8", (16, 3), (16,)), ("int8", (16, 16), (16,)), ("int8", (16, 16), (16,))]


def test_the_error_is_that_on_the_images_ranges_come_from(dense_file: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(7).uniform(0, 1, (5, 3, 8, 8)).astype(np.float32)
    made = make_rivals(dense_file, tmp_path, SHAPE, BenchSettings(), images, (ONNX_INT8,))
    paths = dense_file, made.files["ONNX Runtime int8"].path
    want, got = (
        np.stack([runtime.session(path, threads=1).run(None, {"x": x[None]})[0] for x in images]).astype(np.float64)
        for path in paths
    )
    assert made.rows[0].output_error == pytest.approx(np.sqrt(((got - want) ** 2).mean()) / want.std(), rel=1e-6)
    assert made.images == "5 images given"
    assert make_rivals(dense_file, tmp_path, SHAPE, BenchSettings(), kinds=()).images == "4 random images"


def test_what_is_not_installed_is_a_row_that_says_how_to_get_it(dense_file: Path, tmp_path: Path) -> None:
    absent = RivalKind(OPENVINO, "int8", ("no_package_of_this_name", "nor_of_this"))
    made = make_rivals(dense_file, tmp_path, SHAPE, BenchSettings(), kinds=(absent,))
    assert [row.problem for row in made.rows] == ["not installed (pip install no_package_of_this_name nor_of_this)"]
    assert made.files == {}


def test_without_rivals_nothing_is_made(dense_file: Path, tmp_path: Path) -> None:
    made = make_rivals(dense_file, tmp_path, SHAPE, BenchSettings(rivals=False))
    assert (made.rows, made.files) == ((), {})


@pytest.mark.parametrize(("error", "problem"), [
    (LARGEST_ERROR, None),
    (1.4, "wrong: its outputs are off by 1.40 of their spread, more than 0.5"),
    (None, "wrong: its outputs are not finite"),
])  # fmt: skip
def test_a_rival_with_wrong_outputs_is_not_timed(
    error: float | None, problem: str | None, dense_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some releases of int8 kernels are wrong on some processors."""
    monkeypatch.setattr(rivals, "run_child", lambda *_: {"precision": "int8", "output_error": error})
    made = make_rivals(dense_file, tmp_path, SHAPE, BenchSettings(), kinds=(ONNX_INT8,))
    assert (made.rows[0].output_error, made.rows[0].problem) == (error, problem)
    assert list(made.files) == ([] if problem else ["ONNX Runtime int8"])


def test_a_net_that_an_engine_cannot_take_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no net")
    made = make_rivals(tmp_path / "bad.onnx", tmp_path, SHAPE, BenchSettings(), kinds=(ONNX_INT8,))
    assert made.rows[0].problem is not None
    assert made.rows[0].problem.startswith("cannot be made (bad.onnx: ONNX Runtime")
    assert made.files == {}


def test_images_come_in_the_batches_that_the_file_takes(tmp_path: Path) -> None:
    open_file, of_two = write(tmp_path, lookup=False), write(tmp_path, lookup=False, batch=2)
    np.save(tmp_path / "x.npy", np.arange(5 * 192, dtype=np.float32).reshape(5, 3, 8, 8))
    for path, sizes in ((open_file, [1] * 5), (of_two, [2, 2])):
        found = calibration_batches(path, SHAPE, str(tmp_path / "x.npy"))
        assert [len(x) for x in found] == sizes
        np.testing.assert_array_equal(np.concatenate(found), np.load(tmp_path / "x.npy")[: sum(sizes)])
    assert [x.shape for x in calibration_batches(of_two, SHAPE)] == [(2, 3, 8, 8)] * 4
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(DataError, match=r"^1 images to calibrate with; dense2.onnx takes 2 at once: give more"):
        calibration_batches(of_two, SHAPE, str(tmp_path / "x.npy"))


def test_the_error_is_a_part_of_the_spread_of_the_worst_output() -> None:
    want = [[np.array([0.0, 4.0]), np.array([1.0])], [np.array([4.0, 0.0]), np.array([1.0])]]
    off_by_one = [[y + 1 for y in outputs] for outputs in want]
    assert output_error(want, want) == 0
    assert output_error([[y[0]] for y in want], [[y[0]] for y in off_by_one]) == 1 / 2  # the spread of 0, 4, 4, 0 is 2
    assert output_error(want, off_by_one) == 1  # an output of 1 everywhere has no spread
    assert output_error([[np.zeros(2)]], [[np.full(2, 0.25)]]) == 0.25
    for value in (np.nan, np.inf):
        assert output_error([[np.zeros(2)]], [[np.array([0, value])]]) is None


@needs_openvino
def test_openvino_computes_as_it_does_by_default(dense_file: Path, tmp_path: Path) -> None:
    made = make_rivals(dense_file, tmp_path, SHAPE, BenchSettings(), kinds=(OPENVINO_DEFAULT,))
    (row,) = made.rows
    assert (row.name, row.problem) == (f"OpenVINO {row.precision}", None)
    assert made.files[row.name].path == dense_file
    steps = {"float32": 2.0**-24, "bfloat16": 2.0**-8}[row.precision]  # half the distance of neighbours, of the number
    assert row.output_error is not None
    assert row.output_error < 8 * steps  # four layers and what rounds between them


@needs_nncf
def test_openvino_int8_has_int8_weights(dense_file: Path, tmp_path: Path) -> None:
    import openvino

    made = make_rivals(dense_file, tmp_path, SHAPE, BenchSettings(), kinds=(OPENVINO_INT8,))
    (row,) = made.rows
    assert (row.name, row.precision, row.problem) == ("OpenVINO int8", "int8", None)
    assert row.output_error is not None
    assert 0 < row.output_error < 12 / 255  # a tensor of 255 steps is off by half of one at most; a dozen follow each other
    path = made.files[row.name].path
    constants = [op for op in openvino.Core().read_model(path).get_ops() if op.get_type_name() == "Constant"]
    weights = [op.get_output_shape(0) for op in constants if op.get_element_type().get_type_name() == "i8"]
    assert sorted(map(list, weights))[-3:] == [[16, 3, 3, 3], [16, 16, 3, 3], [16, 16, 3, 3]]
    assert file_bytes(path) == path.stat().st_size + path.with_suffix(".bin").stat().st_size


@needs_openvino
def test_all_that_is_installed_is_made(dense_file: Path, tmp_path: Path) -> None:
    made = make_rivals(dense_file, tmp_path, SHAPE, BenchSettings())
    assert list(made.files) == [row.name for row in made.rows if row.problem is None]
    assert len(made.files) == sum(kind.is_installed for kind in KINDS)

"""The operator in ONNX Runtime, native and by its body, against torch on the rebuilt weight in double precision."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from cases import CASES, LookupConvCase
from command_line import child
from isas import ISAS
from onnx import TensorProto, helper
from op_models import POOL, expected, node_model
from torch import Tensor

from lcnn_compress import runtime
from lcnn_compress.errors import LcnnError
from lcnn_compress.operators.common import NO_BOUND, OPSET

needs_library = pytest.mark.skipif(runtime.library_path() is None, reason="the native library is not installed")


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    """Run with the kernels of each instruction set that this machine has."""
    monkeypatch.setenv("LCNN_ISA", request.param)
    assert runtime.isa() == request.param


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_kernel_agrees_with_torch(case):
    y, bound = expected(case)
    for threads in (1, 2):
        got = runtime.session(node_model(case), threads=threads).run(None, {"X": case.input().numpy()})[0]
        assert got.shape == tuple(y.shape)
        assert ((torch.from_numpy(got).double() - y).abs() <= bound).all()


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES[:14], ids=str)
def test_residual_clip_and_float16_factors(case):
    shape = expected(case)[0].shape
    residual = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    y, bound = expected(case, residual)
    data = node_model(case, dtype=np.float16, residual=residual, clip=(-0.5, 0.75))
    got = runtime.session(data).run(None, {"X": case.input().numpy(), "residual": residual.numpy()})[0]
    assert ((torch.from_numpy(got).double() - y.clip(-0.5, 0.75)).abs() <= bound).all()


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES[:14], ids=str)
def test_residual_and_hard_swish(case):
    residual = 3 * torch.randn(expected(case)[0].shape, generator=torch.Generator().manual_seed(2))
    y, bound = expected(case, residual)
    want = torch.nn.functional.hardswish(y)
    assert (y < -3).any() or y.numel() < 100  # both flat parts
    assert (y > 3).any() or y.numel() < 100
    data = node_model(case, residual=residual, hard_swish=1)
    for native in (True, False):
        got = runtime.session(data, native=native).run(None, {"X": case.input().numpy(), "residual": residual.numpy()})[0]
        # Its slope is at most 1.5, and it rounds three times itself.
        assert ((torch.from_numpy(got).double() - want).abs() <= 2 * bound).all()


@needs_library
def test_hard_swish_of_nan_and_infinity_is_that_of_onnxruntime():
    case = LookupConvCase(c_in=1, c_out=1, k=1, density=1.0, kernel=(1, 1), padding=(0, 0, 0, 0), size=(1, 9), batch=1)
    x = np.array([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 0, 3, -3, 1], np.float32).reshape(1, 1, 1, 9)
    one = {"D": np.ones((1, 1), np.float32), "coefficients": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)}
    data = node_model(case, hard_swish=1, **one)
    graph = helper.make_graph(
        [helper.make_node("HardSwish", ["X"], ["Y"])], "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, x.shape)],
    )  # fmt: skip
    stock = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10).SerializeToString()
    want = runtime.session(stock, native=False).run(None, {"X": x})[0]
    assert np.isnan(want).ravel().tolist() == [True, False, True] + [False] * 6
    for native in (True, False):
        got = runtime.session(data, native=native).run(None, {"X": x})[0]
        np.testing.assert_allclose(got, want, rtol=3e-7)  # three roundings


@needs_library
def test_a_node_without_hard_swish_has_none():
    case = LookupConvCase()
    model = onnx.load_from_string(node_model(case, body=False))
    attributes = model.graph.node[0].attribute
    attributes.remove(next(a for a in attributes if a.name == "hard_swish"))
    y, bound = expected(case)
    got = runtime.session(model.SerializeToString()).run(None, {"X": case.input().numpy()})[0]
    assert ((torch.from_numpy(got).double() - y).abs() <= bound).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_function_body_agrees_with_torch(case):
    y, bound = expected(case)
    got = runtime.session(node_model(case), native=False).run(None, {"X": case.input().numpy()})[0]
    assert ((torch.from_numpy(got).double() - y).abs() <= bound).all()


@pytest.mark.parametrize("hard_swish", [0, 1])
def test_function_body_runs_in_the_reference_evaluator(hard_swish):
    from onnx.reference import ReferenceEvaluator

    case = LookupConvCase(groups=2, c_out=6, stride=(2, 1))
    y, bound = expected(case)
    y = torch.nn.functional.hardswish(y) if hard_swish else y
    model = onnx.load_from_string(node_model(case, hard_swish=hard_swish))
    got = ReferenceEvaluator(model).run(None, {"X": case.input().numpy()})[0]
    assert ((torch.from_numpy(got).double() - y).abs() <= (1 + hard_swish) * bound).all()


@needs_library
@pytest.mark.parametrize("native", [True, False])
def test_relu_keeps_nan_visible(native):
    case = LookupConvCase(density=1.0)
    x = case.input().numpy()
    x[0, 0, 3, 3] = np.nan
    got = runtime.session(node_model(case, clip=(0.0, NO_BOUND)), native=native).run(None, {"X": x})[0]
    assert np.isnan(got[0, :, 3, 3]).all()
    assert not np.isnan(got[1]).any()


@needs_library
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (31, 17), (64, 64)])
def test_one_session_serves_every_size_and_batch(size):
    case = LookupConvCase(stride=(2, 2), padding=(1, 1, 1, 1))
    session = runtime.session(node_model(case))
    for batch in (1, 0, 3, 1):
        varied = LookupConvCase(stride=(2, 2), padding=(1, 1, 1, 1), size=size, batch=batch)
        y, bound = expected(varied)
        got = session.run(None, {"X": varied.input().numpy()})[0]
        assert ((torch.from_numpy(got).double() - y).abs() <= bound).all()


@needs_library
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", [c for c in CASES if c.batch], ids=str)
def test_a_pooled_result(case):
    y, bound = expected(case)
    padding = (1, 1) if min(y.shape[2:]) > 1 else (2, 2)
    data = node_model(case, clip_min=0.0, **POOL | {"pool_pads": [*padding, *padding]})
    want = pooled(y.clip(0, NO_BOUND), padding)
    allowed = pooled(bound, padding)  # the largest of a window is off by no more than the worst of its values
    for native in (True, False):
        got = torch.from_numpy(runtime.session(data, native=native, threads=2).run(None, {"X": case.input().numpy()})[0])
        assert got.shape == want.shape
        assert ((got.double() - want).abs() <= allowed).all()


def pooled(y: Tensor, padding: tuple[int, int]) -> Tensor:
    y = torch.nn.functional.pad(y, (padding[1], padding[1], padding[0], padding[0]), value=-float("inf"))
    return torch.nn.functional.max_pool2d(y, 3, 2)


@needs_library
def test_non_contiguous_input_is_read_right():
    case = LookupConvCase()
    x = case.input().numpy().transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)
    assert not x.flags["C_CONTIGUOUS"]
    y, bound = expected(case)
    got = runtime.session(node_model(case)).run(None, {"X": x})[0]
    assert ((torch.from_numpy(got).double() - y).abs() <= bound).all()


@needs_library
@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"gaps": np.full(70, 255, np.uint8), "coefficients": np.ones(70, np.float32)}, "outside [0, 180)"),
        ({"gaps": np.zeros(3, np.uint8), "coefficients": np.ones(3, np.float32)}, "gap"),
        ({"coefficients": np.ones(3, np.float32)}, "3"),
        ({"coefficients": np.full(73, np.nan, np.float32)}, ""),
        ({"D": np.zeros((0, 8), np.float32)}, "0"),
        ({"D": np.zeros((4, 3), np.float32)}, "3"),
        ({"D": np.zeros(4, np.float32)}, "D"),
        ({"bias": np.zeros(0, np.float32)}, "0"),
        ({"strides": [0, 1]}, "stride"),
        ({"pads": [-1, 0, 0, 0]}, "padding"),
        ({"dilations": [1, 0]}, "dilation"),
        ({"kernel_shape": [3]}, "kernel_shape"),
        ({"group": 3}, "group"),
        ({"clip_min": 1.0, "clip_max": 0.0}, "clip"),
        ({"hard_swish": 2}, "attribute hard_swish is 2; it must be 0 or 1"),
        ({"hard_swish": 1, "clip_min": 0.0}, "hard_swish is set, but clip_min is 0.000000"),
        (POOL | {"pool_kernel_shape": [257, 3]}, "pool kernel height is 257, outside [1, 256]"),
        (POOL | {"pool_pads": [1, 1, 1, 3]}, "pool padding after width is 3, outside [0, 2]"),
        (POOL | {"pool_strides": [2, 0]}, "pool stride width is 0"),
        (POOL | {"pool_pads": [1, 1]}, "attribute pool_pads is (1, 1); it must have 4 elements"),
        (POOL | {"pool_kernel_shape": [9, 9]}, "input width to pool is 6, with padding 8"),
    ],
)
def test_damaged_nodes_are_refused_with_their_name(changes, fragment):
    data = node_model(LookupConvCase(), body=False, **changes)
    x = LookupConvCase().input().numpy()
    with pytest.raises(Exception, match="the-node") as error:
        runtime.session(data).run(None, {"X": x})
    assert fragment in str(error.value)


@needs_library
def test_nothing_but_a_number_is_added_to_a_pooled_result():
    case = LookupConvCase()
    residual = torch.ones(2, 5, 4, 3)
    session = runtime.session(node_model(case, residual=residual, body=False, **POOL))
    with pytest.raises(runtime.ORT_ERRORS, match=r"the-node.*it must have one element where the result is pooled"):
        session.run(None, {"X": case.input().numpy(), "residual": residual.numpy()})


@needs_library
def test_unknown_isa_is_refused(monkeypatch):
    monkeypatch.setenv("LCNN_ISA", "avx1024")
    with pytest.raises((LcnnError, Exception), match="avx1024"):
        runtime.session(node_model(LookupConvCase()))


# Layers, values and files that chance makes


def random_cases(seed: int, count: int) -> list[LookupConvCase]:
    """Layers of every kind of size, stride, padding, dilation and groups, with an output plane of one pixel or more."""
    rng = np.random.default_rng(seed)
    cases: list[LookupConvCase] = []
    while len(cases) < count:
        groups = int(rng.choice([1, 1, 1, 2, 3]))
        kernel, stride, dilation = (tuple(int(n) for n in rng.integers(1, most, 2)) for most in (6, 4, 4))
        padding, size = tuple(int(n) for n in rng.integers(0, 5, 4)), tuple(int(n) for n in rng.integers(1, 24, 2))
        case = LookupConvCase(
            groups * int(rng.integers(1, 20)), groups * int(rng.integers(1, 20)), int(rng.integers(1, 24)),
            float(rng.choice([0.0, 0.02, 0.3, 1.0])), kernel, stride, padding, dilation, groups, size, int(rng.integers(0, 4)),
        )  # fmt: skip
        if min(case.geometry.output_size(*size)) > 0:
            cases.append(case)
    return cases


@needs_library
@pytest.mark.usefixtures("isa")
def test_layers_that_chance_makes_agree_with_torch_and_with_the_body():
    for case in random_cases(seed=19, count=40):
        y, bound = expected(case)
        for native in (True, False):
            got = runtime.session(node_model(case), threads=2, native=native).run(None, {"X": case.input().numpy()})[0]
            assert got.shape == tuple(y.shape), case
            assert ((torch.from_numpy(got).double() - y).abs() <= bound).all(), (case, native)


@needs_library
@pytest.mark.usefixtures("isa")
def test_infinity_and_nan_reach_what_they_reach_in_the_body():
    """Where every entry is used and nothing is padded, the body evaluates what the operator evaluates; both clip infinity."""
    rng = np.random.default_rng(3)
    for value in (np.nan, np.inf, -np.inf, 1e30, 0.0):
        case = LookupConvCase(density=1.0, padding=(0, 0, 0, 0), size=(9, 11))
        x = case.input().numpy()
        x[rng.integers(0, 2, 4), rng.integers(0, 8, 4), rng.integers(0, 9, 4), rng.integers(0, 11, 4)] = value
        native, body = (runtime.session(node_model(case), native=n).run(None, {"X": x})[0] for n in (True, False))
        reached = ~(np.abs(body) < NO_BOUND)
        assert reached.any() == (not np.isfinite(value))
        np.testing.assert_array_equal(~(np.abs(native) < NO_BOUND), reached)
        np.testing.assert_allclose(native[~reached], body[~reached], rtol=2e-4, atol=1e-4)


MUTATED = """
import numpy as np, onnx
from cases import LookupConvCase
from onnx import numpy_helper
from op_models import POOL, node_model
from lcnn_compress import runtime
from lcnn_compress.errors import LcnnError

rng = np.random.default_rng(19)
NUMBERS = [-2**63, -2**31, -1, 0, 1, 2, 3, 4, 9, 300, 2**31, 2**40, 2**63 - 1]
TYPES = [np.float16, np.float32, np.float64, np.uint8, np.int8, np.uint16, np.int32, np.int64]


def mutate_attribute(attributes):
    attribute = attributes[rng.integers(len(attributes))]
    way = rng.integers(5)
    if way == 0:
        attributes.remove(attribute)
    elif attribute.type == onnx.AttributeProto.INTS and way < 4:
        at = rng.integers(len(attribute.ints)) if len(attribute.ints) else 0
        values = [*attribute.ints]
        values[at : at + 1] = [int(n) for n in rng.choice(NUMBERS, rng.choice([0, 1, 1, 1, 2]))]
        attribute.ints[:] = values
    elif attribute.type == onnx.AttributeProto.INT and way < 4:
        attribute.i = int(rng.choice(NUMBERS))
    elif attribute.type == onnx.AttributeProto.FLOAT and way < 4:
        attribute.f = float(rng.choice([np.nan, np.inf, -np.inf, 0, -1, 3.4e38]))
    else:
        attribute.CopyFrom(onnx.helper.make_attribute(attribute.name, [1.5, "a", [0.5], ["a"], [1] * 9][rng.integers(5)]))


def mutate_tensor(tensors):
    tensor = tensors[rng.integers(len(tensors))]
    array = numpy_helper.to_array(tensor).copy()
    way = rng.integers(5)
    if way == 0:
        array = array.astype(TYPES[rng.integers(len(TYPES))])
    elif way == 1:
        array = array[: rng.integers(len(array) + 1)] if array.ndim else array
    elif way == 2:
        array = array.reshape([(-1,), (1, -1), (-1, 1), (1, 1, -1)][rng.integers(4)])
    elif array.size and array.dtype.kind == "f":
        array.flat[rng.integers(array.size)] = rng.choice([np.nan, np.inf, -np.inf, 6e4, 0])
    elif array.size:
        array.flat[rng.integers(array.size)] = rng.choice([0, 1, 127, 255])
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


ran = refused = compared = 0
with np.errstate(all="ignore"):
    for number in range(300):
        case = LookupConvCase(groups=2, c_out=6) if number % 3 == 0 else LookupConvCase()
        changes = POOL if number % 4 == 0 else {}
        model = onnx.load_from_string(node_model(case, **changes))
        for _ in range(rng.integers(1, 3)):
            if rng.random() < 0.6:
                mutate_attribute(model.graph.node[0].attribute)
            else:
                mutate_tensor(model.graph.initializer)
        x = {"X": case.input().numpy()}
        try:
            got = runtime.session(model.SerializeToString()).run(None, x)[0]
        except (LcnnError, *runtime.ORT_ERRORS):
            refused += 1
            continue
        ran += 1
        try:
            want = runtime.session(model.SerializeToString(), native=False).run(None, x)[0]
        except (LcnnError, *runtime.ORT_ERRORS):
            continue
        compared += 1
        assert got.shape == want.shape, number
        both = np.isfinite(got) & np.isfinite(want)
        np.testing.assert_allclose(got[both], want[both], rtol=1e-3, atol=1e-3, err_msg=str(number))
print(ran, refused, compared)
"""


@needs_library
def test_damaged_nodes_never_end_the_process_and_are_never_wrong(tmp_path):
    ran, refused, compared = map(int, child("-c", MUTATED, cwd=tmp_path).stdout.split())
    assert ran + refused == 300
    assert min(refused, compared) > 30

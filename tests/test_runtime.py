"""Opening ONNX files: with the native library, without it, and files that cannot be opened."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from command_line import child, needs_library
from onnx import TensorProto, helper, numpy_helper
from small_onnx import NetWriter

from lcnn_compress import runtime
from lcnn_compress.errors import ArtefactError, FileError, MissingError, SettingsError
from lcnn_compress.operators.common import DOMAIN, OP_VERSION, OPSET
from lcnn_compress.operators.encoding import encode_positions
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.operators.lookup_conv import INPUTS, OP_TYPE, function_body, node_attributes


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module ``runtime`` in a folder without a native library, as a package built without it has it."""
    monkeypatch.delenv(runtime.LIBRARY_VARIABLE, raising=False)
    path = Path(shutil.copy(runtime.__file__, tmp_path))
    spec = importlib.util.spec_from_file_location("bare_runtime", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lookup_model(body: bool = True) -> onnx.ModelProto:
    """One LookupConv, 1x1: y = P D x + bias with P = diag(2, 3), D = [[1, 1], [1, -1]], bias = (10, 20)."""
    gaps, coefficients = encode_positions(np.diag([2.0, 3.0]).astype(np.float32).reshape(2, 2, 1, 1))
    arrays = {
        "D": np.array([[1, 1], [1, -1]], np.float32), "gaps": gaps, "coefficients": coefficients,
        "bias": np.array([10, 20], np.float32), "residual": np.zeros(1, np.float32),
    }  # fmt: skip
    node = helper.make_node(OP_TYPE, list(INPUTS), ["Y"], name="conv", domain=DOMAIN, **node_attributes(ConvGeometry((1, 1))))
    graph = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", 2, 1, 1])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", 2, 1, 1])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    if body:
        model.functions.append(function_body())
    return model


def result(session: object) -> list[float]:
    x = np.array([5, 2], np.float32).reshape(1, 2, 1, 1)
    return session.run(None, {"X": x})[0].ravel().tolist()  # type: ignore[attr-defined]


EXPECTED = [2 * (5 + 2) + 10, 3 * (5 - 2) + 20]


def test_a_model_runs_without_the_library_and_says_so_once(bare: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        session = bare.session(lookup_model().SerializeToString(), threads=1)
    assert result(session) == EXPECTED
    (record,) = caplog.records
    assert record.getMessage().startswith("the model: running the dense fallback: correct, not faster; run 'pip install .'")


def test_the_fallback_asked_for_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    assert result(runtime.session(lookup_model().SerializeToString(), native=False)) == EXPECTED
    assert not caplog.records


def test_the_library_runs_the_same_model(tmp_path: Path) -> None:
    if runtime.library_path() is None:
        pytest.skip("the native library is not there")
    path = tmp_path / "native.onnx"
    onnx.save(lookup_model(body=False), path)  # without a body only the library can run it
    assert result(runtime.session(path, threads=1)) == EXPECTED
    assert runtime.runtime_version()
    assert runtime.isa()


def test_without_body_and_library_the_error_says_what_to_install(bare: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "strict.onnx"
    onnx.save(lookup_model(body=False), path)
    with pytest.raises(
        MissingError, match=r"^strict.onnx: has no function body, so it needs the native library; run 'pip install .'"
    ):
        bare.session(path)


def test_require_library_says_how_to_get_it(bare: ModuleType) -> None:
    assert bare.library_path() is None
    assert bare.isa() is None
    assert bare.runtime_version() is None
    with pytest.raises(MissingError, match=r"native library is not there \(.*liblcnn_ort.so\); run 'pip install .'") as caught:
        bare.require_library()
    assert caught.value.exit_code == 3


def test_the_variable_chooses_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = tmp_path / "mine.so"
    chosen.write_bytes(b"not a library")
    monkeypatch.setenv(runtime.LIBRARY_VARIABLE, str(chosen))
    assert runtime.require_library() == chosen.resolve()
    with pytest.raises(MissingError, match=r"mine.so: cannot be loaded"):
        runtime.isa()
    with pytest.raises(MissingError, match=r"mine.so: ONNX Runtime cannot load it"):
        runtime.session(lookup_model().SerializeToString())


def test_the_variable_must_name_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(runtime.LIBRARY_VARIABLE, str(tmp_path / "gone.so"))
    with pytest.raises(MissingError, match=r"LCNN_RUNTIME_LIBRARY is '.*gone.so': there is no such file"):
        runtime.library_path()


def test_a_missing_file_and_a_folder_are_file_errors(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"gone.onnx: cannot be read: No such file or directory") as caught:
        runtime.session(tmp_path / "gone.onnx")
    assert caught.value.exit_code == 5
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        runtime.session(tmp_path)


def test_a_name_that_is_not_utf8_is_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "net_\udce4.onnx"
    onnx.save(lookup_model(), path)
    with pytest.raises(
        FileError, match=r"net_.\.onnx: its name, or that of a folder of it, is not UTF-8, and ONNX Runtime opens no"
    ):
        runtime.session(path)


def damaged_files() -> dict[str, bytes]:
    half = lookup_model().SerializeToString()[:300]
    model = lookup_model()
    model.graph.node[0].input[0] = "nowhere"
    return {
        "empty": b"",
        "text": b"hello, this is no model",
        "half": half,
        "edited": model.SerializeToString(),
        "no text": model.SerializeToString().replace(b"nowhere", b"n\xe2where"),  # ONNX Runtime quotes it
    }


@pytest.mark.parametrize("kind", ["empty", "text", "half", "edited", "no text"])
def test_a_damaged_file_is_refused_with_its_name(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"{kind}.onnx"
    path.write_bytes(damaged_files()[kind])
    with pytest.raises(ArtefactError, match=rf"^{kind}.onnx: ONNX Runtime .* refuses it: .*; the file is damaged") as caught:
        runtime.session(path, native=False)
    assert "[ONNXRuntimeError]" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


def test_the_domain_is_found_across_block_borders(tmp_path: Path) -> None:
    path = tmp_path / "big"
    for offset in ((1 << 20) - 3, (1 << 20), 0):
        path.write_bytes(b"\0" * offset + DOMAIN.encode() + b"\0" * 10)
        assert runtime.uses_lookups(path)
    path.write_bytes(b"\0" * (1 << 21))
    assert not runtime.uses_lookups(path)
    assert runtime.uses_lookups(lookup_model().SerializeToString())


def test_threads_and_profile_are_passed_on(tmp_path: Path) -> None:
    session = runtime.session(lookup_model().SerializeToString(), threads=2, native=False, profile_prefix=tmp_path / "trace")
    assert session.get_session_options().intra_op_num_threads == 2
    assert session.get_providers() == ["CPUExecutionProvider"]
    written = Path(session.end_profiling())
    assert written.parent == tmp_path
    assert written.name.startswith("trace")


# Options of callers


def by_hand(options: ort.SessionOptions, copy: Path) -> None:
    options.register_custom_ops_library(str(runtime.require_library()))


def used_before(options: ort.SessionOptions, copy: Path) -> None:
    runtime.session(lookup_model().SerializeToString(), options=options)


def from_a_copy(options: ort.SessionOptions, copy: Path) -> None:
    options.register_custom_ops_library(str(copy))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """The native library in a folder of its own."""
    path = runtime.library_path()
    if path is None:
        pytest.skip("the native library is not there")
    return Path(shutil.copy(path, tmp_path / "mine.so"))


@pytest.mark.parametrize("prepare", [by_hand, used_before, from_a_copy])
@pytest.mark.parametrize("body", [True, False])
def test_options_that_know_the_library_work_again_and_again(
    prepare: Callable[[ort.SessionOptions, Path], None], body: bool, library: Path, tmp_path: Path
) -> None:
    options = ort.SessionOptions()
    prepare(options, library)
    for _ in range(2):
        # The function body has other nodes than the one that only the library knows.
        optimised = tmp_path / "optimised.onnx"
        options.optimized_model_filepath = str(optimised)
        assert result(runtime.session(lookup_model(body).SerializeToString(), options=options)) == EXPECTED
        assert [node.op_type for node in onnx.load(optimised).graph.node] == [OP_TYPE]
        optimised.unlink()


def test_options_that_know_the_library_need_none(bare: ModuleType, library: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ort.SessionOptions()
    by_hand(options, library)
    assert result(bare.session(lookup_model(body=False).SerializeToString(), options=options)) == EXPECTED
    assert not caplog.records


def test_options_that_hold_a_library_twice_are_refused_as_such(library: Path) -> None:
    options = ort.SessionOptions()
    by_hand(options, library)
    by_hand(options, library)
    with pytest.raises(
        SettingsError, match="the options hold a library of operators twice, which ONNX Runtime refuses; make new"
    ):
        runtime.session(lookup_model().SerializeToString(), options=options)


def test_options_come_back_as_they_were(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.profile_file_prefix = 3, 2, "mine"
    options.enable_profiling = True

    def settings() -> list[object]:
        return [getattr(options, name) for name in dir(options) if isinstance(getattr(options, name), (int, str))]

    before = settings()
    session = runtime.session(lookup_model().SerializeToString(), options=options, threads=1, profile_prefix=tmp_path / "trace")
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.get_session_options().log_severity_level == 3
    session.end_profiling()
    assert [path.name.partition("_")[0] for path in tmp_path.glob("*.json")] == ["trace"]  # nothing else was profiled
    assert settings() == before
    with pytest.raises(ArtefactError):
        runtime.session(damaged_files()["edited"], options=options, threads=1)
    assert settings() == before


def test_threads_may_share_options(library: Path) -> None:
    options, data = ort.SessionOptions(), lookup_model(body=False).SerializeToString()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: result(runtime.session(data, options=options, threads=1)), range(16)))
    assert answers == [EXPECTED] * 16


# Many at once, many times, and files that are damaged anywhere


def lookup_net(folder: Path) -> tuple[Path, list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """A net with lookups, inputs of several sizes, and the results of a session that nothing disturbs."""
    path = folder / "net.onnx"
    model = NetWriter(True, True).model("n")
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ("h", "w"), strict=True):
        dim.dim_param = name
    onnx.save(model, path)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((n, 3, h, w), np.float32) for n, h, w in ((1, 8, 8), (3, 8, 8), (2, 17, 5), (1, 30, 31))]
    session = runtime.session(path, threads=1)
    return path, inputs, [session.run(None, {"x": x})[0] for x in inputs]


@needs_library
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_threads_use_one_session(workers: int, tmp_path: Path) -> None:
    path, inputs, wanted = lookup_net(tmp_path)
    session = runtime.session(path, threads=workers)

    def work(number: int) -> bool:
        at = number % len(inputs)
        return np.array_equal(session.run(None, {"x": inputs[at]})[0], wanted[at])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))


@needs_library
def test_sessions_are_opened_at_once(tmp_path: Path) -> None:
    path, inputs, wanted = lookup_net(tmp_path)

    def work(_: int) -> bool:
        return np.array_equal(runtime.session(path, threads=1).run(None, {"x": inputs[2]})[0], wanted[2])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


@needs_library
def test_inputs_lie_anywhere_and_results_go_where_they_are_told(tmp_path: Path) -> None:
    path, inputs, wanted = lookup_net(tmp_path)
    session = runtime.session(path)
    for x, y in zip(inputs, wanted, strict=True):
        shifted = np.frombuffer(b"abc" + x.tobytes() + b"d", np.uint8)[3:-1].view(np.float32).reshape(x.shape)
        assert not shifted.flags.aligned
        wide = np.empty((*x.shape[:3], 2 * x.shape[3]), np.float32)
        wide[..., ::2] = x
        for given in (shifted, wide[..., ::2], np.asfortranarray(x)):
            np.testing.assert_array_equal(session.run(None, {"x": given})[0], y)
        binding = session.io_binding()
        binding.bind_cpu_input("x", x)
        place = ort.OrtValue.ortvalue_from_numpy(np.full_like(y, np.nan))
        binding.bind_ortvalue_output("y", place)
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(place.numpy(), y)


@needs_library
def test_an_optimised_file_gives_the_same(tmp_path: Path) -> None:
    path, inputs, wanted = lookup_net(tmp_path)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    runtime.session(path, options=options)
    again = runtime.session(tmp_path / "optimised.onnx")
    for x, y in zip(inputs, wanted, strict=True):
        np.testing.assert_array_equal(again.run(None, {"x": x})[0], y)


FORKED = """
import os, sys
import numpy as np
from lcnn_compress import runtime
x = np.ones((2, 3, 8, 8), np.float32)
first = runtime.session("net.onnx", threads=2).run(None, {"x": x})[0]
child = os.fork()
if child == 0:
    same = np.array_equal(runtime.session("net.onnx", threads=2).run(None, {"x": x})[0], first)
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_library
def test_a_forked_child_opens_sessions_of_its_own(tmp_path: Path) -> None:
    lookup_net(tmp_path)
    assert child("-c", FORKED, cwd=tmp_path).stdout.split() == ["0"]


# How much the memory of the process grows, in bytes, after the first of ``times`` runs of a piece of work.
GROWTH = """
import sys
import numpy as np, onnx
from lcnn_compress import runtime
from lcnn_compress.errors import LcnnError
data, rng = open("net.onnx", "rb").read(), np.random.default_rng(0)
session = runtime.session("net.onnx", threads=2)

def opened():
    runtime.session(data, threads=2).run(None, {"x": np.ones((1, 3, 8, 8), np.float32)})

def refused():
    broken = bytearray(data)
    broken[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    try:
        runtime.session(bytes(broken))
    except LcnnError:
        return
    raise AssertionError

def sizes():
    n, h, w = map(int, rng.integers(1, [3, 40, 40]))
    session.run(None, {"x": np.ones((n, 3, h, w), np.float32)})

def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])

work, times = globals()[sys.argv[1]], int(sys.argv[2])
for _ in range(times):
    work()
before = resident()
for _ in range(times):
    work()
print(resident() - before)
"""


@needs_library
@pytest.mark.parametrize(("work", "times"), [("opened", 100), ("refused", 100), ("sizes", 1000)])
def test_memory_does_not_grow(work: str, times: int, tmp_path: Path) -> None:
    lookup_net(tmp_path)
    grown = int(child("-c", GROWTH, work, times, cwd=tmp_path).stdout)
    # A session of this net holds 2 MB and more, and a plan for a size some tens of KB.
    assert grown < 16 << 20


DAMAGED = """
import sys
import numpy as np
from lcnn_compress import runtime
from lcnn_compress.errors import LcnnError
data, rng = open("net.onnx", "rb").read(), np.random.default_rng(int(sys.argv[1]))
refused = ran = 0
for number in range(150):
    broken = bytearray(data)
    if number % 3 == 0:
        del broken[int(rng.integers(len(data))):]
    for _ in range(int(rng.integers(1, 4)) if broken else 0):
        broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
    try:
        session = runtime.session(bytes(broken), threads=1)
        session.run(None, {session.get_inputs()[0].name: np.ones((1, 3, 8, 8), np.float32)})
        ran += 1
    except (LcnnError, *runtime.ORT_ERRORS):
        refused += 1
print(refused, ran)
"""


@needs_library
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))])
def test_bytes_that_are_lost_or_changed_never_end_the_process(seed: int, tmp_path: Path) -> None:
    """Most bytes are weights, which may have any value."""
    lookup_net(tmp_path)
    refused, ran = map(int, child("-c", DAMAGED, seed, cwd=tmp_path).stdout.split())
    assert refused + ran == 150
    assert refused >= 50


def test_the_faulty_model_is_a_node_of_ours_without_inputs() -> None:
    model = onnx.load_from_string(runtime.FAULTY_MODEL)
    (node,) = model.graph.node
    assert (node.op_type, node.domain, list(node.input), list(node.output)) == (OP_TYPE, DOMAIN, [], ["Y"])
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET, DOMAIN: OP_VERSION}

"""Bad input at the command line: a clear message, the exit code, and nothing written or lost. One case of each kind;
the details are tested beside the modules that refuse them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import typer
from command_line import PACKAGE_PARENT, STABLE, child, lcnn, needs_library, plain_net
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn

from lcnn_compress import api, runtime
from lcnn_compress.artefact.artefact import FORMAT_VERSION
from lcnn_compress.cli.error_boundary import FILES, INTERNAL, INTERRUPTED, MISSING, describe, flag, guarded, with_flags

FAST = ("--input-shape", "1,3,32,32", "--no-measure")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt, its artefact and the exported file in it."""
    path = tmp_path_factory.mktemp("bad")
    torch.save(plain_net(), path / "model.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        lcnn("compress", "model.pt", *FAST, "--dict", 8)
        lcnn("export", "--onnx")
    return path


def refused(here: Path, *args: object, code: int = 2) -> str:
    """Run a command that must fail and leave the folder as it was; return its message."""
    before = content(here)
    result = lcnn(*args, code=code)
    assert content(here) == before
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}


# Messages and exit codes


def test_fields_of_the_library_are_shown_as_options() -> None:
    assert with_flags("`init` is 'x'; give `dictionary` or `latency_ms`") == "--init is 'x'; give --dict or --target-latency-ms"
    assert with_flags("`measure=False` with `max_drop` 1") == "--no-measure with --max-drop 1"
    assert with_flags("init is plain, and so is `8 bits`") == "init is plain, and so is `8 bits`"
    assert flag("batches") == "--batch"


def test_unknown_errors_are_internal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @guarded
    def broken() -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.delenv("LCNN_DEBUG", raising=False)
    with pytest.raises(typer.Exit) as end:
        broken()
    assert end.value.exit_code == INTERNAL
    shown = capsys.readouterr()
    assert shown.err.startswith("internal error: ZeroDivisionError: by zero; LCNN_DEBUG=1 shows where")
    assert shown.out == ""
    monkeypatch.setenv("LCNN_DEBUG", "1")
    with pytest.raises(typer.Exit):
        broken()
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    source = (
        "import sys\nsys.modules['onnx'] = None\nfrom lcnn_compress.cli.main import main\nsys.argv = ['lcnn', 'doctor']\nmain()"
    )
    done = child("-c", source, cwd=tmp_path, code=MISSING)
    assert done.stderr.startswith("error: the package 'onnx' is missing; pip install it")


def test_operating_system_errors_end_with_5() -> None:
    message, code = describe(PermissionError(13, "Permission denied", "/x/y"))
    assert (message, code) == ("error: /x/y: Permission denied; check the path, its permissions and the disk", FILES)


def test_interrupts_say_how_to_go_on() -> None:
    assert describe(KeyboardInterrupt()) == ("interrupted; nothing is left half-written", INTERRUPTED)
    assert describe(KeyboardInterrupt("add `resume`")) == ("interrupted; add --resume", INTERRUPTED)


def test_a_terminal_that_is_gone_is_no_failure_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise OSError(5, "Input/output error")  # what takes the progress bar away cannot write

    with pytest.raises(typer.Exit) as end:
        interrupted()
    assert end.value.exit_code == INTERRUPTED
    assert capsys.readouterr().err == "interrupted; nothing is left half-written\n"


def test_a_reader_that_leaves_early_is_no_internal_error(here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lcnn_compress", "inspect", "model.lcnn"]
    env = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=here, env=env, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (FILES, "")


# Models


class Foreign(nn.Sequential):
    """A class that no installed package defines."""


def truncated(path: Path) -> None:
    torch.save(plain_net(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def with_a_bad_weight(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        net = plain_net()
        with torch.no_grad():
            net[2].weight[1, 2, 0, 0] = value
        torch.save(net, path)

    return write


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, "bad.pt: starts like a torch.save archive but is damaged or ends too early; copy it again"),
    "random": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(3000)),
        "bad.pt: is not a file of PyTorch (it starts with ",
    ),
    "empty": (lambda path: path.write_bytes(b""), "bad.pt: is empty; save or copy it again"),
    "foreign code": (
        lambda path: torch.save(Foreign(nn.Conv2d(8, 8, 3)), path),
        f"bad.pt: is a pickle that needs {__name__}.Foreign, which is not known to be safe; if you trust the file, "
        "--trust-pickle runs the code in it",
    ),
    "no convolutions": (
        lambda path: torch.save(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), path),
        "the model has no Conv2d and no Linear layer",
    ),
    "NaN": (with_a_bad_weight(float("nan")), "bad.pt: 2.weight holds 1 values of 36864 that are NaN or infinite; retrain it"),
    "infinite": (with_a_bad_weight(-float("inf")), "bad.pt: 2.weight holds 1 values of 36864 that are NaN or infinite"),
    "state_dict": (
        lambda path: torch.save(plain_net().state_dict(), path),
        "bad.pt: is a state_dict of 11 tensors, not a net; add --arch pkg.mod:factory",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_that_cannot_be_used(here: Path, kind: str) -> None:
    write, message = MODELS[kind]
    write(here / "bad.pt")
    assert refused(here, "compress", "bad.pt", *FAST, "-o", "model.lcnn").startswith(message)


def test_no_such_model(here: Path) -> None:
    assert refused(here, "compress", "none.pt", code=FILES).startswith("none.pt: no such file")


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dict", "0"), "--dict is '0'; it must be a whole number of entries, at least 1"),
        (("--dict", "-4"), "--dict is '-4'; it must be a whole number"),
        (("--dict", "2=100000"), "--dict asks for 100000 entries, but the largest layer '2' matches codes 576 vectors"),
        (("--dict", "conv*=8"), "'conv*' matches no layer; the layers are 0, 2, 7"),
        (("--lookups", "1.5"), "--lookups is '1.5'; it must be a whole number of lookups per position, at least 1"),
        (("--init", "pca"), "--init is 'pca'; it must be one of "),
        (("--storage", "int4"), "--storage is 'int4'; it must be one of float16, float32, int8"),
        (("--coefficients", "int4"), "--storage is 'int4'; it must be one of float16, float32, int8"),
        (("--input-shape", "3,32,32"), "--input-shape is '3,32,32'; it must be batch,channels,height,width"),
        (("--input-shape", "1,3,0,32"), "--input-shape is '1,3,0,32'; it must be whole numbers of at least 1"),
        (
            ("--input-shape", "1,4,32,32"),
            "the model does not run on one tensor of (1, 4, 32, 32), and only nets of one tensor are supported",
        ),
    ],
    ids=" ".join,
)
def test_options_that_cannot_be_used(here: Path, options: tuple[str, ...], message: str) -> None:
    assert refused(here, "compress", "model.pt", *FAST, *options, "-o", "new.lcnn").startswith(message)


def test_places_that_are_not_written_to(here: Path) -> None:
    (here / "folder").mkdir()
    (here / "model.lcnn" / "notes.txt").write_text("mine")
    for place, code, message in (
        ("folder", 2, "folder: exists and is not an artefact; it will not be replaced, choose another --output"),
        ("model.pt", 2, "model.pt: exists and is not an artefact"),
        ("model.lcnn", 2, "model.lcnn: holds files of yours (notes.txt); move them away or choose another --output"),
        ("none/new.lcnn", FILES, f"none/new.lcnn: the folder {here / 'none'} is not there; create it first"),
    ):
        assert refused(here, "compress", "model.pt", *FAST, "-o", place, code=code).startswith(message)
    assert refused(here, "export", "--onnx", "-o", "none/x.onnx", code=FILES).startswith(
        "none/x.onnx: cannot be written: No such file or directory; create the folder first"
    )


# Data


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 3, 16, 32), np.float32)}, "bad.npz: x has shape (4, 3, 16, 32), but the net takes (1, 3, 32, 32)"),
        ({"x": np.zeros((0, 3, 32, 32), np.float32)}, "bad.npz: holds no examples; give at least one"),
        ({"y": np.zeros(3)}, "bad.npz: holds y, but no array x"),
        ({"x": np.full((2, 3, 32, 32), np.nan, np.float32)}, "bad.npz: x holds 6144 values of 6144 that are NaN"),
    ],
    ids=["wrong shape", "empty", "no x", "NaN"],
)
def test_data_that_cannot_be_used(here: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(here / "bad.npz", **arrays)
    assert refused(here, "compress", "model.pt", *FAST, "--calib", "bad.npz", "-o", "new.lcnn").startswith(message)
    training = ("--data", "bad.npz", "--epochs", 1, "-o", "new.lcnn")
    assert refused(here, "compress", "model.pt", *FAST, *training).startswith(message)
    assert refused(here, "eval", "model.lcnn", "--data", "bad.npz").startswith(message)


def test_data_without_labels_or_with_others(here: Path) -> None:
    x = np.zeros((4, 3, 32, 32), np.float32)
    np.savez(here / "x.npz", x=x)
    assert refused(here, "eval", "model.lcnn", "--data", "x.npz").startswith("the data has no labels or targets")
    assert refused(here, "eval", "model.lcnn").startswith("eval needs labelled data; add --data FOLDER")
    np.savez(here / "y.npz", x=x, y=np.array([0, 1, 2, 10]))
    assert refused(here, "eval", "model.lcnn", "--data", "y.npz").startswith(
        "class numbers run from 0 to 10, but the net returns (4, 10)"
    )
    tuning = ("compress", "model.pt", *FAST, "--epochs", 1, "--batch-size", 4, "--data", "y.npz", "-o", "new.lcnn")
    assert refused(here, *tuning).startswith("class numbers run from 0 to 10")
    one_only = ("compress", "model.pt", *FAST, "--calib", "x.npz", "--mean", "0.5", "-o", "new.lcnn")
    assert refused(here, *one_only) == "mean is (0.5,) and std is None; give both or none"


# Artefacts and configurations


def flip_a_byte(artefact: Path) -> None:
    data = bytearray((artefact / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (artefact / "model.safetensors").write_bytes(data)


def drop_a_tensor(artefact: Path) -> None:
    """A file that is whole by its hash, as a program that rewrites artefacts would leave it."""
    import hashlib

    file = artefact / "model.safetensors"
    tensors = load_file(file)
    del tensors["2.dictionary"]
    save_file(tensors, file)
    change_manifest(artefact, "sha256", lambda old: old | {file.name: hashlib.sha256(file.read_bytes()).hexdigest()})


def change_manifest(artefact: Path, key: str, change: Callable[[object], object]) -> None:
    manifest = json.loads((artefact / "manifest.json").read_text())
    manifest[key] = change(manifest[key])
    (artefact / "manifest.json").write_text(json.dumps(manifest))


ARTEFACTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (flip_a_byte, "model.lcnn/model.safetensors: SHA-256 is "),
    "missing tensor": (drop_a_tensor, "model.lcnn: tensor '2.dictionary' is missing"),
    "missing file": (lambda a: (a / "lcnn.json").unlink(), "model.lcnn/lcnn.json: the file is missing"),
    "newer version": (
        lambda a: change_manifest(a, "format_version", lambda v: v + 1),
        f"model.lcnn: format_version {FORMAT_VERSION + 1} is newer than this lcnn",
    ),
}


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_damaged_artefacts(here: Path, kind: str) -> None:
    damage, message = ARTEFACTS[kind]
    damage(here / "model.lcnn")
    for command in (("export", "--onnx"), ("bench",), ("inspect", "model.lcnn"), ("eval", "--data", "none.npz")):
        assert refused(here, *command).startswith(message), command


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["layers"][1].update(dictionary_size=0), "2: dictionary_size is 0"),
        (lambda v: v["layers"][1].update(dictionary_size=100_000), "2: dictionary_size is 100000"),
        (lambda v: v["layers"][1].update(kind="other"), "2: kind is 'other'"),
        (lambda v: v["layers"][1].update(lookups=-1), "2: lookups is -1"),
        (lambda v: v.pop("init"), "bad.json: not a configuration of this version (KeyError: 'init')"),
        (lambda v: v.update(layers=3), "bad.json: not a configuration of this version (TypeError: "),
        (lambda v: v["layers"].pop(), "the configuration is of another net: it lists 2 layers, the model has 3"),
    ],
)
def test_edited_configurations(here: Path, change: Callable[[dict], object], message: str) -> None:
    values = json.loads((here / "model.lcnn" / "config.json").read_text())
    change(values)
    (here / "bad.json").write_text(json.dumps(values))
    found = refused(here, "compress", "model.pt", "-c", "bad.json", "--no-measure", "-o", "new.lcnn")
    assert found.startswith(message)


def test_configurations_that_cannot_be_read(here: Path) -> None:
    (here / "bad.json").write_text("{")
    assert refused(here, "compress", "model.pt", "-c", "bad.json", "-o", "new.lcnn").startswith("bad.json: not JSON (")
    none = refused(here, "compress", "model.pt", "-c", "none.json", "-o", "new.lcnn", code=FILES)
    assert none.startswith("none.json: cannot be read: No such file or directory")


# Writing that fails

WRITE = """
import os, resource, signal, sys
from lcnn_compress.cli.main import main
from lcnn_compress import files
if sys.argv[1] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
else:
    kept, count = files._flush, iter(range(100))
    def flush(path):
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        kept(path)
    files._flush = flush
sys.argv = ["lcnn", *sys.argv[2:]]
main()
"""


@pytest.mark.parametrize("way", ["full", "kill"])
def test_an_artefact_survives_a_failed_replacement(here: Path, way: str) -> None:
    before = content(here / "model.lcnn")
    args = ("compress", "model.pt", *FAST, "--dict", 16, "-o", "model.lcnn")
    done = child("-c", WRITE, way, *args, cwd=here, code=None)
    if way == "full":
        assert done.returncode == FILES
        assert done.stderr.startswith("error: model.lcnn: cannot be written: File too large; raise the file size limit")
        assert sorted(p.name for p in here.iterdir()) == ["model.lcnn", "model.pt"]
    else:
        assert done.returncode == -9
    assert content(here / "model.lcnn") == before
    lcnn("inspect", "model.lcnn")
    lcnn(*args)  # what a killed run left behind is not in the way
    assert api.load("model.lcnn").config["layers"][1]["dictionary_size"] == 16


# The native library


@pytest.fixture
def no_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package that has no native library."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(
        PACKAGE_PARENT / "lcnn_compress", folder / "lcnn_compress", ignore=shutil.ignore_patterns("_lib", "__pycache__")
    )
    return folder


def test_without_the_library(here: Path, no_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(runtime.LIBRARY_VARIABLE, raising=False)

    def run(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        return child(*args, cwd=here, code=code, PYTHONPATH=str(no_library))

    assert (
        "not run: exported files run at dense speed without the native library; run 'pip install .'"
        in run("doctor", code=MISSING).stdout
    )
    message = run("export", "--onnx", "--no-fallback", "-o", "x.onnx", code=MISSING).stderr
    assert message.startswith("error: the native library is not there (")
    run("export", "--onnx", "-o", "x.onnx")  # the body needs none
    made = run("compress", "model.pt", "--input-shape", "1,3,32,32", "-o", "new.lcnn")
    assert "note: no time was measured (--no-measure, or no native library: see 'lcnn doctor')" in made.stderr


def test_a_library_that_is_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runtime.LIBRARY_VARIABLE, str(here / "none.so"))
    assert refused(here, "doctor", code=MISSING).startswith(f"{runtime.LIBRARY_VARIABLE} is '{here / 'none.so'}': there is no")
    monkeypatch.setenv(runtime.LIBRARY_VARIABLE, str(here / "model.pt"))
    assert "cannot be loaded" in refused(here, "doctor", code=MISSING)


# Exported files

NO_CRASH = """
import sys
from lcnn_compress import runtime
from lcnn_compress.errors import LcnnError
import numpy as np
for path in sys.argv[1:]:
    for native in (True, False):
        try:
            session = runtime.session(path, native=native)
            try:
                session.run(None, {"input": np.ones((2, 3, 32, 32), np.float32)})
                answer = "runs"
            except Exception as error:
                answer = str(error)
        except LcnnError as error:
            answer = str(error)
        print(path, "native" if native else "body", " ".join(answer.split()), sep="|")
"""


def edited(source: Path, target: Path, position: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write a copy of a file with one input of its LookupConv changed."""
    model = onnx.load(source)
    node = next(n for n in model.graph.node if n.op_type == "LookupConv")
    for tensor in model.graph.initializer:
        if tensor.name == node.input[position]:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).copy(), tensor.name))
    onnx.save(model, target)


@needs_library
def test_damaged_files_never_crash_the_process(here: Path) -> None:
    source = here / "model.lcnn" / "model.onnx"
    edited(source, here / "index.onnx", 2, lambda gaps: np.full_like(gaps, np.iinfo(gaps.dtype).max))
    edited(source, here / "shape.onnx", 1, lambda dictionary: dictionary[:, :-1])
    edited(source, here / "k0.onnx", 1, lambda dictionary: dictionary[:0])
    edited(source, here / "uneven.onnx", 3, lambda coefficients: coefficients[:-1])
    edited(source, here / "bias.onnx", 4, lambda bias: bias[:-1])
    names = ["index", "shape", "k0", "uneven", "bias"]
    done = child("-c", NO_CRASH, *(f"{name}.onnx" for name in names), cwd=here)
    answers = {tuple(line.split("|")[:2]): line.split("|")[2] for line in done.stdout.splitlines()}
    assert len(answers) == 2 * len(names)
    for name in names:
        assert "LookupConv '2'" in answers[f"{name}.onnx", "native"], name
        assert answers[f"{name}.onnx", "body"] != "runs", name
    for command in (("inspect", "index.onnx"), ("bench", "index.onnx"), ("eval", "index.onnx", "--data", "none.npz")):
        message = refused(here, *command)
        assert message.startswith("index.onnx: ONNX Runtime "), command
        assert "LookupConv '2'" in message, command


def test_files_that_are_no_onnx(here: Path) -> None:
    (here / "bad.onnx").write_bytes(b"not a model")
    for command in (("inspect", "bad.onnx"), ("bench", "bad.onnx")):
        assert refused(here, *command).startswith("bad.onnx: ONNX Runtime "), command
    assert refused(here, "bench", "none.onnx", code=FILES).startswith("none.onnx: cannot be read")


@needs_library
def test_empty_lists_run_and_give_the_bias(here: Path) -> None:
    """No entry at all is a legal kernel: gaps and coefficients of length 0."""
    source = here / "model.lcnn" / "model.onnx"
    edited(source, here / "half.onnx", 2, lambda gaps: gaps[:0])
    edited(here / "half.onnx", here / "empty.onnx", 3, lambda coefficients: coefficients[:0])
    outputs = [
        runtime.session(here / "empty.onnx", native=native).run(None, {"input": np.full((2, 3, 9, 9), value, np.float32)})[0]
        for native in (True, False)
        for value in (0.0, 1.0)
    ]
    for other in outputs[1:]:  # the input does not reach the output any more
        np.testing.assert_allclose(other, outputs[0], rtol=1e-6)


SHAPES = [(2, 3, 31, 33), (1, 3, 1, 1), (0, 3, 32, 32), (3, 3, 5, 2), (2048, 3, 8, 8)]


@needs_library
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_odd_inputs_to_an_exported_net(folder: Path, shape: tuple[int, ...], native: bool) -> None:
    session = runtime.session(folder / "model.lcnn" / "model.onnx", native=native)
    net = api.load(folder / "model.lcnn").net
    # Not contiguous: a view of every second column of a transposed array.
    wide = np.random.default_rng(0).random((*shape[:2], 2 * shape[3], shape[2]), np.float32)
    x = wide.swapaxes(2, 3)[..., ::2]
    assert not x.flags.c_contiguous or x.size <= 3 * shape[0]
    (found,) = session.run(None, {"input": x})
    with torch.no_grad():
        wanted = net(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    assert found.shape == wanted.shape == (shape[0], 10)
    # Outputs are of order 1; sums of 576 products of float32 differ by far less than this.
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_inputs_of_the_wrong_kind_are_refused_by_the_session(folder: Path) -> None:
    session = runtime.session(folder / "model.lcnn" / "model.onnx")
    for wrong in (np.zeros((1, 4, 8, 8), np.float32), np.zeros((1, 3, 8), np.float32), np.zeros((1, 3, 8, 8))):
        with pytest.raises(runtime.ORT_ERRORS):
            session.run(None, {"input": wrong})


def test_the_stable_files_are_those_of_the_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "model.lcnn" / "manifest.json").read_text())
    assert {*manifest["sha256"], "manifest.json"} == set(STABLE)

"""Every form of net file loads or is refused with its name and a way out, and no code of a file runs unasked."""

from __future__ import annotations

import io
import json
import logging
import pickle
import struct
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from lcnn_compress import api
from lcnn_compress.errors import FileError, LcnnError, ModelError, SettingsError
from lcnn_compress.sources.factory import import_callable, is_callable_spec
from lcnn_compress.sources.load_model import load_model
from lcnn_compress.zoo import fashion_resnet

ARCH = f"{__file__}:small_net"


def small_net() -> nn.Module:
    """Return a net of torch.nn classes alone, 3x8x8 and larger."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


class OwnNet(nn.Module):
    """A class that no known package defines."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)


class Touch:
    """A pickle that creates a file when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.fixture(autouse=True)
def _restore_import_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def saved_program(tmp_path: Path) -> Path:
    batch = torch.export.Dim("batch")
    program = torch.export.export(small_net().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def rewritten(archive: Path, change: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> Path:
    """Copy a zip archive with other content under some of its names (below its root folder)."""
    target = archive.with_stem("changed")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
        for name, content in (extra or {}).items():
            new.writestr(f"{root}/{name}", content)
    return target


def same(a: nn.Module, b: nn.Module) -> bool:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.equal(a.eval()(x), b.eval()(x))


# Forms that load


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pt2", ".onnx", ""])
def test_a_pickled_net_loads_whatever_its_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    torch.save(small_net().train(), path)
    loaded = load_model(str(path))
    assert isinstance(loaded.model, nn.Module)
    assert (loaded.kind, loaded.source, loaded.path, loaded.input_shape) == ("module", str(path), path, None)
    assert loaded.sha256 is not None
    assert len(loaded.sha256) == 64
    assert not any(module.training for module in loaded.model.modules())
    assert same(loaded.model, small_net())


def test_nets_of_the_zoo_and_stored_activations_load_safely(tmp_path: Path) -> None:
    net = fashion_resnet((4, 4, 4))
    activations = [functional.relu, functional.gelu, nn.ReLU]
    net.__dict__["activations"] = activations
    torch.save(net, tmp_path / "net.pt")
    loaded = load_model(str(tmp_path / "net.pt")).model
    assert type(loaded) is type(net)
    assert loaded.activations == activations
    assert loaded(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_data_parallel_is_unwrapped(tmp_path: Path) -> None:
    torch.save(nn.DataParallel(nn.DataParallel(small_net())), tmp_path / "net.pt")
    loaded = load_model(str(tmp_path / "net.pt"))
    assert type(loaded.model) is nn.Sequential
    assert same(loaded.model, small_net())


@pytest.mark.parametrize("wrapper", [torch.compile, nn.DataParallel])
def test_a_net_in_memory_is_unwrapped(wrapper: Callable[[nn.Module], nn.Module]) -> None:
    source = api.open_model(wrapper(small_net()), (1, 3, 8, 8))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(source.net(x), small_net().eval()(x))
    assert source.origin.spec == "Sequential"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.net."])
def test_a_state_dict_fills_the_factory(zipped: bool, key: str | None, prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: value + 1 for name, value in small_net().state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_model(str(tmp_path / "w.pt"), arch=ARCH)
    assert isinstance(loaded.model, nn.Module)
    assert loaded.kind == "state_dict"
    assert torch.equal(loaded.model.get_parameter("0.weight"), small_net().get_parameter("0.weight") + 1)
    assert loaded.notes == ((f"w.pt: the net is under {key!r} of a checkpoint",) if key else ())


def test_a_net_inside_a_checkpoint_loads(tmp_path: Path) -> None:
    torch.save({"model": small_net(), "epoch": 3}, tmp_path / "c.pt")
    loaded = load_model(str(tmp_path / "c.pt"))
    assert isinstance(loaded.model, nn.Module)
    assert loaded.kind == "module"
    assert same(loaded.model, small_net())


def test_safetensors_fill_the_factory(tmp_path: Path) -> None:
    state = {name: value + 1 for name, value in small_net().state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "w.bin")
    loaded = load_model(str(tmp_path / "w.bin"), arch=ARCH)
    assert isinstance(loaded.model, nn.Module)
    assert torch.equal(loaded.model.get_buffer("1.running_mean"), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_nets_of_other_types_are_taken_as_float32(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 900, 2)).to(dtype).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = api.open_model(model, (1, 3, 32, 32))
    assert source.notes == (f"the net holds {str(dtype).removeprefix('torch.')}; it is taken as float32",)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(source.net(x), model.double()(x.double()).float(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor.to(dtype), before[name]) for name, tensor in model.state_dict().items())
    assert api.open_model(model.float(), (1, 3, 32, 32)).notes == ()


def test_a_program_loads_with_the_shape_of_its_example(saved_program: Path) -> None:
    path = saved_program.rename(saved_program.with_suffix(".pt"))
    loaded = load_model(str(path))
    assert isinstance(loaded.model, torch.export.ExportedProgram)
    assert (loaded.kind, loaded.input_shape) == ("pt2", (2, 3, 8, 8))
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(loaded.model.module()(x), small_net().eval()(x))


def test_factories_in_a_file_and_in_a_package_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_of_net.py").write_text("CHANNELS = 5\n")
    (tmp_path / "my_net.py").write_text(
        "from dataclasses import dataclass\nfrom torch import nn\nfrom helper_of_net import CHANNELS\n"
        "@dataclass\nclass Config:\n    width: 'int' = CHANNELS\n"
        "def build():\n    return nn.Conv2d(3, Config().width, 1)\n"
        "class Nets:\n    small = staticmethod(build)\n"
        "instance = build()\n"
    )
    for spec in (f"{tmp_path}/my_net.py:build", f"{tmp_path}/my_net.py:Nets.small", f"{tmp_path}/my_net.py:instance"):
        loaded = load_model(spec)
        assert isinstance(loaded.model, nn.Conv2d)
        assert loaded.model.out_channels == 5
        assert (loaded.kind, loaded.source, loaded.path, loaded.sha256) == ("factory", spec, None, None)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("my_net:build").model, nn.Conv2d)


# Files that would run code


def test_code_in_a_pickle_runs_only_when_it_is_trusted(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    net = small_net()
    net.__dict__["extra"] = Touch(mark)
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"net\.pt: is a pickle that needs .*open, .*`trust_pickle` runs the code.*`arch`"):
        load_model(str(tmp_path / "net.pt"))
    assert not mark.exists()
    assert load_model(str(tmp_path / "net.pt"), trust_pickle=True).kind == "module"
    assert mark.exists()


def test_foreign_classes_are_named_and_load_when_trusted(tmp_path: Path) -> None:
    sys.modules["own_nets"] = type(sys)("own_nets")
    try:
        sys.modules["own_nets"].OwnNet = OwnNet  # type: ignore[attr-defined]
        OwnNet.__module__ = "own_nets"
        torch.save(OwnNet(), tmp_path / "net.pt")
        with pytest.raises(
            ModelError, match=r"net\.pt: is a pickle that needs own_nets\.OwnNet, which is not known to be safe"
        ):
            load_model(str(tmp_path / "net.pt"))
        assert isinstance(load_model(str(tmp_path / "net.pt"), trust_pickle=True).model, OwnNet)
    finally:
        del sys.modules["own_nets"]
    with pytest.raises(
        ModelError, match=r"net\.pt: its code cannot be imported \(ModuleNotFoundError: .*own_nets.*run in the folder"
    ):
        load_model(str(tmp_path / "net.pt"), trust_pickle=True)


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval", "builtins exec", "builtins getattr", "os system", "posix system", "subprocess Popen",
        "torch.nn.modules.module torch", "torch.nn.modules.module.torch.os system", "torch.nn.modules.container islice",
        "torch.nn.modules.container OrderedDict.fromkeys", "torch.nn.modules.module register_module_forward_hook",
        "torch.nn.modules.utils import_module", "torch.nn.functional boolean_dispatch",
        "torch.fx.graph_module reduce_graph_module", "torch.hub load", "lcnn_compress.zoo resnet18", "lcnn_compress.zoo torch",
        "torch.jit load", "timm.models evil",
    ],
)  # fmt: skip
def test_dangerous_globals_are_never_allowed(name: str, tmp_path: Path) -> None:
    module, attribute = name.split()
    code = f"\x80\x02c{module}\n{attribute}\n.".encode("latin-1")
    torch.save(small_net(), tmp_path / "net.pt")
    path = rewritten(tmp_path / "net.pt", lambda inner, content: code if inner == "data.pkl" else content)
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert f"is a pickle that needs {module}.{attribute}, which is not known to be safe" in str(caught.value)


def test_pickles_of_other_protocols_and_old_whole_nets_are_refused(tmp_path: Path) -> None:
    torch.save(small_net(), tmp_path / "p4.pt", pickle_protocol=4)
    torch.save(small_net(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("p4.pt", "old.pt"):
        with pytest.raises(
            ModelError, match=rf"{name}: holds more than tensors, in a form that cannot be read safely; .*`trust_pickle`"
        ):
            load_model(str(tmp_path / name))
        trusted = load_model(str(tmp_path / name), trust_pickle=True).model
        assert isinstance(trusted, nn.Module)
        assert same(trusted, small_net())


def test_timm_and_torchvision_classes_count_only_where_pip_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "timm" / "models"
    package.mkdir(parents=True)
    (tmp_path / "timm" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "tiny.py").write_text(
        f"from pathlib import Path\nfrom torch import nn\nPath({str(tmp_path / 'mark')!r}).touch()\n"
        "class Tiny(nn.Conv2d):\n    pass\ndef tiny():\n    return Tiny(3, 4, 3)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        torch.save(import_callable("timm.models.tiny:tiny", ModelError)(), tmp_path / "net.pt")
        for name in [name for name in sys.modules if name.startswith("timm")]:
            del sys.modules[name]
        (tmp_path / "mark").unlink()
        with pytest.raises(ModelError, match=r"needs timm\.models\.tiny\.Tiny, which is not known"):
            load_model(str(tmp_path / "net.pt"))
        assert not (tmp_path / "mark").exists()
        monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
        assert type(load_model(str(tmp_path / "net.pt")).model).__name__ == "Tiny"
    finally:
        for name in [name for name in sys.modules if name.startswith("timm")]:
            del sys.modules[name]


def test_a_program_with_a_pickle_inside_runs_it_only_when_trusted(
    saved_program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "torch._export.serde.serialize")  # its warning in torch 2.13 has too few arguments
    buffer = io.BytesIO()
    torch.save(((Touch(tmp_path / "mark"),), {}), buffer)
    inputs = buffer.getvalue()
    path = rewritten(saved_program, lambda name, content: inputs if name.startswith("data/sample_inputs") else content)
    with pytest.raises(ModelError, match=r"could run code \(pickle data/sample_inputs/model\.pt\); .*`trust_pickle`"):
        load_model(str(path))
    assert not (tmp_path / "mark").exists()
    assert load_model(str(path), trust_pickle=True).input_shape is None
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("old", "new", "risk"),
    [
        ('"expr_str": "', '"expr_str": "exec(chr(49)) + ', 'expr_str "exec'),
        ('"torch.ops.aten.relu.default"', '"torch.os.system"', "target 'torch.os.system'"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.save.default"', "target 'torch.ops.aten.save.default'"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.load_library"', "target 'torch.ops.load_library'"),
        ('"name": "relu"', '"name": "relu=exec(1)"', "name 'relu=exec"),
        (r"\"context\": \"null\"", r"\"context\": \"\\u005f_enum__\"", "in_spec"),
        (r"\"context\": \"null\"", r"\"context\": \"__enum__\"", "in_spec"),
    ],
)
def test_a_program_that_says_more_than_operators_and_sizes_is_refused(
    old: str, new: str, risk: str, saved_program: Path
) -> None:
    changes = 0

    def change(name: str, content: bytes) -> bytes:
        nonlocal changes
        changes += name == "models/model.json" and old.encode() in content
        return content.replace(old.encode(), new.encode()) if name == "models/model.json" else content

    path = rewritten(saved_program, change)
    assert changes == 1
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert "could run code" in str(caught.value)
    assert risk in str(caught.value)


def test_compiled_libraries_and_pickled_constants_in_a_program_are_refused(saved_program: Path) -> None:
    path = rewritten(saved_program, lambda _, content: content, {"data/aotinductor/model/a.so": b""})
    with pytest.raises(ModelError, match=r"compiled library data/aotinductor/model/a\.so"):
        load_model(str(path))
    constants = json.dumps({"config": {"c": {"path_name": "opaque_obj_0", "use_pickle": [[]], "is_param": False}}}).encode()
    path = rewritten(saved_program, lambda name, content: constants if name.endswith("constants_config.json") else content)
    with pytest.raises(ModelError, match=r"path_name 'opaque_obj_0'.*a pickled constant"):
        load_model(str(path))


def test_a_pickle_without_the_attributes_of_a_module_is_damaged(tmp_path: Path) -> None:
    net = small_net()
    del net.__dict__["_buffers"]
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"net\.pt: is damaged or ends too early \(AttributeError: .*_buffers"):
        load_model(str(tmp_path / "net.pt"))


# Files that are something else


def zip_of(path: Path, **content: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)


def write_script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(small_net().eval(), torch.zeros(1, 3, 8, 8)), path)  # type: ignore[no-untyped-call]


def write_onnx(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:])), path)


def write_safetensors(path: Path, header_bytes: int) -> None:
    path.write_bytes(struct.pack("<Q", header_bytes) + b'{"a":' + bytes(20))


def write_old_program(path: Path) -> None:
    zip_of(path, **{"serialized_exported_program.json": "{}", "version": "1.0"})


def write_cut(path: Path, zipped: bool) -> None:
    torch.save(small_net().state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "is empty; save or copy it again"),
        (lambda path: path.mkdir(), "is a folder, not a net; give a .pt"),
        (write_script, "is a TorchScript archive, which holds no layers; write the net with torch.export.save, or save its"),
        (write_onnx, "is an ONNX model; give the PyTorch net"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50)), "is an HDF5 file (Keras); "),
        (lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(50)), "is a TensorFlow Lite model; "),
        (lambda path: np.savez(path.open("wb"), x=np.zeros(3)), "is a NumPy archive (.npz), not a net"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "is a NumPy array, not a net"),
        (lambda path: zip_of(path, a="1", b="2"), "is a zip archive of something else (it holds a, b); give a .pt"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a pickle that torch.save did not write"),
        (lambda path: path.write_bytes(b"\x08"), "is not a file of PyTorch (it starts with 08)"),
        (lambda path: path.write_bytes(bytes(range(200, 256))), "is not a file of PyTorch (it starts with c8 c9 ca cb cc"),
        (lambda path: write_cut(path, True), "starts like a torch.save archive but is damaged or ends too early; copy it"),
        (lambda path: write_cut(path, False), "is damaged or ends too early"),
        (lambda path: write_safetensors(path, 900), "is a safetensors file that ends too early (33 bytes)"),
        (lambda path: write_safetensors(path, 5), "is damaged or ends too early (SafetensorError"),
        (lambda path: torch.save([1, 2], path), "holds a list, not a net and not a state_dict"),
        (lambda path: torch.save({"epoch": 3, "lr": 0.1}, path), "holds a dict of 'epoch', 'lr', but no net and no state_dict"),
        (lambda path: torch.save({"model": {"a": 1}}, path), "holds a dict, not a net and not a state_dict"),
        (lambda path: torch.save({}, path), "holds a dict of , but no net"),
        (write_old_program, "is a torch.export program that could run code (written by torch 2.7 or older); "),
    ],
)  # fmt: skip
def test_other_files_are_named(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path / "thing.pt")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "thing.pt"))
    assert str(caught.value).startswith(f"{tmp_path}/thing.pt: ")
    assert message in str(caught.value)


def test_python_source_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("x = 1\n")
    with pytest.raises(ModelError, match=r"net\.py: is Python source; name the factory in it, as in .*net\.py:make_net"):
        load_model(str(tmp_path / "net.py"))
    with pytest.raises(FileError, match=r"none\.pt: no such file; check the path, or name a factory") as caught:
        load_model(str(tmp_path / "none.pt"))
    assert caught.value.exit_code == 5


def test_damage_inside_an_archive_is_reported(saved_program: Path, tmp_path: Path) -> None:
    torch.save(small_net(), tmp_path / "net.pt")
    path = rewritten(tmp_path / "net.pt", lambda name, content: content[:-30] if name == "data.pkl" else content)
    with pytest.raises(ModelError, match=r"changed\.pt: "):
        load_model(str(path))
    path = rewritten(saved_program, lambda name, content: b"{" if name == "models/model.json" else content)
    with pytest.raises(ModelError, match=r"changed\.pt2: is damaged or ends too early \(JSONDecodeError"):
        load_model(str(path))


# state_dicts and factories that do not fit


def test_a_state_dict_needs_an_architecture(tmp_path: Path) -> None:
    torch.save(small_net().state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: is a state_dict of 9 tensors, not a net; add `arch` pkg\.mod:factory"):
        load_model(str(tmp_path / "w.pt"))


def test_an_architecture_needs_a_state_dict(tmp_path: Path) -> None:
    torch.save(small_net(), tmp_path / "net.pt")
    with pytest.raises(
        SettingsError, match=r"net\.pt: is a whole net \(module\), but `arch` is .*:small_net; leave `arch` out"
    ):
        load_model(str(tmp_path / "net.pt"), arch=ARCH)
    with pytest.raises(SettingsError, match=r"is a whole net \(factory\)"):
        load_model(ARCH, arch=ARCH)


def test_differences_from_the_architecture_are_listed(tmp_path: Path) -> None:
    state = small_net().state_dict()
    state["0.weight"] = torch.zeros(4, 1, 3, 3)
    state["0.bias"] = torch.zeros(4, dtype=torch.int8)
    del state["5.bias"], state["1.num_batches_tracked"]
    state |= {f"head.{i}": torch.zeros(1) for i in range(5)}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "w.pt"), arch=ARCH)
    assert str(caught.value) == (
        f"{tmp_path}/w.pt: does not fit `arch` {ARCH} (1 missing: 5.bias; 5 unexpected: head.0, head.1, head.2 and 2 more; "
        "2 different: 0.weight torch.float32 (4, 1, 3, 3) in the file, torch.float32 (4, 3, 3, 3) in the net, "
        "0.bias torch.int8 (4,) in the file, torch.float32 (4,) in the net); name the factory of the saved net"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "no_such_package.sub:net",
            "no_such_package.sub:net: no module named 'no_such_package'; install it or run in the folder",
        ),
        ("lcnn_compress.nothing:net", "no module named 'lcnn_compress.nothing'"),
        ("lcnn_compress.zoo:resnet", "lcnn_compress.zoo has no 'resnet'; it holds "),
        ("nowhere.py:net", "nowhere.py:net: no file nowhere.py; check the path before the colon"),
        ("{folder}/bad.py:good", "bad.py:good: importing it raised ModuleNotFoundError: No module named 'not_there'"),
        ("{folder}/syntax.py:good", "syntax.py:good: importing it raised SyntaxError"),
        ("{folder}/good.py:raises", "good.py:raises: calling it without arguments raised ValueError: width is 0"),
        ("{folder}/good.py:needs", "good.py:needs: calling it without arguments raised TypeError"),
        ("{folder}/good.py:number", "good.py:number: is of type int, not a function"),
        ("{folder}/good.py:wrong", "good.py:wrong: returned an object of type dict; it must return a torch.nn.Module"),
    ],
)
def test_factories_that_fail(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import not_there\n")
    (tmp_path / "syntax.py").write_text("def good(:\n")
    (tmp_path / "good.py").write_text(
        "number = 3\ndef raises():\n    raise ValueError('width is 0\\nsecond line')\ndef needs(n):\n    pass\n"
        "def wrong():\n    return {}\n"
    )
    torch.save(small_net().state_dict(), tmp_path / "w.pt")
    spec = spec.format(folder=tmp_path)
    with pytest.raises(ModelError) as by_itself:
        load_model(spec)
    with pytest.raises(ModelError) as as_arch:
        load_model(str(tmp_path / "w.pt"), arch=spec)
    assert message in str(by_itself.value)
    assert str(as_arch.value) == str(by_itself.value)
    assert "second line" not in str(by_itself.value)


def test_import_callable_raises_the_error_it_is_told() -> None:
    with pytest.raises(LcnnError, match="no module named 'nope'") as caught:
        import_callable("nope:f", SettingsError)
    assert type(caught.value) is SettingsError


def test_specs_of_callables() -> None:
    assert all(map(is_callable_spec, ["a:b", "a.b.c:d", "a/b.py:c", "../x y.py:C.make", "/a.py:b"]))
    assert not any(map(is_callable_spec, ["a", "a.pt", "a:b:c", "a-b:c", "a/b:c", "a.py", "a:", ":b", "a:1", "a..b:c"]))

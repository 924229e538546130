"""Files are told apart by content, and no code of a file runs unasked."""

from __future__ import annotations

import json
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_files import ARCH, Touch, rewritten, same, small_net
from safetensors.torch import save_file
from torch import nn

from lcnn_compress.errors import ModelError
from lcnn_compress.sources.load_model import load_model


class OwnNet(nn.Module):
    """A class that no known package defines."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)


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


def test_a_program_loads_with_the_shape_of_its_example(saved_program: Path) -> None:
    path = saved_program.rename(saved_program.with_suffix(".pt"))
    loaded = load_model(str(path))
    assert isinstance(loaded.model, torch.export.ExportedProgram)
    assert (loaded.kind, loaded.input_shape) == ("pt2", (2, 3, 8, 8))
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(loaded.model.module()(x), small_net().eval()(x))


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
        OwnNet.__module__ = __name__
    with pytest.raises(
        ModelError, match=r"net\.pt: its code cannot be imported \(ModuleNotFoundError: .*own_nets.*run in the folder"
    ):
        load_model(str(tmp_path / "net.pt"), trust_pickle=True)


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
        (lambda path: torch.save({"model": {"a": 1}}, path), "holds a dict of 'model', but no net and no state_dict"),
        (lambda path: torch.save({}, path), "holds a dict, not a net and not a state_dict"),
        (write_old_program, "is a torch.export program that could run code (written by torch 2.7 or older); "),
    ],
)  # fmt: skip
def test_other_files_are_named(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path / "thing.pt")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "thing.pt"))
    assert str(caught.value).startswith(f"{tmp_path}/thing.pt: ")
    assert message in str(caught.value)


def test_damage_inside_an_archive_is_reported(saved_program: Path, tmp_path: Path) -> None:
    torch.save(small_net(), tmp_path / "net.pt")
    path = rewritten(tmp_path / "net.pt", lambda name, content: content[:-30] if name == "data.pkl" else content)
    with pytest.raises(ModelError, match=r"changed\.pt: "):
        load_model(str(path))
    path = rewritten(saved_program, lambda name, content: b"{" if name == "models/model.json" else content)
    with pytest.raises(ModelError, match=r"changed\.pt2: is damaged or ends too early \(JSONDecodeError"):
        load_model(str(path))


@pytest.mark.parametrize(
    ("held", "where"),
    [(lambda w: w, ""), (lambda w: {"model": w, "ema": {"module": {**w}}, "epoch": 1}, ", under 'model', 'ema.module'")],
)
def test_a_state_dict_needs_an_architecture(held: Callable[[object], object], where: str, tmp_path: Path) -> None:
    torch.save(held(small_net().state_dict()), tmp_path / "w.pt")
    n = 18 if where else 9
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "w.pt"))
    assert f"w.pt: is a state_dict of {n} tensors{where}, not a net; add `arch` pkg.mod:factory" in str(caught.value)


@pytest.mark.parametrize("held", [{"epoch": 3}, {"model": OwnNet()}, [1], pickle.dumps({"a": 1})])
def test_a_factory_that_was_given_is_not_asked_for(held: object, tmp_path: Path) -> None:
    if isinstance(held, bytes):
        (tmp_path / "c.pt").write_bytes(held)
    else:
        torch.save(held, tmp_path / "c.pt")
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "c.pt"), arch=ARCH)
    assert "name the factory" not in str(caught.value)
    assert "`arch`" not in str(caught.value)


def test_names_that_are_not_utf8_are_read(saved_program: Path, tmp_path: Path) -> None:
    name = b"net_\xe4.pt".decode("utf-8", "surrogateescape")
    loaded = load_model(str(saved_program.rename(tmp_path / name)))
    assert isinstance(loaded.model, torch.export.ExportedProgram)
    torch.save(small_net(), tmp_path / name)
    assert isinstance(load_model(str(tmp_path / name)).model, nn.Module)
    save_file(small_net().state_dict(), tmp_path / "w")
    (tmp_path / "w").rename(tmp_path / name)
    assert load_model(str(tmp_path / name), arch=ARCH).kind == "state_dict"


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


def written_forms(folder: Path, program: Path) -> dict[str, bytes]:
    """A net in every form of file."""
    torch.save(small_net(), folder / "net.pt")
    torch.save(small_net().state_dict(), folder / "weights.pt")
    torch.save(small_net().state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(small_net().state_dict(), folder / "weights.safetensors")
    names = ("net.pt", "weights.pt", "legacy.pt", "weights.safetensors")
    return {name: (folder / name).read_bytes() for name in names} | {"program.pt2": program.read_bytes()}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_bytes_that_are_lost_or_changed_are_named_or_harmless(seed: int, saved_program: Path, tmp_path: Path) -> None:
    """Values of weights may change; everything else is a net or an error of ours, at once."""
    rng, refused = np.random.default_rng(seed), dict[Path, str]()
    forms = written_forms(tmp_path, saved_program)
    for number, (name, whole) in enumerate([*forms.items()] * 12):
        broken = bytearray(whole)
        for _ in range(int(rng.integers(1, 5))):
            broken[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{number}.{name}"
        path.write_bytes(broken[: int(rng.integers(len(whole)))] if number % 3 == 0 else broken)
        try:
            load_model(str(path), arch=ARCH if name.startswith(("weights", "legacy")) else None)
        except ModelError as error:
            refused[path] = str(error)
    assert len(refused) >= 15
    assert [text for path, text in refused.items() if not text.startswith(f"{path}: ")] == []


class _Made:
    """A tensor of a file with a size, a place and steps of its choice."""

    def __init__(self, offset: Any, size: Any, stride: Any) -> None:
        self.given = (torch.zeros(8).untyped_storage(), offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.storage.TypedStorage(wrap_storage=self.given[0], dtype=torch.float32, _internal=True)  # type: ignore[no-untyped-call]
        return torch._utils._rebuild_tensor_v2, (storage, *self.given[1:])


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (10**6,), (1,)), (5, (4,), (1,)), (-1, (4,), (1,)), (2**62, (4,), (1,)), (0, (-4,), (1,)), (0, (4,), (-1,)),
        (0, (4,), (2**62,)), (0, (2**40, 2**40), (0, 0)), (0, (4,), (1, 1)), (0, ("4",), (1,)), (None, (4,), (1,)), (0, 4, 1),
    ],
)  # fmt: skip
def test_tensors_that_reach_outside_of_their_file_are_refused(offset: Any, size: Any, stride: Any, tmp_path: Path) -> None:
    state: dict[str, Any] = small_net().state_dict()
    state["5.bias"] = _Made(offset, size, stride)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: "):
        load_model(str(tmp_path / "w.pt"), arch=ARCH)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**9]}, {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}, {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2]}, 3, None,
    ],
)  # fmt: skip
def test_headers_that_lie_are_refused(entry: object, tmp_path: Path) -> None:
    header = json.dumps({"5.bias": entry}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(ModelError, match=r"w\.safetensors: is damaged or ends too early"):
        load_model(str(tmp_path / "w.safetensors"), arch=ARCH)


def test_archives_that_unpack_to_much_more_are_refused(tmp_path: Path) -> None:
    """torch.save stores records as they are; one that is compressed could be of any size."""
    torch.save(small_net().state_dict(), tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as old, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(60 << 20) if name.endswith("data/0") else old.read(name))
    with pytest.raises(ModelError, match=r"bomb\.pt: "):
        load_model(str(tmp_path / "bomb.pt"), arch=ARCH)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "other/data.pkl"])
def test_names_in_an_archive_lead_nowhere(name: str, tmp_path: Path) -> None:
    torch.save(small_net().state_dict(), tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.writestr(name, b"content")
    before = {path.name for path in tmp_path.parent.iterdir()}
    with suppress(ModelError):
        load_model(str(tmp_path / "w.pt"), arch=ARCH)
    assert {path.name for path in tmp_path.parent.iterdir()} == before
    assert not Path("/tmp/outside").exists()


def test_a_pickle_that_holds_itself_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = {"model": None}
    state["model"] = state
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: "):
        load_model(str(tmp_path / "w.pt"), arch=ARCH)

"""Every form of net file loads, in evaluation mode, or is refused with its name and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_files import ARCH, same, small_net
from torch import nn

from lcnn_compress import api
from lcnn_compress.errors import FileError, ModelError, SettingsError
from lcnn_compress.sources.load_model import load_model


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


def test_a_pickle_without_the_attributes_of_a_module_is_damaged(tmp_path: Path) -> None:
    net = small_net()
    del net.__dict__["_buffers"]
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"net\.pt: a module of class Sequential in it has no _buffers; the file is damaged"):
        load_model(str(tmp_path / "net.pt"))


def test_python_source_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("x = 1\n")
    with pytest.raises(ModelError, match=r"net\.py: is Python source; name the factory in it, as in .*net\.py:make_net"):
        load_model(str(tmp_path / "net.py"))
    with pytest.raises(FileError, match=r"none\.pt: no such file; check the path, or name a factory") as caught:
        load_model(str(tmp_path / "none.pt"))
    assert caught.value.exit_code == 5


def test_an_architecture_needs_a_state_dict(tmp_path: Path) -> None:
    torch.save(small_net(), tmp_path / "net.pt")
    with pytest.raises(
        SettingsError, match=r"net\.pt: is a whole net \(module\), but `arch` is .*:small_net; leave `arch` out"
    ):
        load_model(str(tmp_path / "net.pt"), arch=ARCH)
    with pytest.raises(SettingsError, match=r"is a whole net \(factory\)"):
        load_model(ARCH, arch=ARCH)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.state_dict()["0.weight"].view(-1)[:2] = value
    torch.save(net, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"net\.pt: 0\.weight holds 2 values of 108 that are NaN or infinite"):
        load_model(str(tmp_path / "net.pt"))
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    with pytest.raises(ModelError, match=r"net\.pt2: 0\.weight holds 2 values of 108"):
        load_model(str(tmp_path / "net.pt2"))


def test_parameters_without_values_are_named(tmp_path: Path) -> None:
    (tmp_path / "lazy_net.py").write_text(
        "from torch import nn\ndef lazy():\n    return nn.LazyLinear(3)\n"
        "def meta():\n    return nn.Linear(2, 3, device='meta')\n"
    )
    for name in ("lazy", "meta"):
        with pytest.raises(ModelError, match=rf"lazy_net\.py:{name}: weight has no values yet; run the net once"):
            load_model(f"{tmp_path}/lazy_net.py:{name}")

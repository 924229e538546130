"""No pickle runs code of its own: what it names is a class of a net that is installed here, or nothing comes of it."""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import PACKAGE_PARENT, child
from model_files import ARCH, rewritten, same, small_net
from torch import nn
from torch.nn import functional

from lcnn_compress.errors import ModelError
from lcnn_compress.sources.factory import import_callable
from lcnn_compress.sources.load_model import load_model
from lcnn_compress.sources.safe_pickle import read_pickle
from lcnn_compress.zoo import fashion_resnet


class Plain:
    """What a trainer keeps beside weights."""

    def __init__(self) -> None:
        self.value = 3


class Slots:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 3


class Mapping(dict[str, object]):
    """The same as a dict with attributes."""


class Listed(list[object]):
    """The same as a list, which torch's unpickler fills only if it is one."""


def written(code: bytes, tmp_path: Path) -> Path:
    """Write a file of torch.save that holds a pickle of ours."""
    torch.save(small_net(), tmp_path / "net.pt")
    return rewritten(tmp_path / "net.pt", lambda name, content: code if name == "data.pkl" else content)


def test_nets_of_the_zoo_and_stored_activations_load_safely(tmp_path: Path) -> None:
    net = fashion_resnet((4, 4, 4))
    activations = [functional.relu, functional.gelu, nn.ReLU]
    net.__dict__["activations"] = activations
    torch.save(net, tmp_path / "net.pt")
    loaded = load_model(str(tmp_path / "net.pt")).model
    assert type(loaded) is type(net)
    assert loaded.activations == activations
    assert loaded(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


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


@pytest.mark.parametrize(
    ("code", "called"),
    [
        (b"ctorch.nn.modules.linear\nLinear\n(K\x02K\x03tR.", "torch.nn.modules.linear.Linear"),
        # through the memo, out of a tuple of one, after other things
        (b"ctorch.nn.modules.linear\nLinear\nq\x05}K\x01\x85h\x05K\x02K\x03\x86R.", "torch.nn.modules.linear.Linear"),
        (
            b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch.nn.modules.linear\nLinear\nctorch.nn.modules.linear\nLinear\n"
            b"K\x02K\x03\x86}tR.",
            "torch._tensor._rebuild_from_type_v2",
        ),
    ],
)
def test_classes_of_nets_are_made_but_never_called(
    code: bytes, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(b"\x80\x02" + code, tmp_path)
    calls: list[object] = []
    monkeypatch.setattr(nn.Linear, "__init__", lambda *given: calls.append(given))
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert f"needs a call of {called}, which is not known to be safe" in str(caught.value)
    assert calls == []


@pytest.mark.parametrize(
    "beside",
    [argparse.Namespace(lr=1), Plain(), Slots(), Mapping(a=1), defaultdict(list, a=[1]), Path("x"), np.float64(3), Plain],
)
def test_weights_beside_unknown_objects_are_read(beside: object, tmp_path: Path) -> None:
    if isinstance(beside, Mapping):
        beside.extra = 1  # type: ignore[attr-defined]
    torch.save({"model": small_net().state_dict(), "args": beside}, tmp_path / "c.pt")
    _, foreign = read_pickle(tmp_path / "c.pt")
    assert foreign
    loaded = load_model(str(tmp_path / "c.pt"), arch=ARCH).model
    assert isinstance(loaded, nn.Module)
    assert same(loaded, small_net())


def test_unknown_objects_that_cannot_be_stood_in_for_are_named(tmp_path: Path) -> None:
    torch.save({"model": small_net().state_dict(), "args": Listed([1])}, tmp_path / "c.pt")
    with pytest.raises(
        ModelError, match=r"needs .*test_safe_pickle\.Listed, .*`trust_pickle`.*; otherwise save its state_dict$"
    ):
        load_model(str(tmp_path / "c.pt"), arch=ARCH)


def test_weights_that_do_not_fit_beside_unknown_objects_say_what_was_not_read(tmp_path: Path) -> None:
    torch.save({"model": Plain(), "mean": torch.zeros(3)}, tmp_path / "c.pt")
    with pytest.raises(ModelError, match=r"does not fit `arch` .*Plain in it was not read, which `trust_pickle` changes"):
        load_model(str(tmp_path / "c.pt"), arch=ARCH)


def test_a_net_beside_unknown_objects_is_not_taken(tmp_path: Path) -> None:
    torch.save({"model": small_net(), "args": Plain()}, tmp_path / "c.pt")
    with pytest.raises(ModelError, match=r"needs .*test_safe_pickle\.Plain, which is not known to be safe"):
        load_model(str(tmp_path / "c.pt"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"ctorch\nFloatTensor\n(J\0\0\0\x10J\0\0\0\x10tR.", "holds something that takes more memory than there is"),
        (
            b"c__builtin__\nbytearray\n\x8a\x08\0\0\0\0\0\0\0\x10\x85R.",
            "more memory than there is (MemoryError); save the weights",
        ),
        (b")" + b"\x85" * 3000 + b".", "is nested more than 50 deep, as no checkpoint is"),
        (b"}q\x00X\x01\0\0\0ah\x00s.", "holds a dict of 'a', but no net and no state_dict"),  # contains itself
    ],
)
def test_hostile_pickles_are_refused_by_what_they_are(code: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(str(written(b"\x80\x02" + code, tmp_path)))
    assert message in str(caught.value)


def test_timm_and_torchvision_classes_count_only_where_pip_installs(tmp_path: Path) -> None:
    # Both processes find the folder on their path, but only for the second one it is one that pip installs into.
    home = Path(sysconfig.get_path("purelib", "posix_user", {"userbase": str(tmp_path / "user")}))
    package = home / "timm" / "models"
    package.mkdir(parents=True)
    (home / "timm" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "tiny.py").write_text(
        f"from pathlib import Path\nfrom torch import nn\nPath({str(tmp_path / 'mark')!r}).touch()\n"
        "class Tiny(nn.Conv2d):\n    pass\ndef tiny():\n    return Tiny(3, 4, 3)\n"
    )
    sys.path.insert(0, str(home))
    try:
        torch.save(import_callable("timm.models.tiny:tiny", ModelError)(), tmp_path / "net.pt")
    finally:
        for name in [name for name in sys.modules if name.startswith("timm")]:
            del sys.modules[name]
    (tmp_path / "mark").unlink()
    with pytest.raises(ModelError, match=r"needs timm\.models\.tiny\.Tiny, which is not known"):
        load_model(str(tmp_path / "net.pt"))
    assert not (tmp_path / "mark").exists()
    code = "from lcnn_compress.sources.load_model import load_model; print(type(load_model('net.pt').model).__name__)"
    paths = os.pathsep.join([str(home), str(PACKAGE_PARENT)])
    done = child("-c", code, cwd=tmp_path, PYTHONPATH=paths, PYTHONUSERBASE=str(tmp_path / "user"))
    assert done.stdout.splitlines()[-1] == "Tiny"

"""Modules of a file get names of ours, and what no saved net has is refused before anything looks at them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_files import same, small_net
from torch import nn
from torch.nn import functional

from lcnn_compress import api
from lcnn_compress.errors import ModelError
from lcnn_compress.sources.load_model import load_model

HOSTILE = [
    'm", exec("raise SystemExit"), "', "it's", "back\\slash", "new\nline", "tab\t", "esc\x1b[31m", "\u202eright", "\udce4",
    "a.b", "", " ", "[/red]", "(x)", "{x}", "`x`", "\ufb01t", "forward", "__class__", "training", "_modules", "self.x", 7, None,
]  # fmt: skip


def loaded(net: nn.Module, folder: Path) -> tuple[nn.Module, tuple[str, ...]]:
    torch.save(net, folder / "net.pt")
    found = load_model(str(folder / "net.pt"))
    assert isinstance(found.model, nn.Module)
    return found.model, found.notes


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["_modules", "_parameters", "_buffers"])
def test_names_that_are_no_words_are_replaced(name: str, place: str, tmp_path: Path) -> None:
    net = small_net()
    part = {"_modules": nn.Conv2d(2, 2, 1), "_parameters": nn.Parameter(torch.ones(2)), "_buffers": torch.ones(2)}[place]
    parts = getattr(net[0], place)
    parts[name] = part
    parts["last"] = None
    model, notes = loaded(nn.ModuleDict({"in": net}), tmp_path)
    conv = model.get_submodule("in.0")
    (new,) = [key for key, value in getattr(conv, place).items() if value is not None and key not in ("weight", "bias")]
    assert re.fullmatch(r"[\w-]+", new)
    assert new != name
    assert getattr(conv, new) is getattr(conv, place)[new]  # nothing hides it
    assert list(getattr(conv, place))[-2:] == [new, "last"]
    assert notes == (
        f"net.pt: names of parts of the net that are no plain words, or taken, are replaced: {name!r} is {new} now",
    )
    assert same(model.get_submodule("in"), small_net())


def test_new_names_are_those_of_no_other_part(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    for name in ('a"', "a'", "a_2", "a_3", "a\n"):
        net._modules[name] = nn.Conv2d(4, 4, 1)
    net._buffers["0"] = torch.ones(1)
    model, notes = loaded(net, tmp_path)
    names = [*model._modules, *model._buffers]
    assert len(set(names)) == len(names) == 8
    assert [name for name, _ in model.named_children()][-4:-1] == ["a_4", "a_2", "a_3"]
    assert "'a\\n' is a_5 now" in notes[0]
    assert model(torch.zeros(1, 3, 2, 2)).shape == (1, 4, 2, 2)


def test_many_names_are_counted_and_long_ones_cut(tmp_path: Path) -> None:
    net = small_net()
    for number in range(8):
        net._modules[f"{number}." + "x" * 999] = nn.ReLU()
    _, (note,) = loaded(net, tmp_path)
    assert note.endswith(" and 3 more")
    assert len(note) < 1000


def test_buffers_that_are_not_saved_stay_so_under_new_names(tmp_path: Path) -> None:
    net = small_net()
    net.register_buffer("cache", torch.ones(1), persistent=False)
    net._buffers["it's"] = net._buffers.pop("cache")
    net._non_persistent_buffers_set = {"it's"}
    model, _ = loaded(net, tmp_path)
    assert "it_s" in dict(model.named_buffers())
    assert "it_s" not in model.state_dict()


def test_nets_that_are_only_reached_through_attributes_are_checked_too(tmp_path: Path) -> None:
    hidden = nn.Sequential(nn.Conv2d(3, 3, 1))
    hidden._modules['"'] = nn.ReLU()
    net = small_net()
    net.__dict__["extra"] = {"list": [(hidden,)]}
    model, notes = loaded(net, tmp_path)
    extra: dict[str, list[tuple[nn.Module]]] = model.__dict__["extra"]
    assert [name for name, _ in extra["list"][0][0].named_children()] == ["0", "part"]
    assert "is part now" in notes[0]


def test_no_code_in_a_name_runs_on_the_way_to_onnx(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').write('x')"
    evil = f'm", exec(bytes({list(code.encode())})), "'
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Conv2d(4, 4, 3)).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = net(x)
    for name in ("0", "1", "2"):
        net._modules[evil + name] = net._modules.pop(name)
    torch.save(net, tmp_path / "net.pt")
    source = api.open_model(str(tmp_path / "net.pt"), (1, 3, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(source.net(x), expected)
    assert not mark.exists()
    assert "exec(" not in source.net.code


def test_a_trusted_net_keeps_its_names(tmp_path: Path) -> None:
    net = small_net()
    net._modules["it's"] = nn.ReLU()
    torch.save(net, tmp_path / "net.pt")
    trusted = load_model(str(tmp_path / "net.pt"), trust_pickle=True)
    assert isinstance(trusted.model, nn.Module)
    assert "it's" in dict(trusted.model.named_children())
    assert trusted.notes == ()


def circular(net: nn.Module) -> None:
    net._modules["again"] = nn.Sequential(net)


def deep(net: nn.Module) -> None:
    inner: nn.Module = nn.ReLU()
    for _ in range(120):
        inner = nn.Sequential(inner)
    net._modules["deep"] = inner


def doubling(net: nn.Module) -> None:
    inner: nn.Module = nn.ReLU()
    for _ in range(40):
        inner = nn.Sequential(inner, inner)
    net._modules["doubling"] = inner


def holding(place: str, name: object, value: object) -> Callable[[nn.Module], None]:
    def change(net: nn.Module) -> None:
        vars(net)[place][name] = value

    return change


def having(name: str, value: object) -> Callable[[nn.Module], None]:
    def change(net: nn.Module) -> None:
        vars(net)[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (circular, "its modules contain themselves, or lie more than 100 deep in each other, or are used more than"),
        (deep, "its modules contain themselves, or lie more than 100 deep"),
        (doubling, "or are used more than 100000 times, which is not so in any net; the file was changed"),
        (holding("_modules", "x", "text"), "holds a str ('x') in _modules; the file was changed, save the net again"),
        (holding("_modules", "x", nn.ReLU), "holds a type ('x') in _modules"),
        (holding("_parameters", "x", functional.relu), "holds a function ('x') in _parameters"),
        (holding("_buffers", "x", 3), "holds a int ('x') in _buffers"),
        (holding("_forward_hooks", 0, nn.ReLU()), "has hooks (_forward_hooks), which are not taken from a file; remove them"),
        (holding("_forward_pre_hooks", 0, functional.relu), "has hooks (_forward_pre_hooks)"),
        (holding("_state_dict_hooks", 0, nn.Linear), "has hooks (_state_dict_hooks)"),
        (having("forward", functional.relu), "replaces forward of its class, which is not taken from a file"),
        (having("state_dict", nn.ReLU), "replaces state_dict of its class"),
        (having("__class__", nn.ReLU), "replaces __class__ of its class"),
        (having("a b", 1), "has an attribute 'a b', which is no name; the file was changed"),
        (having("_modules", [nn.ReLU()]), "has no _modules; the file is damaged or was changed"),
    ],
)
def test_what_no_saved_net_has_is_refused(change: Callable[[nn.Module], None], message: str, tmp_path: Path) -> None:
    net = small_net()
    change(net)
    with pytest.raises(ModelError) as caught:
        loaded(net, tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/net.pt: ")


def test_a_compiled_call_of_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = small_net()
    having("_compiled_call_impl", functional.relu)(net)

    def whole(self: nn.Module) -> dict[str, object]:  # torch leaves it out
        return vars(self)

    monkeypatch.setattr(nn.Module, "__getstate__", whole)
    with pytest.raises(ModelError, match=r"has hooks \(_compiled_call_impl\)"):
        loaded(net, tmp_path)


def test_modules_in_a_checkpoint_are_checked(tmp_path: Path) -> None:
    net = small_net()
    net._modules['"'] = nn.ReLU()
    torch.save({"epoch": 1, "model": net}, tmp_path / "c.pt")
    found = load_model(str(tmp_path / "c.pt"))
    assert isinstance(found.model, nn.Module)
    assert "part" in dict(found.model.named_children())
    assert len(found.notes) == 2

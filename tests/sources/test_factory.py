"""Factories are imported and called, and every failure of theirs is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_files import small_net
from torch import nn

from lcnn_compress.errors import LcnnError, ModelError, SettingsError
from lcnn_compress.sources.factory import import_callable, is_callable_spec
from lcnn_compress.sources.load_model import load_model


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

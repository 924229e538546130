"""Factories are imported and called, and every failure of theirs is named."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest
import torch
from command_line import child
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
        ("{folder}/script.py:good", "script.py:good: importing it raised SystemExit: 2"),
        ("{folder}/good.py:raises", "good.py:raises: calling it without arguments raised ValueError: width is 0"),
        ("{folder}/good.py:needs", "good.py:needs: calling it without arguments raised TypeError"),
        ("{folder}/good.py:number", "good.py:number: is of type int, not a function"),
        ("{folder}/good.py:wrong", "good.py:wrong: returned an object of type dict; it must return a torch.nn.Module"),
    ],
)
def test_factories_that_fail(spec: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import not_there\n")
    (tmp_path / "script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--no'])\n")
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


PYTHONS_OWN = ("profile", "statistics", "code", "random", "json", "pickle", "queue", "calendar", "types", "typing", "inspect")


@pytest.mark.parametrize("start", [("-c", "import sys; del sys.path[0]; from lcnn_compress.cli.main import main; main()"), ()])
def test_files_named_like_modules_of_python_do_not_stand_in_for_them(start: tuple[str, ...], tmp_path: Path) -> None:
    """Such files raise when they are imported, whoever asks for them: as a script that pip installs, and as ``python -m``."""
    for name in PYTHONS_OWN if start else PYTHONS_OWN[:-3]:  # Python looks there for the last ones before it comes to us
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was imported')")
    (tmp_path / "helper.py").write_text("import random\nwidth = random.randint(4, 4)\n")
    (tmp_path / "net.py").write_text(
        "import statistics\nimport helper\nfrom torch import nn\n"
        "def make():\n    import later\n    return nn.Conv2d(3, helper.width * later.times * int(statistics.mean([1, 1])), 1)\n"
    )
    (tmp_path / "later.py").write_text("times = 2\n")
    done = child(*start, "inspect", "net.py:make", "--input-shape", "1,3,8,8", "--json", cwd=tmp_path)
    assert '"out_channels": 8' in done.stdout


def test_the_users_modules_come_before_installed_ones_only_for_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, own = tmp_path / "site-packages", tmp_path / "own"
    for folder, width in ((installed, 1), (own, 5)):
        folder.mkdir()
        for name in ("utils_of_net", "net_by_name", "asked_later"):
            source = f"from torch import nn\nwidth = {width}\ndef make():\n    return nn.Conv2d(3, {width}, 1)\n"
            (folder / f"{name}.py").write_text(source)
    (own / "my_net.py").write_text("from utils_of_net import make\n")
    (own / "lcnn_compress.py").write_text("raise SystemExit('the package of the working folder')\n")
    (own / "statistics.py").write_text("def make():\n    raise SystemExit('never')\n")
    monkeypatch.syspath_prepend(installed)
    monkeypatch.chdir(own)
    for spec in ("my_net.py:make", "net_by_name:make"):
        made = load_model(spec).model
        assert isinstance(made, nn.Conv2d)
        assert made.out_channels == 5
    assert __import__("asked_later").width == 1
    assert sys.path[-1] == str(own)
    assert import_callable("statistics:mean", ModelError) is statistics.mean
    with pytest.raises(ModelError) as caught:
        load_model("statistics:make")
    assert "statistics is a module of Python and has no 'make'; write statistics.py:make for a file" in str(caught.value)
    for name in ("utils_of_net", "net_by_name", "asked_later"):
        del sys.modules[name]


def test_a_folder_of_the_user_does_not_hide_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "joblib").mkdir()  # without __init__.py, as a folder of results is
    (tmp_path / "my_net.py").write_text("import joblib\nfrom torch import nn\nassert joblib.__version__\nmake = nn.ReLU\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "joblib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("my_net.py:make").model, nn.ReLU)

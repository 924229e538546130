"""What the text of options means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lcnn_compress.cli.resolve import default_output, find_artefact, input_shape, integers, numbers
from lcnn_compress.errors import FileError, SettingsError


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("some/where/model.pt", "model.lcnn"), ("a.b.pth", "a.b.lcnn"), ("pkg.mod:factory", "factory.lcnn"),
        ("pkg.mod:Nets.small", "small.lcnn"), ("dir/file.py:net", "net.lcnn"),
    ],
)  # fmt: skip
def test_default_output(model: str, name: str) -> None:
    assert default_output(model) == Path(name)


def test_numbers() -> None:
    assert integers("--threads", "1,2") == (1, 2)
    assert integers("--input-shape", "1x3x8x8") == (1, 3, 8, 8)
    assert numbers("--mean", "0.5,1") == (0.5, 1.0)
    assert numbers("--mean", None) is None
    for text in ("", "1,a", "0", "1,-2"):
        with pytest.raises(SettingsError, match=f"--threads is '{text}'; it must be whole numbers of at least 1"):
            integers("--threads", text)
    with pytest.raises(SettingsError, match=r"--std is '0\.5,'; it must be numbers separated by commas"):
        numbers("--std", "0.5,")


def test_shapes_are_of_one_image() -> None:
    assert input_shape("8,3,32,32") == (1, 3, 32, 32)
    assert input_shape("4,10") == (1, 10)
    assert input_shape(None) is None
    with pytest.raises(SettingsError, match="--input-shape is '3,32,32'; it must be batch,channels,height,width or"):
        input_shape("3,32,32")


def test_the_artefact_left_out_is_the_newest_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=r"no \*.lcnn directory in "):
        find_artefact(None)
    for name in ("a", "b"):
        (tmp_path / f"{name}.lcnn").mkdir()
        (tmp_path / f"{name}.lcnn" / "manifest.json").write_text("{}")
        assert find_artefact(Path("z.lcnn")) == (Path("z.lcnn"), None)
    os.utime(tmp_path / "b.lcnn" / "manifest.json", ns=(1, 1))
    assert find_artefact(None) == (Path("a.lcnn"), "2 artefacts here, using the newest: a.lcnn")

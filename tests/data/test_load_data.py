"""What calibrates, what trains, what is held out, and the size that all images have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.data.load_data import image_size, load_parts
from lcnn_compress.errors import SettingsError

SHAPE = (1, 3, 4, 4)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Ten examples whose pixels are all n / 16 in the n-th of them; the class is n."""
    x = np.broadcast_to(np.arange(10, dtype=np.float32)[:, None, None, None] / 16, (10, 3, 4, 4))
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(10))
    return str(tmp_path / "data.npz")


def test_calibration_data_is_drawn_by_seed_and_takes_the_place_of_training_data(data: str) -> None:
    settings = DataSettings(calib=data, data=data, samples=3, mean=(0.5,), std=(0.25,))
    parts = load_parts(settings, SHAPE, seed=1)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))[:3].sort().values
    assert parts.calibration[0][:, 0, 0, 0].tolist() == ((order / 16 - 0.5) / 0.25).tolist()
    assert load_parts(DataSettings(calib=data), SHAPE).examples is None
    limited = load_parts(settings, SHAPE, limit=2)
    assert limited.examples is not None
    assert len(limited.examples) == 2


def test_what_is_held_out_is_not_trained_on(data: str) -> None:
    parts = load_parts(DataSettings(data=data, held_out=0.3, samples=4), SHAPE)
    assert parts.examples is not None
    assert parts.held_out is not None
    trained, held = (part.batch(torch.arange(len(part)))[1].tolist() for part in (parts.examples, parts.held_out))
    assert (len(trained), len(held), sorted(trained + held)) == (7, 3, list(range(10)))
    assert parts.calibration == []
    with pytest.raises(SettingsError, match="holds 10 examples, too few to hold out some"):
        load_parts(DataSettings(data=data, held_out=0.1), SHAPE)


def test_no_data() -> None:
    parts = load_parts(DataSettings(), SHAPE)
    assert (parts.calibration, parts.examples, parts.held_out) == ([], None, None)


def test_the_size_of_arrays(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert image_size(DataSettings(data=data)) == (4, 4)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 5, 7), np.uint8))
    assert image_size(DataSettings(calib=str(tmp_path / "x.npy"), data=data)) == (5, 7)
    np.savez_compressed(tmp_path / "flat.npz", x=np.zeros((2, 12), np.float32))
    assert image_size(DataSettings(calib=str(tmp_path / "flat.npz"))) is None
    np.savez(tmp_path / "other.npz", images=np.zeros((2, 3, 5, 7)))
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    for name in ("other.npz", "bad.npz", "none.npz"):
        assert image_size(DataSettings(calib=str(tmp_path / name))) is None
    assert image_size(DataSettings()) is None
    source = "import torch\ndef x():\n    return torch.full((2, 3, 6, 8), 200.0)\ndef bad():\n    return 1\n"
    (tmp_path / "makes.py").write_text(source)
    assert image_size(DataSettings(calib=f"{tmp_path / 'makes.py'}:x")) == (6, 8)
    assert image_size(DataSettings(calib=f"{tmp_path / 'makes.py'}:bad")) is None


def test_the_size_of_a_folder_of_images_if_they_have_one(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (9, 6)).save(tmp_path / name)
    assert image_size(DataSettings(data=str(tmp_path))) == (6, 9)
    Image.new("RGB", (6, 9)).save(tmp_path / "a" / "3.png")
    assert image_size(DataSettings(data=str(tmp_path))) is None
    (tmp_path / "a" / "3.png").write_bytes(b"no image")
    assert image_size(DataSettings(data=str(tmp_path))) is None

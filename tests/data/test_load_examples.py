"""Every source of examples is found by what it is, and what cannot be used is named with a way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import NET, bytes_of, everything, saved

import lcnn_compress
from lcnn_compress.data.examples import Preprocessing, batches
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.errors import FileError, SettingsError

EMBEDDED = Path(lcnn_compress.__file__).parent / "embedded"


def test_the_embedded_data() -> None:
    examples = load_examples(str(EMBEDDED / "fashion_mnist_test.npz"), (1, 1, 28, 28), limit=100)
    x, y = everything(examples)
    assert x.shape == (100, 1, 28, 28)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert y is not None
    assert set(y.tolist()) == set(range(10))


def test_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.npz: no such file or folder; check the path, or name a function") as caught:
        load_examples(str(tmp_path / "none.npz"), NET)
    assert caught.value.exit_code == 5


def test_options_are_checked(tmp_path: Path) -> None:
    spec = saved(tmp_path, x=bytes_of(2, 3, 4, 4))
    with pytest.raises(
        SettingsError, match=r"mean and std have 2 numbers, but the net takes \(1, 3, 4, 4\); give one per channel, or one"
    ):
        load_examples(spec, NET, Preprocessing((0.5, 0.5), (1.0, 1.0)))
    with pytest.raises(SettingsError, match="limit is 0; use at least 1 example"):
        load_examples(spec, NET, limit=0)
    with pytest.raises(SettingsError, match="batch size is 0; it must be at least 1"):
        next(batches(load_examples(spec, NET), 0))


def test_the_limit_draws_by_seed_and_keeps_the_order(tmp_path: Path) -> None:
    spec = saved(tmp_path, x=np.arange(100, dtype=np.float32)[:, None], y=np.arange(100))

    def drawn(limit: int, seed: int) -> list[int]:
        x, y = everything(load_examples(spec, (1, 1), limit=limit, seed=seed))
        assert y is not None
        assert x[:, 0].tolist() == y.tolist()
        return y.tolist()

    assert drawn(10, 0) == drawn(10, 0) == sorted(set(drawn(10, 0)))
    assert len(drawn(10, 0)) == 10
    assert drawn(10, 0) != drawn(10, 1)
    assert drawn(10, 0) != list(range(10))
    assert drawn(100, 0) == drawn(200, 0) == list(range(100))

"""Where data comes from, as the configuration records it."""

from __future__ import annotations

from lcnn_compress.data.settings import DataSettings


def test_what_is_recorded() -> None:
    assert DataSettings(mean=(0.5,), std=(0.25,)).recorded() is None  # there is no data
    assert DataSettings(calib="c.npz", mean=(0.5,), std=(0.25,)).recorded() == {
        "calib": "c.npz", "samples": 512, "data": None, "mean": (0.5,), "std": (0.25,),
    }  # fmt: skip
    # 0.1.0 named what is held out only where something is.
    assert DataSettings(data="d.npz", samples=3, held_out=0.3).recorded() == {
        "calib": None, "samples": 3, "data": "d.npz", "mean": None, "std": None, "held_out": 0.3,
    }  # fmt: skip

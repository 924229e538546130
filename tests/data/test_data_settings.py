"""What a configuration records of data."""

from __future__ import annotations

import pytest

from lcnn_compress.data.data_settings import DataSettings


@pytest.mark.parametrize(
    ("settings", "recorded"),
    [
        (DataSettings(samples=9, mean=(0.5,), std=(0.5,)), None),  # there is no data
        (DataSettings("c.npz"), {"calib": "c.npz", "samples": 512, "data": None, "mean": None, "std": None}),
        (
            DataSettings(data="d.npz", mean=(0.5,), std=(0.25,), held_out=0.3),
            {"calib": None, "samples": 512, "data": "d.npz", "mean": (0.5,), "std": (0.25,), "held_out": 0.3},
        ),
    ],
)
def test_what_is_held_out_is_recorded_only_where_something_is(
    settings: DataSettings, recorded: dict[str, object] | None
) -> None:
    assert settings.recorded() == recorded

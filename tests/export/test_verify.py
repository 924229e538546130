"""An exported file is held against torch: with the library, by its body, and of another shape."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from lcnn_compress import runtime
from lcnn_compress.errors import MissingError, ModelError
from lcnn_compress.export.to_onnx import ExportSettings, to_onnx
from lcnn_compress.export.verify import largest_difference, open_axes, sizes_of, verify
from lcnn_compress.net.capture import capture

SHAPE = (1, 3, 16, 16)


def test_the_difference_is_the_largest_of_both_ways(exported) -> None:
    net, path = exported
    data = path.read_bytes()
    ways = {runtime.library_path() is not None, False}
    sizes = sizes_of(net, SHAPE, open_axes(onnx.load(path)))
    assert (3, *SHAPE[1:]) in sizes
    assert {size[2:] for size in sizes} == {SHAPE[2:], (17, 19), (13, 10)}
    assert verify(net, data, SHAPE, 1e-3) == max(largest_difference(net, data, sizes, native=native) for native in ways) < 1e-5


def test_a_file_of_another_net_is_refused_with_the_difference_and_the_way_out(exported) -> None:
    _, path = exported
    other = capture(nn.Sequential(nn.Conv2d(3, 10, 16), nn.Flatten()), torch.zeros(SHAPE))
    message = r"differs from torch by (inf|\d\.\d\de[-+]\d\d) of the outputs' spread .*, more than 1e-03; nothing was written"
    with pytest.raises(ModelError, match=message):
        verify(other, path.read_bytes(), SHAPE, 1e-3)


def test_outputs_of_another_shape_differ_without_end(exported) -> None:
    _, path = exported
    other = capture(nn.Sequential(nn.Conv2d(3, 9, 16), nn.Flatten()), torch.zeros(SHAPE))
    assert largest_difference(other, path.read_bytes(), [SHAPE], native=False) == float("inf")


def test_a_difference_that_is_not_a_number_is_refused(exported) -> None:
    _, path = exported
    other = capture(nn.Sequential(nn.Conv2d(3, 10, 16), nn.Flatten()), torch.zeros(SHAPE))
    with torch.no_grad():
        other.get_submodule("0").weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="differs from torch by nan"):
        verify(other, path.read_bytes(), SHAPE, 1e-3)


def test_a_file_without_a_body_needs_the_library(exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = exported
    data = to_onnx(net, SHAPE, ExportSettings(fallback=False), {}).SerializeToString()
    monkeypatch.setenv(runtime.LIBRARY_VARIABLE, str(tmp_path / "gone.so"))
    with pytest.raises(MissingError, match=r"gone\.so': there is no such file"):
        verify(net, data, SHAPE, 1e-3)

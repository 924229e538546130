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
from lcnn_compress.export.verify import (
    BFLOAT16_DIFFERENCE,
    ROUNDED_DIFFERENCE,
    allowed_difference,
    largest_difference,
    open_axes,
    sizes_of,
    verify,
)
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured
from lcnn_compress.quantisation.in_bfloat16 import in_bfloat16
from lcnn_compress.quantisation.quantise import quantise

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


def test_what_rounds_may_differ_by_a_step() -> None:
    captured = Captured.of(capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), torch.zeros(SHAPE)), SHAPE)
    assert allowed_difference(captured.net, 1e-3) == 1e-3
    halves = in_bfloat16(captured, ["0"])
    assert allowed_difference(halves, 1e-3) == BFLOAT16_DIFFERENCE
    both = quantise(Captured.of(halves, SHAPE), ["2"], [torch.rand(4, *SHAPE[1:])])
    assert allowed_difference(both, 1e-3) == ROUNDED_DIFFERENCE
    assert allowed_difference(both, 0.5) == 0.5
    # A file in which one weight is another number by more than that is refused.
    data = onnx.load_from_string(to_onnx(halves, SHAPE, ExportSettings(), {}).SerializeToString())
    weight = next(tensor for tensor in data.graph.initializer if tensor.data_type == onnx.TensorProto.BFLOAT16)
    verify(halves, data.SerializeToString(), SHAPE, 1e-3)
    weight.raw_data = weight.raw_data[:1] + bytes([weight.raw_data[1] ^ 0x80]) + weight.raw_data[2:]  # its sign
    with pytest.raises(ModelError, match="differs from torch by"):
        verify(halves, data.SerializeToString(), SHAPE, 1e-3)

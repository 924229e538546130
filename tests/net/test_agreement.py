"""A captured net is held against its model: by how much they differ, and on which axes they agree."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.errors import ModelError
from lcnn_compress.net.agreement import as_arrays, difference, probes, worse
from lcnn_compress.net.capture import capture
from lcnn_compress.operators.interface import interface_of

BIG = np.array([10.0, 30.0], np.float32)


@pytest.mark.parametrize(("got", "want", "expected"), [
    ([10.0, 30.2], [10.0, 30.0], 0.01),  # of the spread, 20
    ([1e-4, 3.02e-4], [1e-4, 3e-4], 0.01),  # however small the outputs are
    ([1000.0, 1000.1], [1000.0, 1000.0], 0.1 / 7.63),  # of 0.8 % of the magnitude where there is no spread
    ([0.0, 0.0], [0.0, 0.0], 0.0),
    ([0.0, 1e-9], [0.0, 0.0], math.inf),
    ([-math.inf, 1.0, 2.0], [-math.inf, 1.0, 2.0], 0.0),
    ([5.0, 1.0, 2.0], [-math.inf, 1.0, 2.0], math.inf),
])  # fmt: skip
def test_differences_are_shares_of_the_spread(got: list[float], want: list[float], expected: float) -> None:
    arrays = (np.array(values, np.float32) for values in (got, want))
    assert difference([next(arrays)], [next(arrays)]) == pytest.approx(expected, rel=1e-3)


def test_other_outputs_differ_without_end() -> None:
    assert difference([BIG], [BIG, BIG]) == math.inf
    assert difference([BIG[:1]], [BIG]) == math.inf
    assert difference([BIG > 20], [BIG]) == math.inf
    assert math.isnan(difference([BIG * np.float32(math.nan)], [BIG]))
    assert math.isnan(difference([BIG, BIG * 2], [BIG * np.float32(math.nan), BIG]))  # a NaN stays
    assert math.isnan(worse(math.nan, 1.0))
    assert math.isnan(worse(1.0, math.nan))


def test_of_masks_and_whole_numbers_the_share_of_other_values_counts() -> None:
    assert difference([np.array([1, 2, 3, 5])], [np.array([1, 2, 3, 4])]) == 0.25
    assert difference([np.array([True, False])], [np.array([True, True])]) == 0.5


def test_results_are_arrays_of_single_precision_however_nested() -> None:
    arrays = as_arrays({"a": torch.ones(2, dtype=torch.float64), "b": [torch.tensor([True]), 7, None]}, [0, 2])
    assert [(array.dtype, array.shape) for array in arrays] == [(np.float32, (2,)), (np.int64, ())]


def test_probes_vary_the_open_axes_only_with_odd_sizes_and_one_and_three_images() -> None:
    tried = list(probes((1, 3, 16, 16), (0, 2, 3)))
    assert {size[0] for size in tried} == {1, 3}
    assert any(size[2] % 2 and size[3] % 2 for size in tried)
    assert any(size[2] > size[3] for size in tried)
    assert any(size[2] < size[3] for size in tried)
    assert {size[:3] for size in probes((2, 3, 16, 16), (3,))} == {(2, 3, 16)}
    assert (1, 3, 4, 16) in probes((1, 3, 16, 16), (2,), {2: (5, None)})  # one less than the program thinks that it takes
    assert (1, 3, 21, 16) in probes((1, 3, 16, 16), (2,), {2: (2, 20)})


class Net(nn.Module):
    """A convolution, and something that depends on the sizes of its result."""

    def __init__(self, tail: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.tail = nn.Conv2d(3, 8, 3, padding=1), tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.conv(x))


def batch_times(f: Tensor) -> Tensor:
    return f * 2 if f.shape[0] > 2 else f


@pytest.mark.parametrize(("tail", "axes"), [
    (lambda f: f.relu(), (0, 2, 3)),
    (lambda f: functional.avg_pool2d(f, f.shape[2:]), (0,)),  # a kernel as large as the plane
    (lambda f: torch.cat([f[:, :, i : i + 8] * i for i in range(0, f.shape[2], 8)], 2), (0, 3)),  # strips of rows
    (lambda f: torch.cat([f[i : i + 1] + i for i in range(f.shape[0])]), (2, 3)),  # one image after the other
    (lambda f: f if f.shape[2] > 20 else f.relu(), (0, 3)),  # taller planes take another way
    (lambda f: f if f.shape[2] < 10 else f.relu(), (0, 3)),  # and so do lower ones
    (lambda f: f if f.shape[3] % 2 else f.relu(), (0, 2)),
    (lambda f: f if f.shape[2] <= f.shape[3] else f.relu(), (0, 2)),
    (lambda f: functional.adaptive_avg_pool2d(f, (5, 1)), (0, 2, 3)),
    (batch_times, (2, 3)),
    (lambda f: f.flatten(1) @ torch.ones(8 * 256, 4), (0,)),
])  # fmt: skip
def test_an_axis_is_open_only_where_the_captured_net_agrees_with_the_model(
    tail: Callable[[Tensor], Tensor], axes: tuple[int, ...]
) -> None:
    model = Net(tail).eval()
    net = capture(model, torch.zeros(1, 3, 16, 16))
    found = interface_of(net).open_axes
    assert found is not None
    assert set(found) <= set(axes)
    assert len(found) >= len(axes) - 1  # torch.export may fix one more than need be
    for size in probes((1, 3, 16, 16), found):
        x = torch.rand(size)
        try:
            want = model(x)
        except RuntimeError:
            continue
        torch.testing.assert_close(net(x), want)


def test_the_note_says_why_an_axis_is_fixed_unless_the_model_itself_fixes_it() -> None:
    strips = Net(lambda f: torch.cat([f[:, :, i : i + 8] * i for i in range(0, f.shape[2], 8)], 2))
    (note,) = interface_of(capture(strips, torch.zeros(1, 3, 16, 16))).notes
    assert note.startswith("files of this net have fixed sizes: height (16)")
    fixed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 14 * 14, 2))
    interface = interface_of(capture(fixed, torch.zeros(1, 3, 16, 16)))
    assert (interface.open_axes, interface.notes) == ((0,), ())


def test_a_model_that_is_not_a_function_of_its_input_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    with pytest.raises(ModelError, match=r"is not the model: at 1x3x8x8 the captured net is .* the model; it must"):
        capture(Counting(), torch.zeros(1, 3, 8, 8))


def test_a_model_that_gives_other_results_while_it_is_captured_is_refused() -> None:
    class Knowing(nn.Module):
        def forward(self, x: Tensor) -> object:
            return (x, x * 2) if torch.compiler.is_exporting() else (x,)

    with pytest.raises(ModelError, match="is not the model: it gives other results while it is captured"):
        capture(Knowing(), torch.zeros(1, 3, 8, 8))

"""What a capture assumed about sizes is read, and inputs are found that break it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lcnn_compress.net.capture import capture, from_program
from lcnn_compress.net.guards import Guard, guards_of, violations
from lcnn_compress.operators.interface import interface_of

SHAPE = (1, 3, 32, 32)


def guards(*texts: str) -> list[Guard]:
    return guards_of(SimpleNamespace(_guards_code=list(texts)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "axes", "one"), [
    ("L['x'].size()[2] <= 50", (0, 2, 3), (1, 3, 64, 32)),
    ("(L['x'].size()[3] % 2) != 1", (3,), (1, 3, 32, 1)),
    ("L['x'].size()[3]*L['x'].size()[2] <= 1500", (2, 3), (1, 3, 38, 40)),
    ("L['x'].size()[3]*L['x'].size()[2] <= 1500", (3,), (1, 3, 32, 64)),
    ("L['x'].size()[2] <= 4 + L['x'].size()[3]", (2, 3), (1, 3, 6, 1)),
    ("not (L['x'].size()[0] > 2)", (0, 2), (3, 3, 32, 32)),
    ("1 <= L['x'].size()[2] // 4 and L['x'].size()[2] > -3", (2,), (1, 3, 1, 32)),
    ("max(L['x'].size()[2], 40) <= 40", (2,), (1, 3, 64, 32)),
])  # fmt: skip
def test_an_input_is_found_that_breaks_an_assumption(text: str, axes: tuple[int, ...], one: tuple[int, ...]) -> None:
    (guard,) = guards(text)
    assert guard.holds(SHAPE)
    found = list(violations([guard], SHAPE, axes))
    assert found
    assert not any(guard.holds(sizes) for sizes in found if isinstance(sizes, tuple))
    assert one in found


def test_assumptions_that_only_huge_inputs_break_are_named() -> None:
    (guard,) = guards("L['x'].size()[2] * L['x'].size()[3] <= 1000000")
    assert list(violations([guard], SHAPE, (2, 3))) == [guard]
    assert list(violations([guard], SHAPE, (0,))) == []  # it is about other axes
    assert list(violations(guards("L['x'].size()[2] >= 1"), SHAPE, (2, 3))) == []  # nothing breaks it


@pytest.mark.parametrize("text", [
    "__import__('os').system('touch mark')", "L['x'].dtype == 6", "L['x'].size()[2] > open('mark', 'w')",
    "L['x'].size()[2] **9**9 > 1",
    "(", "", "L['x'].size()[i] > 2", "[L['x'].size()[2]]", "L['x'].size()[99] > 2", "(" * 5000, "lambda: L['x'].size()[2]",
])  # fmt: skip
def test_texts_that_are_no_comparison_of_sizes_are_neither_run_nor_used(
    text: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert guards(text) == []
    assert not torch.os.path.exists("mark")  # type: ignore[attr-defined]


class Net(nn.Module):
    def __init__(self, factor: Callable[[torch.Size], int]) -> None:
        super().__init__()
        self.conv, self.factor = nn.Conv2d(3, 4, 3, padding=1), factor

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(self.conv(x), 2) * self.factor(x.shape)


@pytest.mark.parametrize("factor", [
    lambda shape: 2 if shape[2] * shape[3] > 5000 else 1, lambda shape: 2 if shape[2] > shape[3] + 40 else 1,
    lambda shape: 2 if shape[3] % 5 == 3 else 1, lambda shape: 2 if shape[0] * shape[2] > 150 else 1,
    lambda shape: 2 if shape[2] > 90 else 1, lambda shape: 2 if min(shape[2:]) < 6 else 1,
])  # fmt: skip
@pytest.mark.parametrize("how", ["module", "program"])
def test_sizes_are_not_open_together_where_the_model_goes_another_way(factor: Callable[[torch.Size], int], how: str) -> None:
    model = Net(factor).eval()
    if how == "module":
        net = capture(model, torch.zeros(SHAPE))
    else:
        auto = torch.export.Dim.AUTO
        net = from_program(
            torch.export.export(model, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
        )
    axes = interface_of(net).open_axes
    assert axes is not None
    assert len(axes) < 3
    assert any("files of this net have fixed sizes" in note for note in interface_of(net).notes)
    for sizes in ((1, 3, 80, 80), (1, 3, 90, 32), (1, 3, 32, 33), (5, 3, 32, 32), (1, 3, 4, 32), (1, 3, 91, 90)):
        if all(size == SHAPE[axis] or axis in axes for axis, size in enumerate(sizes)):
            x = torch.rand(sizes)
            torch.testing.assert_close(net(x), model(x))


def test_branches_that_no_size_takes_do_not_matter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert interface_of(capture(model, torch.zeros(SHAPE))).open_axes == (0, 2, 3)

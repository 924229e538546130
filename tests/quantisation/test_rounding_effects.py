"""What 8 bits in one layer do to the outputs, beside nets in which that layer is rounded."""

from __future__ import annotations

import pytest
import torch
from cases import small_net
from torch import nn

from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import finished
from lcnn_compress.net.layers import Captured
from lcnn_compress.net.output_error import Outputs
from lcnn_compress.quantisation.quantise import quantise
from lcnn_compress.quantisation.rounding_effects import rounding_effects

SHAPE = (1, 3, 16, 16)
IMAGES = list(torch.rand(24, *SHAPE[1:], generator=torch.Generator().manual_seed(0)).split(10))

pytestmark = pytest.mark.usefixtures("one_thread")


def captured_of(model: nn.Module) -> Captured:
    return Captured.of(capture(model.eval(), torch.zeros(SHAPE)), SHAPE)


def chain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(24, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10),
    )  # fmt: skip


def test_effects_are_near_those_of_nets_with_that_layer_in_8_bits() -> None:
    captured = captured_of(chain())
    steps: list[tuple[str, int, int]] = []
    names = [layer.name for layer in captured.layers]
    found = rounding_effects(captured, dict.fromkeys(names, 0), IMAGES, lambda *step: steps.append(step))
    assert list(found) == names
    assert steps[-1] == ("rounding layers", len(names), len(names))
    judge = Outputs(captured.net, IMAGES)
    folded = Captured.of(finished(captured.net, "float32"), SHAPE)
    for name, effect in found.items():
        real = judge.error(quantise(folded, [name], IMAGES))
        # The built net has the best of several ranges, and weights that make up for one another.
        assert 1 / 3 < effect.dense / real < 3, name
        assert effect.coded == effect.dense  # no dictionary was asked for
    # The net itself is as it was.
    assert judge.error(captured.net) == 0


def test_a_dictionary_in_8_bits_adds_more() -> None:
    captured = captured_of(small_net())
    # Dictionaries so large that the layers give nearly what they gave.
    found = rounding_effects(captured, {"conv1": 15, "conv2": 31}, IMAGES)
    assert set(found) == {"conv1", "conv2"}
    for effect in found.values():
        assert effect.dense < effect.coded < 30 * effect.dense


def test_a_net_that_leaves_large_values_to_one_channel_suffers_more() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
            with torch.no_grad():
                # The same function: what one channel gives is as much larger as its weights in the next layer are smaller.
                self.a.weight[0] *= factor
                self.a.bias[0] *= factor
                self.b.weight[:, 0] /= factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).relu())

    usual, scaled = (rounding_effects(captured_of(Scaled(factor)), {"b": 0}, IMAGES)["b"].dense for factor in (1.0, 50.0))
    assert scaled > 30 * usual

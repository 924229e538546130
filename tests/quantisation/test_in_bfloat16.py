"""Nets in bfloat16: what they give beside what they gave, and where they are rounded."""

from __future__ import annotations

import pytest
import torch
from cases import small_net
from nets import Oddities
from torch import nn

from lcnn_compress import zoo
from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d, RoundBfloat16
from lcnn_compress.forms.int8 import Round8
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import finished
from lcnn_compress.net.layers import Captured
from lcnn_compress.quantisation.in_bfloat16 import in_bfloat16
from lcnn_compress.quantisation.quantise import quantise, reason_against


def captured_of(model: nn.Module, shape: tuple[int, ...]) -> Captured:
    return Captured.of(finished(capture(model.eval(), torch.zeros(shape)), "float32"), shape)


@pytest.mark.parametrize(
    ("make", "shape"), [(zoo.fashion_resnet, (1, 1, 28, 28)), (Oddities, (1, 3, 20, 22)), (zoo.demosaicnet, (1, 3, 24, 24))]
)
def test_outputs_stay_near(make, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    captured = captured_of(make(), shape)
    names = [layer.name for layer in captured.layers if reason_against(captured, layer) is None]
    made = in_bfloat16(captured, names)
    x = torch.rand(4, *shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want, got = captured.net(x), made(x)
        for w, g in zip(*((y if isinstance(y, tuple) else (y,)) for y in (want, got)), strict=True):
            assert w.shape == g.shape
            assert 0 < float((g - w).square().mean() / w.var()) < 1e-4  # 2**-9 squared is 4e-6, for each of some roundings
        assert {type(made.get_submodule(name)) for name in names} == {Bfloat16Conv2d}
        # The net that was given is as it was.
        again = captured.net(x)
    assert all(
        torch.equal(a, b)
        for a, b in zip(torch.utils._pytree.tree_leaves(again), torch.utils._pytree.tree_leaves(want), strict=True)
    )
    assert not any(isinstance(part, RoundBfloat16) for part in captured.net.modules())


def test_what_layers_read_is_rounded_once() -> None:
    captured = captured_of(small_net(), (1, 3, 16, 16))
    made = in_bfloat16(captured, ["conv2"])
    read: list[torch.Tensor] = []
    made.get_submodule("conv2").register_forward_pre_hook(lambda _, given: read.append(given[0]))
    with torch.no_grad():
        made(torch.rand(1, 3, 16, 16))
    assert torch.equal(read[0], read[0].bfloat16().float())
    rounds = [node for node in made.graph.nodes if node.op == "call_module" and "bfloat16" in str(node.target)]
    assert len(rounds) == 1
    # Other layers are as they were.
    assert type(made.get_submodule("conv1")) is type(captured.net.get_submodule("conv1"))


def test_layers_in_bfloat16_read_no_bytes_that_others_need() -> None:
    captured = captured_of(zoo.fashion_resnet(), (1, 1, 28, 28))
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    # The shortcut and the branch of a block read the same.
    halves, whole = ["layer2.downsample.0"], ["layer2.conv1"]
    made = in_bfloat16(captured, halves, whole)
    both = quantise(Captured.of(made, (1, 1, 28, 28)), whole, [x])
    read = {name: [node.all_input_nodes[0] for node in both.graph.nodes if node.target == name] for name in (*halves, *whole)}
    kinds = {name: type(both.get_submodule(str(nodes[0].target))) for name, nodes in read.items()}
    assert kinds == {"layer2.downsample.0": RoundBfloat16, "layer2.conv1": Round8}
    assert read["layer2.conv1"][0].all_input_nodes == read["layer2.downsample.0"]

"""Programs of torch.export become graphs of our own: what they hold is kept, what cannot be kept is refused by its name."""

from __future__ import annotations

import collections
import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lcnn_compress.errors import ModelError
from lcnn_compress.net.capture import capture, from_program
from lcnn_compress.net.layers import layers
from lcnn_compress.net.program import bounds, unlifted
from lcnn_compress.operators.interface import interface_of
from lcnn_compress.operators.names import is_harmless

X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
Pair = collections.namedtuple("Pair", "logits mask")


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.register_buffer("count", torch.zeros(1))

    def features(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class Autocast(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False, dtype=torch.bfloat16), torch.no_grad():
            x = self.features(x)
        return checkpoint(self.b, x, use_reentrant=False)


class InPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        x[:, 0].mul_(2)
        self.count += 1
        f = self.features(x)
        f[:, ::2] += self.count
        return f.clamp_(min=0)


class FloatSizes(Base):
    def forward(self, x: Tensor) -> Tensor:
        pads = [math.ceil(size / 2) * 2 - size for size in x.shape[2:]]
        f = functional.interpolate(functional.pad(self.features(x), (0, pads[1], 0, pads[0])), scale_factor=0.5, mode="area")
        return functional.interpolate(f, scale_factor=1.7, recompute_scale_factor=True)


class Shared(Base):
    def forward(self, x: Tensor) -> Tensor:
        f = self.features(x)
        return functional.conv_transpose2d(f, self.a.weight) + functional.conv2d(f, self.b.weight * x.mean())[:, :3].mean()


@pytest.mark.parametrize("model", [Autocast, InPlace, FloatSizes, Shared])
def test_what_nets_do_is_kept_and_the_callers_tensors_stay(model: type[Base]) -> None:
    torch.manual_seed(0)
    net = model().eval()
    captured = capture(net, X[:1])
    for x in (X, torch.rand(1, 3, 21, 14)):
        given = x.clone()
        got = captured(given)
        assert torch.equal(given, x)
        torch.testing.assert_close(got, copy.deepcopy(net)(x.clone()))
    assert [layer.name for layer in layers(captured, X[:1])][:2] == ["a", "b"]
    assert net.count == 0


def test_results_are_named_and_those_that_are_sizes_are_tensors() -> None:
    class Results(Base):
        def forward(self, x: Tensor) -> object:
            f = self.features(x)
            return {"pair": Pair(f, f > 0), "size": f.shape[2], "same": [f, x, None], "constant": 3}

    net = capture(Results(), X)
    interface = interface_of(net)
    assert interface.outputs == ("pair_logits", "pair_mask", "size", "same", "same_1")
    assert interface.notes == ("the model returns 3 as constant, which is no tensor; a file does not hold it",)
    logits, mask, size, same, x = net(X)
    assert mask.dtype == torch.bool
    assert (size, size.dtype) == (16, torch.int64)
    assert torch.equal(logits, same)
    assert torch.equal(x, X)


def test_every_name_is_harmless_and_the_notes_say_what_it_was() -> None:
    torch.manual_seed(0)
    keys = ['q"\n', "class", "a/b", "a_b", "self", "[/red]", "input"]
    model = nn.ModuleDict({key: nn.Conv2d(3, 3, 1) for key in keys})
    model.forward = lambda x: sum(model[key](x) for key in keys)
    net = capture(model, X)
    names = [layer.name for layer in layers(net, X)]
    assert len(set(names)) == len(keys)
    assert all(is_harmless(str(node.target)) for node in net.graph.nodes if node.op in ("call_module", "get_attr"))
    assert names[:5] == ["q__", "class_", "a_b", "a_b_2", "self_"]
    assert interface_of(net).notes[0] == "the name 'q\"\\n' in the model is q__ here"
    torch.testing.assert_close(net(X), model(X))


def test_control_flow_and_things_that_are_no_tensors_are_refused_by_name() -> None:
    class Branching(Base):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, self.a.forward, lambda f: self.a(f) * 2, (x,))

    class Empty(Base):
        def forward(self, x: Tensor) -> tuple[int, int]:
            return int(x.shape[1]), 2

    class OneByOne(Base):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.a(image) for image in x])

    with pytest.raises(ModelError, match=r"the model uses cond, control flow that a net of layers cannot hold"):
        capture(Branching(), X)
    with pytest.raises(ModelError, match="returns no tensor"):
        capture(Empty(), X)
    with pytest.raises(ModelError, match=r"a tensor of 3 axes, .*only nets of one tensor"):
        capture(OneByOne(), X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_programs_of_other_types_are_taken_as_float32(dtype: torch.dtype) -> None:
    model = Autocast().eval().to(dtype)
    net = from_program(torch.export.export(model, (X.to(dtype),)))
    notes = interface_of(net).notes
    assert notes[0] == f"the net is of {str(dtype).removeprefix('torch.')}; it is taken as float32"
    assert notes[1:] == ("files of this net have fixed sizes: height (16) and width (16): the capture fixed it",)
    torch.testing.assert_close(net(X), model.float()(X), rtol=1e-4, atol=1e-5)


def test_a_program_of_a_fixed_batch_takes_any_where_images_do_not_depend_on_each_other() -> None:
    class Centred(Base):
        def forward(self, x: Tensor) -> Tensor:
            f = self.features(x)
            return f - f.mean(0)

    for model, axes in ((Autocast(), (0,)), (Centred(), ())):
        net = from_program(torch.export.export(model.eval(), (X,)))
        assert interface_of(net).open_axes == axes


def test_open_axes_of_a_program_are_those_without_a_bound() -> None:
    dim = torch.export.Dim
    height, width = dim("height", min=20), dim("width", max=64)
    program = torch.export.export(Autocast().eval(), (torch.rand(2, 3, 32, 32),), dynamic_shapes=({2: height, 3: width},))
    assert bounds(program) == {2: (20, None), 3: (0, 64)}
    assert interface_of(from_program(program)).open_axes == (0,)  # nothing is known of heights below 20
    even = 2 * dim("half")
    program = torch.export.export(Autocast().eval(), (torch.rand(2, 3, 32, 32),), dynamic_shapes=({2: even},))
    assert bounds(program) == {}


def test_tensors_of_the_program_are_not_those_of_the_net() -> None:
    model = Autocast().eval()
    before = copy.deepcopy(model.state_dict())
    net = from_program(torch.export.export(model, (X,)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {name for name, _ in unlifted(torch.export.export(model, (X,))).net.named_parameters()} >= {"a.weight", "b.bias"}


def test_copies_of_what_is_written_into_come_in_the_order_of_writing() -> None:
    """The names of these copies are in the artefact: the same net gives the same bytes."""

    class Counters(Base):
        def __init__(self) -> None:
            super().__init__()
            for number in range(6):
                self.register_buffer(f"n{number}", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            for number in (3, 0, 5, 1, 4, 2):
                self.get_buffer(f"n{number}").add_(1)
            return self.a(x) * self.n0 * self.n1 * self.n2 * self.n3 * self.n4 * self.n5

    net = unlifted(torch.export.export(Counters().eval(), (X,))).net
    copies = {node.name: str(node.args[0].target) for node in net.graph.nodes if node.target is torch.ops.aten.clone.default}
    assert [copies[name] for name in sorted(copies)] == ["n3", "n0", "n5", "n1", "n4", "n2"]


def test_a_program_that_is_given_stays_as_it_was() -> None:
    class Constant(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * torch.tensor([[1.0, 2.0]]).t()[:1]

    program = torch.export.export(Constant().eval(), (X,))
    before = [(node.name, node.target, str(node.args)) for node in program.graph.nodes]
    from_program(program)
    assert [(node.name, node.target, str(node.args)) for node in program.graph.nodes] == before
    assert any(node.target is torch.ops.aten.detach_.default for node in program.graph.nodes)

"""Outputs are named after the keys of the model's results, and a graph carries its interface through copies."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

from lcnn_compress.operators.interface import Interface, interface_of, n_outputs, output_names, set_interface


def test_outputs_have_the_keys_as_names() -> None:
    assert output_names([()]) == ("output",)
    assert output_names([(), (), ()]) == ("output", "output_1", "output_2")
    assert output_names([("scores",), ("aux", "scores"), ("aux", "")]) == ("scores", "aux_scores", "aux")
    assert output_names([("input",), ("a/b",), ("a_b",), ('x"y',)]) == ("input_1", "a_b", "a_b_1", "x_y")


def test_copies_of_a_net_and_of_its_graph_keep_the_interface() -> None:
    net = fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()))
    assert interface_of(net) == Interface(None, ("output",))
    stated = Interface((0, 3), ("scores",), ("a note",))
    set_interface(net.graph, stated)
    for kept in (net, copy.deepcopy(net), fx.GraphModule(net, copy.deepcopy(net.graph))):
        assert interface_of(kept) == stated
    assert n_outputs(net) == 1


def test_every_tensor_of_a_tuple_is_an_output() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((x, graph.call_function(torch.neg, (x,))))
    net = fx.GraphModule(nn.Module(), graph)
    assert n_outputs(net) == 2
    assert interface_of(net).outputs == ("output", "output_1")


def test_sizes_that_a_net_is_not_right_for_are_named() -> None:
    interface = Interface((0, 3), ("output",), shape=(1, 3, 16, 20))
    assert interface.misfit((5, 3, 16, 7)) is None
    assert interface.misfit((5, 3, 17, 7)) == "axis 2 has size 17, and the net takes 16 only"
    assert [interface.fixed(axis) for axis in range(5)] == [None, 3, 16, None, None]
    assert Interface(None, ("output",), shape=(1, 3, 16, 20)).misfit((2, 3, 9, 9)) is None  # nobody knows

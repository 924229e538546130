"""A net as JSON: every bit comes back, and nothing but a net can be read."""

from __future__ import annotations

import json

import pytest
import torch
from cases import small_net
from nets import exact_lookup, oddities

from lcnn_compress.artefact import graph_json
from lcnn_compress.errors import ArtefactError
from lcnn_compress.net.capture import capture
from lcnn_compress.net.edit import replace_layer
from lcnn_compress.net.layers import layers


def test_json_round_trip_keeps_every_bit():
    x = torch.randn(2, 3, 11, 10, generator=torch.Generator().manual_seed(1))
    net = capture(oddities(), x)
    for layer in layers(net, x):
        if layer.name in ("shared", "tokens"):
            replace_layer(net, layer, exact_lookup(layer))
    values, tensors = graph_json.to_json(net)
    again = graph_json.from_json(json.loads(json.dumps(values)), tensors, "here")
    for got, want in zip(again(x), net(x), strict=True):
        assert torch.equal(got, want)
    assert graph_json.to_json(again)[0] == values


@pytest.mark.parametrize(
    "target", ["operator.methodcaller", "os.system", "builtins.eval", "aten.no_such.default", "aten.relu.x.y"]
)
def test_only_known_functions_can_be_read(target):
    values, tensors = graph_json.to_json(capture(small_net(), torch.zeros(2, 3, 16, 16)))
    call = next(n for n in values["nodes"] if n["op"] == "call_function")
    call["target"] = target
    with pytest.raises(ArtefactError, match="here"):
        graph_json.from_json(values, tensors, "here")


def test_missing_or_misshapen_tensors_are_refused():
    values, tensors = graph_json.to_json(capture(small_net(), torch.zeros(2, 3, 16, 16)))
    with pytest.raises(ArtefactError, match=r"'conv1\.weight' is missing"):
        graph_json.from_json(values, {k: v for k, v in tensors.items() if k != "conv1.weight"}, "here")
    with pytest.raises(ArtefactError, match=r"conv1\.weight has the shape \(1, 2, 3, 3\), not \(32, 16, 3, 3\)"):
        graph_json.from_json(values, tensors | {"conv1.weight": torch.zeros(1, 2, 3, 3)}, "here")

"""Names that users and files choose become harmless, and harmless ones stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from lcnn_compress.operators.names import harmless, is_harmless

HOSTILE = [
    'a", exec("1"), "', "a'b", "a\\", "a\nb", "a\rimport os", "a\x1b[31m", "[/red]", "[/]", "a/b", "a b", "{x}", "`x`",
    "\u202eabc", "\ud800", "", "class", "lambda", "self", "forward", "__class__", "__init_subclass__", "graph", "code",
    "weights\x00", "\ufb01",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_becomes_a_harmless_one(name: str) -> None:
    assert not is_harmless(name)
    made = harmless(name)
    assert is_harmless(made)
    made.encode()
    # torch can write it into source, as a module's and as a tensor's.
    root = nn.Module()
    owner = nn.Module()
    owner.register_buffer(made, torch.ones(1))
    root.add_module(made, owner)
    graph = fx.Graph()
    graph.output(graph.get_attr(f"{made}.{made}"))
    assert fx.GraphModule(root, graph)() == 1


@pytest.mark.parametrize("name", ["layer1.0.conv2", "features.norm5", "block-1", "über.层", "w_2", "0", "x1_"])
def test_names_of_real_nets_stay(name: str) -> None:
    assert is_harmless(name)
    assert harmless(name) == name


def test_names_stay_apart() -> None:
    assert harmless("a/b", {"a_b"}) == "a_b_2"
    assert harmless("a.b", {"a.b", "a.b_2"}) == "a.b_3"

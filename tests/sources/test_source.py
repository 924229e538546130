"""A dense net opened: what it was, how it is found again, and that the caller's own is left alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from lcnn_compress import api
from lcnn_compress.errors import SettingsError
from lcnn_compress.sources.source import Source, dense_rows, find_dense, folded, open_source

SHAPE = (1, 3, 12, 12)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 8, 1))


def saved_artefact(folder: Path) -> Path:
    torch.save(net(), folder / "model.pt")
    settings = api.CompressSettings(plan=api.PlanSettings("6", lookups=2, only=("3",), keep_slow=True), measure=False)
    api.save(api.compress(str(folder / "model.pt"), settings=settings, input_shape=SHAPE), folder / "model.lcnn")
    return folder / "model.lcnn"


def test_equal_weights_have_one_digest_and_others_another() -> None:
    first, second = open_source(net(), SHAPE), open_source(copy.deepcopy(net()), SHAPE)
    changed = net()
    with torch.no_grad():
        changed[3].bias[0] += 1
    assert first.origin == second.origin
    assert (first.origin.kind, first.origin.spec) == ("memory", "Sequential")
    assert open_source(changed, SHAPE).origin.sha256 != first.origin.sha256


def test_other_types_are_taken_as_float32_with_a_note() -> None:
    half = net().half()
    source = open_source(half, SHAPE)
    assert source.notes == ("the net holds float16; it is taken as float32",)
    assert source.net(torch.zeros(SHAPE)).dtype == torch.float32
    assert half[0].weight.dtype == torch.float16  # the caller's own


def test_layers_are_listed_once_and_folding_is_done_on_a_copy() -> None:
    source = open_source(net(), SHAPE)
    assert source.captured is source.captured
    assert [layer.name for layer in source.captured.layers] == ["0", "3"]
    before = [node.name for node in source.net.graph.nodes]
    assert len(folded(source.net).graph.nodes) == len(before) - 1
    assert [node.name for node in source.net.graph.nodes] == before


def test_rows_of_a_dense_net_by_hand() -> None:
    first, last = dense_rows(open_source(net(), SHAPE).net, SHAPE)
    assert (first["macs"], last["macs"]) == (3 * 24 * 9 * 100, 24 * 8 * 100)
    assert (last["in_channels"], last["out_channels"], last["kernel"]) == (24, 8, [1, 1])


def test_the_net_of_an_artefact_is_found_until_it_changes(tmp_path: Path) -> None:
    path = saved_artefact(tmp_path)
    artefact = api.load(path)
    found = find_dense(artefact, path)
    assert isinstance(found, Source)
    assert found.origin.sha256 == artefact.config["model"]["sha256"]
    changed = net()
    with torch.no_grad():
        changed[0].weight.zero_()
    torch.save(changed, tmp_path / "model.pt")
    assert str(find_dense(artefact, path)).endswith("model.pt: has changed since it was compressed")
    (tmp_path / "model.pt").unlink()
    assert "no such file" in str(find_dense(artefact, path))


def test_a_net_of_unknown_shape_asks_for_it() -> None:
    with pytest.raises(SettingsError, match="`input_shape`"):
        open_source(nn.Sequential(nn.ReLU()))

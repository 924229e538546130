"""A dense net as everything else takes it; what was given is not changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import small_net
from torch import nn

from lcnn_compress import api
from lcnn_compress.errors import LcnnError
from lcnn_compress.sources.source import dense_rows, find_dense, folded, open_source

SHAPE = (1, 3, 16, 16)
SETTINGS = api.CompressSettings(plan=api.PlanSettings("8", lookups=2), measure=False)


def test_a_module_keeps_its_weights_and_each_part_its_mode() -> None:
    net = small_net().train()
    net.bn1.eval()
    modes = {name: module.training for name, module in net.named_modules()}
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    api.compress(net, input_shape=SHAPE, settings=SETTINGS)
    assert {name: module.training for name, module in net.named_modules()} == modes
    torch.testing.assert_close(net.state_dict(), weights, rtol=0, atol=0)


def test_modes_come_back_when_a_net_cannot_be_captured() -> None:
    class Refuses(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if float(x.sum()) > 1:
                raise ValueError("too bright")
            return super().forward(x)

    net = Refuses(nn.Conv2d(3, 8, 3), nn.Dropout()).train()
    net[1].eval()
    with pytest.raises(LcnnError, match="cannot be captured"):
        api.open_model(net, SHAPE)
    assert [module.training for module in net.modules()] == [True, True, False]


def test_where_a_net_came_from() -> None:
    source = open_source(small_net(), (4, 3, 16, 16))
    assert source.input_shape == SHAPE
    assert (source.origin.spec, source.origin.kind, source.origin.arch) == ("SmallNet", "memory", None)
    assert source.origin.sha256 == open_source(small_net(), SHAPE).origin.sha256
    assert source.origin.sha256 != open_source(small_net(seed=1), SHAPE).origin.sha256
    assert source.captured is source.captured
    factory = open_source("cases:small_net", SHAPE).origin
    assert (factory.spec, factory.kind) == ("cases:small_net", "factory")


def test_batch_norms_are_folded_in_a_copy() -> None:
    source = open_source(small_net(), SHAPE)
    names, x = list(source.net.state_dict()), torch.randn(2, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    copy = folded(source.net)
    assert list(source.net.state_dict()) == names
    assert not any("running_mean" in name for name in copy.state_dict())
    torch.testing.assert_close(copy(x), source.net(x), rtol=1e-4, atol=1e-5)


def test_rows_of_a_dense_net() -> None:
    rows = dense_rows(open_source(small_net(), SHAPE).net, SHAPE)
    # 3x3 convolutions 3>16 on 16x16, 16>32 and 32>32 on 8x8, Linear 32>10
    assert [row["macs"] for row in rows] == [9 * 3 * 16 * 256, 9 * 16 * 32 * 64, 9 * 32 * 32 * 64, 320]
    assert {row["kind"] for row in rows} == {"dense"}


def test_the_dense_net_of_an_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(small_net().state_dict(), "w.pt")
    source = open_source("w.pt", SHAPE, arch="cases:small_net")
    api.save(api.compress(source, settings=SETTINGS), "net.lcnn")
    artefact = api.load("net.lcnn")
    found = find_dense(artefact, Path("net.lcnn"))
    assert isinstance(found, api.Source)
    assert found.origin == source.origin
    torch.save(small_net(seed=1).state_dict(), "w.pt")
    assert find_dense(artefact, Path("net.lcnn")) == "w.pt: has changed since it was compressed"
    Path("w.pt").unlink()
    assert str(find_dense(artefact, Path("net.lcnn"))).startswith("w.pt: no such file")
    of_memory = api.compress(small_net(), input_shape=SHAPE, settings=SETTINGS)
    assert find_dense(of_memory, Path("net.lcnn")) == "the net was compressed from memory"

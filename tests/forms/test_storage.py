"""Factors stored in 8 bits: large dictionaries of integers, scales in the coefficients, the same net everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cases import small_net
from command_line import needs_library
from torch import fx
from wide import WIDE_SHAPE, dictionaries, wide_artefacts

from lcnn_compress import api, runtime
from lcnn_compress.compression.plan import PlanSettings
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.errors import SettingsError
from lcnn_compress.export.to_onnx import ExportSettings
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.storage import MAX_BYTE_ERROR, MIN_BYTE_ENTRIES, dictionary_bytes, dictionary_type, round_factors
from lcnn_compress.operators.geometry import ConvGeometry


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e3])
def test_stored_factors_are_exact_in_float16_and_near_the_weight(size: float) -> None:
    net = small_net()
    with torch.no_grad():
        net.conv2.weight *= size
    # As many lookups as the slices have channels: only rounding is left.
    settings = CompressSettings(PlanSettings("conv2=32", 32, keep_slow=True), init="svd", measure=False)
    artefact = api.compress(api.open_model(net, (1, 3, 16, 16)), settings=settings)
    lookup = artefact.net.get_submodule("conv2")
    for factor in (lookup.dictionary, lookup.sparse_kernel):
        assert torch.equal(factor, factor.half().float())
    dense = api.compress(api.open_model(net, (1, 3, 16, 16)), settings=replace(settings, storage="float32"))
    exact = dense.net.get_submodule("conv2").weight()
    # Both factors round by 2^-11 of each value, or by 2^-25 of the largest where they are subnormal.
    assert (lookup.weight() - exact).norm() <= 2 * 2.0**-11 * 32**0.5 * exact.norm()


def layer(dictionary: torch.Tensor, size: float = 1.0, groups: int = 1) -> tuple[fx.GraphModule, LookupConv2d]:
    kernel = size * torch.randn(6, len(dictionary) // groups, 1, 1, generator=torch.Generator().manual_seed(1))
    lookup = LookupConv2d(dictionary, kernel, None, ConvGeometry((1, 1), groups=groups))
    return _net(lookup), lookup


def _net(lookup: LookupConv2d) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.call_module("lookup", (graph.placeholder("x"),)))
    return fx.GraphModule({"lookup": lookup}, graph)


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_become_integers_and_their_scales_go_into_the_coefficients(groups: int) -> None:
    rows = (
        torch.randn(512, MIN_BYTE_ENTRIES // 512, generator=torch.Generator().manual_seed(0))
        * torch.linspace(0.1, 3, 512)[:, None]
    )
    rows[7] = 0
    net, lookup = layer(rows, groups=groups)
    before = lookup.weight().detach().clone()
    round_factors(net, "int8")
    assert dictionary_type("int8", lookup.dictionary) == torch.int8
    assert float(lookup.dictionary.abs().max()) == 127
    assert torch.equal(lookup.sparse_kernel, lookup.sparse_kernel.half().float())
    # Every product of the sum is off by at most half a step of 1/127 of the row's largest value, about a normal error.
    error = (lookup.weight() - before).norm() / before.norm()
    assert 1e-3 < error < MAX_BYTE_ERROR


@pytest.mark.parametrize("case", ["small", "heavy tail", "tiny coefficients", "zeros", "float16"])
def test_what_8_bits_cannot_hold_stays_float16(case: str) -> None:
    rows = torch.randn(256, MIN_BYTE_ENTRIES // 256, generator=torch.Generator().manual_seed(0))
    if case == "small":
        rows = rows[:255]
    if case == "heavy tail":
        rows[:, 0] = 100
        rows[:, 1:] *= 0.5
    if case == "zeros":
        rows *= 0
    net, lookup = layer(rows, 1e-4 if case == "tiny coefficients" else 1.0)
    before = lookup.weight().detach().clone()
    round_factors(net, "float16" if case == "float16" else "int8")
    assert dictionary_type("int8", lookup.dictionary) == (torch.int8 if case == "zeros" else torch.float16)
    # Both factors round by 2^-11 of each value, or by 2^-25 of the largest where they are subnormal.
    assert (lookup.weight() - before).norm() <= 2 * 2.0**-11 * before.norm()


def test_artefact_and_files_hold_the_same_net(tmp_path: Path) -> None:
    artefact = wide_artefacts()["int8"]
    api.save(artefact, tmp_path / "net.lcnn")
    loaded = api.load(tmp_path / "net.lcnn")
    x = torch.randn(2, *WIDE_SHAPE[1:])
    torch.testing.assert_close(loaded.net(x), artefact.net(x), rtol=0, atol=0)
    path = tmp_path / "net.onnx"
    api.export_onnx(loaded, path)  # checks against torch, with the native library and without
    assert [rows.dtype for rows in dictionaries(onnx.load(path))] == [np.int8]
    half = wide_artefacts()["float16"]
    api.export_onnx(half, tmp_path / "half.onnx")
    saved = (tmp_path / "half.onnx").stat().st_size - path.stat().st_size
    assert abs(saved - MIN_BYTE_ENTRIES) < 200
    row, wide = (next(r for r in a.report.layers if r.name == "fc") for a in (artefact, half))
    assert (
        wide.weight_bytes - row.weight_bytes
        == MIN_BYTE_ENTRIES
        == dictionary_bytes("float16", MIN_BYTE_ENTRIES) - dictionary_bytes("int8", MIN_BYTE_ENTRIES)
    )
    # The file of another type holds the same net again.
    api.export_onnx(loaded, path, ExportSettings("float16"))
    assert [rows.dtype for rows in dictionaries(onnx.load(path))] == [np.float16]
    session = runtime.session(path, native=False)
    got = session.run(None, {"input": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), loaded.net(x).detach())


def test_a_net_of_other_factors_is_not_exported_in_8_bits(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the artefact was made with `storage` float16.* compress it with"):
        api.export_onnx(wide_artefacts()["float16"], tmp_path / "net.onnx", ExportSettings("int8"))


@needs_library
@pytest.mark.parametrize("batch", [1, 3])  # a matrix-vector product, and a product
def test_native_library_reads_8_bits(tmp_path: Path, batch: int) -> None:
    artefact = wide_artefacts()["int8"]
    api.export_onnx(artefact, tmp_path / "net.onnx")
    x = torch.randn(batch, *WIDE_SHAPE[1:], generator=torch.Generator().manual_seed(3))
    got = runtime.session(tmp_path / "net.onnx").run(None, {"input": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), artefact.net(x).detach(), rtol=1e-4, atol=1e-5)

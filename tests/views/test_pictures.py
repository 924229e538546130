"""What pictures show of a layer, held against its factors; and that they are whole files of their kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from cases import LookupConvCase, small_net
from PIL import Image
from report_cases import CONV
from torch import nn

from lcnn_compress import api
from lcnn_compress.errors import FileError, SettingsError
from lcnn_compress.forms.bfloat16 import Bfloat16Conv2d
from lcnn_compress.views.pictures import layer_view, plot_layers

ROW = replace(CONV, name="0")


def net_of(module: nn.Module) -> nn.Sequential:
    return nn.Sequential(module)


def test_uses_coefficients_and_filters_are_those_of_the_layer() -> None:
    lookup = LookupConvCase(groups=2, c_out=6, c_in=8, k=4).module()
    dense = nn.Conv2d(8, 6, 3, groups=2)
    view = layer_view(ROW, net_of(lookup), net_of(dense), [5, 0])  # type: ignore[arg-type]
    assert view.dictionary.shape == (8, 4)
    counted = [
        sum(int(lookup.sparse_kernel[filter_, entry, r, c] != 0) for filter_ in filters for r in range(3) for c in range(3))
        for filters in (range(3), range(3, 6)) for entry in range(4)
    ]  # fmt: skip
    assert view.uses.tolist() == counted
    assert len(view.coefficients) == sum(counted)
    assert (view.filters, view.made.shape) == ((5, 0), (2, 9, 4))
    weight = lookup.weight().detach()
    np.testing.assert_array_equal(view.made[0][3], weight[5, :, 1, 0])  # the fourth position of 3x3
    assert view.dense is not None
    np.testing.assert_array_equal(view.dense[1][8], dense.weight.detach()[0, :, 2, 2])
    original = dense.weight.detach()[5]
    off = (weight[5] - original).norm() / original.norm()
    assert view.errors[0] == pytest.approx(off.item(), rel=1e-5)


def test_the_best_the_middle_and_the_worst_filter_are_shown_and_even_ones_without_the_dense_net() -> None:
    lookup = LookupConvCase(c_out=5).module()
    dense = nn.Conv2d(8, 5, 3)
    with torch.no_grad():
        for number, part in enumerate((0.3, 0.0, 0.2, 0.4, 0.1)):
            dense.weight[number] = lookup.weight()[number] * (1 + part)
    assert layer_view(ROW, net_of(lookup), net_of(dense)).filters == (1, 2, 3)  # type: ignore[arg-type]
    alone = layer_view(ROW, net_of(lookup), None)  # type: ignore[arg-type]
    assert (alone.filters, alone.dense, alone.errors) == ((0, 2, 4), None, [])


def test_layers_in_bfloat16_show_their_rounded_factors() -> None:
    lookup = LookupConvCase(k=3).module()
    view = layer_view(ROW, net_of(Bfloat16Conv2d.of(lookup)), None)  # type: ignore[arg-type]
    np.testing.assert_array_equal(view.dictionary, lookup.dictionary.detach().bfloat16().float())


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "net.lcnn"
    settings = api.CompressSettings(api.PlanSettings("0.5", 2, keep_slow=True), measure=False)
    api.save(api.compress(small_net(), input_shape=(1, 3, 16, 16), settings=settings), path)
    return path


def test_pictures_are_files_of_the_kind_their_name_says(artefact: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    files, notes = plot_layers(artefact, tmp_path / "layers.png")
    assert notes == ["filters stand alone, without the original ones: the net was compressed from memory"]
    with Image.open(files[0]) as image:
        assert (image.format, image.size) == ("PNG", (1400, 560))  # two layers
    seen: list[tuple[str, int, int]] = []
    files, _ = plot_layers(artefact, tmp_path / "new", progress=lambda *step: seen.append(step))
    assert files == [tmp_path / "new" / f"{name}.svg" for name in ("conv1", "conv2")]
    assert seen == [("drawing", done, 2) for done in range(3)]
    texts = ["".join(element.itertext()).strip() for element in ElementTree.parse(files[0]).iter() if element.text]
    for text in ("conv1:  16 to 32 channels, 3x3,  lookup, 8 entries,  8 used,  2.00 lookups a position", "576 coefficients"):
        assert text in texts
    first = files[0].read_bytes()
    plot_layers(artefact, tmp_path / "new")
    assert files[0].read_bytes() == first


def test_what_cannot_be_drawn_is_refused(artefact: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with pytest.raises(SettingsError, match="conv1: has no filter 32; its `filters` are 0 to 31"):
        plot_layers(artefact, tmp_path / "a.svg", filters=[0, 32])
    with pytest.raises(FileError, match="create the folder first"):
        plot_layers(artefact, tmp_path / "none" / "a.svg")
    with pytest.raises(FileError, match="cannot be made: No such file or directory; choose another folder"):
        plot_layers(artefact, tmp_path / "none" / "pictures")
    assert list(tmp_path.iterdir()) == []
    plan = api.PlanSettings(skip=("*",))
    made = api.compress(small_net(), input_shape=(1, 3, 16, 16), settings=api.CompressSettings(plan, measure=False))
    api.save(made, tmp_path / "dense.lcnn")
    with pytest.raises(SettingsError, match="no layer has a dictionary, so there is nothing to draw"):
        plot_layers(tmp_path / "dense.lcnn", tmp_path / "a.svg")

"""What an ONNX file or an artefact is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import small_net

from lcnn_compress import api
from lcnn_compress.compress.settings import CompressSettings, PlanSettings
from lcnn_compress.errors import FileError
from lcnn_compress.export.describe import describe_artefact, describe_onnx


@pytest.fixture(scope="module")
def artefact() -> api.Artefact:
    """The small net with 8 rows and 2 lookups at each position of conv2."""
    plan = PlanSettings("8", 2, only=("conv2",), keep_slow=True)
    return api.compress(small_net(), input_shape=(1, 3, 16, 16), settings=CompressSettings(plan, measure=False))


def test_a_file_tells_what_its_artefact_tells(artefact: api.Artefact, tmp_path: Path) -> None:
    api.export_onnx(artefact, tmp_path / "net.onnx")
    found, told = describe_onnx(tmp_path / "net.onnx"), describe_artefact(artefact, Path("net.lcnn"))
    assert told.facts["artefact"] == "net.lcnn"
    assert told.facts["input"] == found.facts["input"] == [1, 3, 16, 16]
    assert found.facts["bytes"] == (tmp_path / "net.onnx").stat().st_size
    operators = found.facts["operators"]
    assert isinstance(operators, dict)
    assert (operators["ai.lcnn::LookupConv"], operators["Conv"]) == (1, 2)
    assert found.notes == told.notes == ()
    for one, other in zip(found.layers, told.layers, strict=True):
        assert list(one["kernel"]) == list(other["kernel"])
        for key in ("name", "kind", "in_channels", "out_channels", "macs"):
            assert one[key] == other[key], (one["name"], key)
    (coded,) = (row for row in found.layers if row["kind"] == "lookup")
    assert (coded["name"], coded["dictionary_size"], coded["lookups_per_position"]) == ("conv2", 8, 2.0)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.onnx: cannot be read"):
        describe_onnx(tmp_path / "none.onnx")

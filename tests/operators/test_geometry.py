"""Output sizes and MACs of convolutions, counted by hand."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from cases import small_net

from lcnn_compress import api
from lcnn_compress.errors import ArtefactError, ModelError
from lcnn_compress.operators.geometry import ConvGeometry, dense_macs, lookup_macs


def test_macs_are_counted_by_hand():
    geometry = ConvGeometry((3, 5), (2, 1), (1, 2, 1, 2))
    assert geometry.output_size(10, 7) == (5, 7)
    assert dense_macs(8, 6, geometry, (10, 7)) == 8 * 6 * 15 * 35
    assert lookup_macs(8, 4, 100, geometry, (10, 7)) == 4 * 8 * 70 + 100 * 35
    grouped = ConvGeometry((1, 1), groups=2)
    assert dense_macs(8, 6, grouped, (2, 2)) == 4 * 6 * 4
    assert lookup_macs(8, 3, 10, grouped, (2, 2)) == 2 * 3 * 4 * 4 + 10 * 4


VALID = ConvGeometry((3, 3), (1, 2), (0, 1, 2, 3), (1, 1), 2).to_json()
HUGE = 1 << 20


@pytest.mark.parametrize("field", ["kernel", "stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [HUGE, -1, 1 << 70, True, 1.0, float("nan"), "1", None, [1], {}])
def test_numbers_that_no_convolution_has_are_refused(field: str, value: object) -> None:
    for place in range(len(VALID[field])):
        values = [*VALID[field]]
        values[place] = value
        with pytest.raises(ModelError, match=rf"^{field} is .*; it must be whole numbers from [01] to 65535$"):
            ConvGeometry.from_json({**VALID, field: values})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kernel", [0, 3]), ("stride", [1, 0]), ("dilation", [0, 0]), ("kernel", [3]), ("kernel", [3] * 3), ("padding", [1]),
        ("stride", "12"), ("padding", [[1, 1]] * 4), ("groups", 0), ("groups", -2), ("groups", True), ("groups", 1.0),
        ("groups", "1"), ("groups", None), ("groups", 1 << 40), ("groups", [1]),
    ],
)  # fmt: skip
def test_geometry_that_is_none_is_refused(field: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"^{field} is "):
        ConvGeometry.from_json({**VALID, field: value})


def test_the_largest_geometry_is_none_of_these() -> None:
    values = {
        "kernel": [65535, 1],
        "stride": [1, 65535],
        "padding": [0, 65535, 0, 0],
        "dilation": [1, 65535],
        "groups": 1 << 30,
    }
    assert ConvGeometry.from_json(values).to_json() == values


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("geometry") / "net.lcnn"
    plan = api.PlanSettings("4", lookups=2, keep_slow=True)
    made = api.compress(small_net(), input_shape=(1, 3, 16, 16), settings=api.CompressSettings(plan, measure=False))
    api.save(made, path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": [HUGE, 3]}, {"kernel": [3, HUGE]}, {"stride": [HUGE, HUGE]}, {"stride": [0, 1]}, {"dilation": [HUGE, 1]},
        {"padding": [HUGE, 0, 0, 0]}, {"padding": [-3, 0, 0, 0]}, {"groups": HUGE}, {"kernel": [65535] * 2},
        {"stride": [True, 1]},
    ],
    ids=str,
)  # fmt: skip
def test_an_artefact_with_such_a_layer_is_refused(change: dict[str, object], artefact: Path, tmp_path: Path) -> None:
    """Whoever edits an artefact can write hashes that are right, too."""
    folder = Path(shutil.copytree(artefact, tmp_path / "edited.lcnn"))
    values = json.loads((folder / "lcnn.json").read_text())
    layer = next(module for module in values["graph"]["modules"].values() if module["type"] == "LookupConv2d")
    layer["geometry"].update(change)
    (folder / "lcnn.json").write_text(json.dumps(values))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["lcnn.json"] = hashlib.sha256((folder / "lcnn.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=r"edited\.lcnn: .* make it again"):
        api.load(folder)

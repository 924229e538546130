"""One export serves all twins of a net."""

from __future__ import annotations

from pathlib import Path

import onnx
from wide import dictionaries, wide_artefacts

from lcnn_compress import api
from lcnn_compress.export.template import with_factors


def test_factors_of_a_trial_are_stored_as_those_of_an_export(tmp_path: Path) -> None:
    artefact = wide_artefacts()["int8"]
    api.export_onnx(artefact, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    again = with_factors(model, artefact.net, "int8")
    assert [rows.tobytes() for rows in dictionaries(again)] == [rows.tobytes() for rows in dictionaries(model)]

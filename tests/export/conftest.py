"""A file that several tests of exporting look at."""

from __future__ import annotations

import pytest
from cases import small_net
from exported import compressed

from lcnn_compress.export.to_onnx import export_onnx


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    net = compressed(small_net(), (1, 3, 16, 16))
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    difference = export_onnx(net, path, (1, 3, 16, 16), metadata={"layers": [{"name": "conv1"}]})
    assert difference < 1e-5
    return net, path

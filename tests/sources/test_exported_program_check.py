"""What a torch.export program could run is found before it is loaded."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
import torch
from model_files import Touch, rewritten

from lcnn_compress.errors import ModelError
from lcnn_compress.sources.load_model import load_model


def test_a_program_with_a_pickle_inside_runs_it_only_when_trusted(
    saved_program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "torch._export.serde.serialize")  # its warning in torch 2.13 has too few arguments
    buffer = io.BytesIO()
    torch.save(((Touch(tmp_path / "mark"),), {}), buffer)
    inputs = buffer.getvalue()
    path = rewritten(saved_program, lambda name, content: inputs if name.startswith("data/sample_inputs") else content)
    with pytest.raises(ModelError, match=r"could run code \(pickle data/sample_inputs/model\.pt\); .*`trust_pickle`"):
        load_model(str(path))
    assert not (tmp_path / "mark").exists()
    assert load_model(str(path), trust_pickle=True).input_shape is None
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("old", "new", "risk"),
    [
        ('"expr_str": "', '"expr_str": "exec(chr(49)) + ', 'expr_str "exec'),
        ('"torch.ops.aten.relu.default"', '"torch.os.system"', "target 'torch.os.system'"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.aten.save.default"', "target 'torch.ops.aten.save.default'"),
        ('"torch.ops.aten.relu.default"', '"torch.ops.load_library"', "target 'torch.ops.load_library'"),
        ('"name": "relu"', '"name": "relu=exec(1)"', "name 'relu=exec"),
        (r"\"context\": \"null\"", r"\"context\": \"\\u005f_enum__\"", "in_spec"),
        (r"\"context\": \"null\"", r"\"context\": \"__enum__\"", "in_spec"),
    ],
)
def test_a_program_that_says_more_than_operators_and_sizes_is_refused(
    old: str, new: str, risk: str, saved_program: Path
) -> None:
    changes = 0

    def change(name: str, content: bytes) -> bytes:
        nonlocal changes
        changes += name == "models/model.json" and old.encode() in content
        return content.replace(old.encode(), new.encode()) if name == "models/model.json" else content

    path = rewritten(saved_program, change)
    assert changes == 1
    with pytest.raises(ModelError) as caught:
        load_model(str(path))
    assert "could run code" in str(caught.value)
    assert risk in str(caught.value)


def test_compiled_libraries_and_pickled_constants_in_a_program_are_refused(saved_program: Path) -> None:
    path = rewritten(saved_program, lambda _, content: content, {"data/aotinductor/model/a.so": b""})
    with pytest.raises(ModelError, match=r"compiled library data/aotinductor/model/a\.so"):
        load_model(str(path))
    constants = json.dumps({"config": {"c": {"path_name": "opaque_obj_0", "use_pickle": [[]], "is_param": False}}}).encode()
    path = rewritten(saved_program, lambda name, content: constants if name.endswith("constants_config.json") else content)
    with pytest.raises(ModelError, match=r"path_name 'opaque_obj_0'.*a pickled constant"):
        load_model(str(path))

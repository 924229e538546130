"""The checkup of this machine: facts, and a self-test that finds a library that computes something else."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from command_line import needs_library

from lcnn_compress import runtime
from lcnn_compress.errors import MissingError
from lcnn_compress.machine import machine
from lcnn_compress.operators.geometry import ConvGeometry
from lcnn_compress.self_test import check, self_test, single_node_model
from lcnn_compress.version import __version__


@needs_library
def test_the_checkup_has_the_keys_of_the_contract_in_order() -> None:
    found = asdict(check())
    facts = ["cpu", "cores", "isa", "system", "python", "onnxruntime", "torch"]
    assert list(found) == ["command", "lcnn", *facts, "native_library", "native_version", "self_test"]
    assert (found["command"], found["lcnn"], found["native_library"]) == ("doctor", __version__, str(runtime.library_path()))
    assert {key: found[key] for key in facts} == asdict(machine())
    assert found["self_test"].startswith("passed: native and fallback differ by ")


def test_without_a_library_the_self_test_says_how_to_get_one() -> None:
    said = self_test(None)
    assert said.startswith("not run: exported files run at dense speed without the native library; run 'pip install .'")
    assert runtime.LIBRARY_VARIABLE in said


def test_a_named_library_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runtime.LIBRARY_VARIABLE, "/none.so")
    with pytest.raises(MissingError, match=r"^LCNN_RUNTIME_LIBRARY is '/none.so': there is no such file"):
        check()


def test_a_single_node_follows_its_seed_and_geometry() -> None:
    geometry = ConvGeometry((3, 3), (2, 1), (1, 0, 1, 2))
    models = [single_node_model(geometry, channels=(4, 6), dictionary_size=3, seed=seed) for seed in (0, 0, 1)]
    assert models[0] == models[1]
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 8), np.float32)
    one, _, other = (runtime.session(model, native=False).run(None, {"X": x})[0] for model in models)
    assert one.shape == other.shape == (2, 6, 5, 8)  # (9 + 1 + 1 - 3) / 2 + 1 rows, 8 + 0 + 2 - 3 + 1 columns
    assert not np.array_equal(one, other)

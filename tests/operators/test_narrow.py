"""The tables of operators on bytes and bfloat16."""

from __future__ import annotations

import pytest
from onnx import TensorProto

from lcnn_compress.forms.arithmetic import ARITHMETICS
from lcnn_compress.operators.lookup_conv import LAYER_OPS
from lcnn_compress.operators.narrow import BYTES, HALVES, INPUTS, KIND_OF, KINDS, SUFFIXES, Narrow


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_table_fits_itself(kind: Narrow) -> None:
    assert kind.name in ARITHMETICS
    assert {*kind.narrowed, *kind.narrowed.values(), *kind.to_bfloat16.values()} == set(kind.inputs)
    assert all(kind.inputs[to_float] == kind.inputs[to_bfloat16] for to_float, to_bfloat16 in kind.to_bfloat16.items())
    for wide, narrowed in kind.narrowed.items():
        # What gives narrow numbers takes what the other takes, and then what says how, where the sum comes from and its grid.
        assert kind.inputs[narrowed][: len(kind.inputs[wide])] == kind.inputs[wide]
        assert len(kind.inputs[narrowed]) - len(kind.inputs[wide]) == 2 * kind.grid + 1
    for lookup, dense in kind.without_dictionary.items():
        rest = tuple(name for name in kind.inputs[lookup] if name not in ("D", "d_scale"))
        assert rest == kind.inputs[dense]
        assert "D" in kind.inputs[lookup]
    for names in kind.inputs.values():
        assert names[0] == "X"
        assert names.index("D" if "D" in names else "W") == 1 + kind.grid


def test_every_operator_is_of_one_kind() -> None:
    assert set(INPUTS) == set(BYTES.inputs) | set(HALVES.inputs)
    assert len(INPUTS) == len(BYTES.inputs) + len(HALVES.inputs)
    assert {KIND_OF[op_type].name for op_type in BYTES.inputs} == {"int8"}
    assert {KIND_OF[op_type].name for op_type in HALVES.inputs} == {"bfloat16"}
    assert set(INPUTS) <= LAYER_OPS
    assert len(set(SUFFIXES)) == len(KINDS)


def test_casts_are_to_the_types_they_say() -> None:
    assert HALVES.rows_from_float == ("Cast", {"to": TensorProto.BFLOAT16})
    assert HALVES.rows_to_float == ("Cast", {"to": TensorProto.FLOAT})

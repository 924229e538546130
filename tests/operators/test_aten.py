"""A net may call what only computes, under the names that files give it, and nothing else."""

from __future__ import annotations

import math
import operator
import os

import pytest
import torch

from lcnn_compress.operators.aten import check_keywords, name_of, operator_of


@pytest.mark.parametrize("function", [
    torch.ops.aten.conv2d.default, torch.ops.aten.relu_.default, torch.ops.aten.add_.Tensor, torch.ops.aten.hardswish_.default,
    torch.ops.aten.upsample_bilinear2d.vec, torch.ops.aten.scaled_dot_product_attention.default, torch.ops.aten.sym_size.int,
    torch.ops.aten.index_put_.default, torch.ops.aten.to.dtype, torch.ops.aten.max_pool2d.default, operator.floordiv, math.ceil,
    torch.sym_max, operator.getitem,
])  # fmt: skip
def test_what_computes_is_found_under_its_name(function: object) -> None:
    assert operator_of(name_of(function)) is function


@pytest.mark.parametrize("name", [
    "aten.from_file.default", "aten.set_.source_Storage", "aten.resize_.default", "aten.as_strided.default",
    "aten.data.default",
    "aten.record_stream.default", "aten.empty_strided.default", "aten.rand.default", "aten.bernoulli.default",
    "aten.randperm.default", "aten.item.default", "aten._local_scalar_dense.default", "aten.is_pinned.default",
    "aten.__class__.default", "aten.relu.__class__", "aten.relu.overloads", "aten.nothing.default", "aten.relu",
    "prims.add.default",
    "os.system", "operator.attrgetter", "operator.methodcaller", "math.dist", "torch.load", "builtins.eval", "",
])  # fmt: skip
def test_nothing_else_is_found(name: str) -> None:
    with pytest.raises(ValueError, match="operator '"):
        operator_of(name)


@pytest.mark.parametrize(
    "function", [os.system, torch.load, print, eval, operator.attrgetter, torch.ops.aten.from_file.default]
)
def test_nothing_else_is_written(function: object) -> None:
    with pytest.raises(ValueError, match=r"not one that a net may call|not on the list"):
        name_of(function)


def test_keywords_are_those_of_the_operator() -> None:
    check_keywords(torch.ops.aten.zeros.default, {"dtype": torch.float32, "device": "cpu"})
    for function, name in ((torch.ops.aten.relu.default, "inplace=exec('1') or True) #"), (operator.add, "a")):
        with pytest.raises(ValueError, match="has no argument"):
            check_keywords(function, {name: 1})

"""Lookup convolutions of plans: made once, as their kind says, and refused where the plan is impossible."""

from __future__ import annotations

import pytest
import torch
from cases import small_net

from lcnn_compress.compression.make import make_lookup, make_lookups
from lcnn_compress.compression.plan import LayerPlan
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Layer, layers

EXAMPLE = torch.zeros(1, 3, 16, 16)
PLANS = [
    LayerPlan("stem", "dense", "only 3 input channels"),
    LayerPlan("conv1", "sparse", "", 16, 0.25),
    LayerPlan("conv2", "lookup", "", 8, 2),
    LayerPlan("fc", "lowrank", "", 6, 6),
]


@pytest.fixture(scope="module")
def found() -> list[Layer]:
    return layers(capture(small_net(), EXAMPLE), EXAMPLE)


def test_only_what_is_missing_is_made(found: list[Layer]) -> None:
    built: dict[LayerPlan, LookupConv2d] = {}
    seen: list[tuple[str, int, int]] = []
    first = make_lookups(found, PLANS, CompressSettings(), built, lambda *step: seen.append(step))
    assert list(first) == ["conv1", "conv2", "fc"]
    assert seen[-1] == ("dictionaries", 3, 3)
    other = [*PLANS[:2], LayerPlan("conv2", "lookup", "", 8, 3), PLANS[3]]
    second = make_lookups(found, other, CompressSettings(), built, lambda *step: seen.append(step))
    assert seen[-1] == ("dictionaries", 1, 1)
    assert second["conv1"] is first["conv1"]
    assert second["conv2"] is not first["conv2"]
    assert len(built) == 4


def test_the_kind_fixes_the_start_where_it_leaves_no_choice(found: list[Layer]) -> None:
    lookups = make_lookups(found, PLANS, CompressSettings(init="ksvd"), {})
    assert lookups["conv1"].is_identity
    assert lookups["conv1"].n_nonzeros == 16 * 32 * 9 // 4
    assert lookups["conv2"].n_nonzeros == 2 * 32 * 9
    rows = lookups["fc"].dictionary
    torch.testing.assert_close(rows @ rows.T, torch.eye(6), rtol=0, atol=1e-5)  # singular vectors


def test_the_seed_decides(found: list[Layer]) -> None:
    one, same, other = (make_lookup(found[2], PLANS[2], "kmeans", seed).dictionary for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_impossible_plans_are_refused(found: list[Layer]) -> None:
    with pytest.raises(SettingsError, match="lookups is 9, but dictionary_size is 8; lower lookups to 8"):
        make_lookup(found[2], LayerPlan("conv2", "lookup", "", 8, 9), "kmeans", 0)

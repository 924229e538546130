"""Neighbouring filters with one pattern: wherever entries are chosen, they are chosen for all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import small_net

from lcnn_compress.compress import improve
from lcnn_compress.compress.pipeline import compress_net
from lcnn_compress.compress.plan import PlanSettings
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.forms.dictionary import code_slices, factorise
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.pattern import choose_pattern, shared_scores
from lcnn_compress.net.capture import capture
from lcnn_compress.net.layers import Captured, calls


def weight(out_channels=24, m=16, seed=0):
    return np.random.default_rng(seed).standard_normal((out_channels, m, 3, 3)).astype(np.float32)


def patterns_in_common(support, filters_per_pattern, groups=1):
    """Whether blocks of filters, which may not cross groups, have the same entries."""
    for group in np.split(np.asarray(support), groups):
        for start in range(0, len(group), filters_per_pattern):
            block = group[start : start + filters_per_pattern]
            if not (block == block.any(0)).all():
                return False
    return True


@pytest.mark.parametrize("init", ["kmeans", "ksvd", "svd", "identity"])
@pytest.mark.parametrize(("out_channels", "groups", "filters_per_pattern"), [(24, 1, 4), (22, 1, 8), (20, 2, 4), (24, 1, 2)])
def test_filters_share_rows_and_as_many_as_asked_for(init, out_channels, groups, filters_per_pattern):
    size = 16 if init == "identity" else 8
    dictionary, kernel = factorise(
        weight(out_channels),
        groups=groups,
        dictionary_size=size,
        lookups=0.25,
        init=init,
        seed=0,
        filters_per_pattern=filters_per_pattern,
    )
    assert dictionary.shape == (groups * size, 16)
    assert patterns_in_common(kernel != 0, filters_per_pattern, groups)
    asked = 0.25 * kernel.size
    filled_up = (
        groups * size * 9 * (-(out_channels // groups) % filters_per_pattern)
    )  # places in filters of zeros, at most all taken
    assert asked - filled_up - filters_per_pattern <= (kernel != 0).sum() <= asked + filters_per_pattern


@pytest.mark.parametrize("init", ["kmeans", "svd"])
def test_one_common_pattern_costs_accuracy(init):
    def error(w, filters_per_pattern):
        dictionary, kernel = factorise(
            w, groups=1, dictionary_size=8, lookups=0.25, init=init, seed=0, filters_per_pattern=filters_per_pattern
        )
        return float(((np.einsum("okrc,km->omrc", kernel, dictionary) - w) ** 2).sum())

    assert error(weight(), 1) < error(weight(), 2) < error(weight(), 8)


def test_equal_slices_are_coded_as_each_alone():
    rng = np.random.default_rng(0)
    slices, rows = rng.standard_normal((5, 16)), rng.standard_normal((8, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alone = code_slices(slices, rows, n_lookups=3)
    np.testing.assert_allclose(
        code_slices(slices.repeat(4, axis=0), rows, n_lookups=3, filters_per_pattern=4), alone.repeat(4, axis=0)
    )


def test_scores_of_neighbours_become_one():
    scores = torch.tensor([[3.0, 4.0, 1.0], [0.0, 0.0, 2.0]])[:, :, None]
    shared = shared_scores(scores, 2)[:, :, 0]
    expected = torch.tensor([[12.5**0.5, 12.5**0.5, 1.0], [0.0, 0.0, 2.0]])
    torch.testing.assert_close(shared, expected)
    assert shared_scores(scores, 1) is scores


def test_patterns_chosen_from_data_are_common():
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(200, 10, generator=generator, dtype=torch.float64)
    y = f @ torch.randn(10, 12, generator=generator, dtype=torch.float64)
    kept = choose_pattern((f.T @ f / 200)[None], (f.T @ y / 200)[None], torch.ones(1, 12, 10, dtype=torch.bool), 48, 4)
    assert int(kept.sum()) == 48
    assert patterns_in_common(kept[0], 4)


class Labelled:
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(64, 3, 16, 16, generator=generator)
        self.y = torch.randint(0, 4, (64,), generator=generator)

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        return self.x[indices], self.y[indices]


@pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
def test_a_net_keeps_common_patterns_through_calibration_and_training(sparsity, monkeypatch):

    from lcnn_compress.train.recipe import FinetuneSettings

    monkeypatch.setattr(improve, "PRUNING_STEPS", 1)
    shape = (1, 3, 16, 16)
    tuning = FinetuneSettings(epochs=2, batch_size=8, sparsity=sparsity, threshold_c=0.05)
    settings = CompressSettings(PlanSettings("0.5", 2, keep_slow=True, filters_per_pattern=4), measure=False, finetune=tuning)
    data = TrainingData([torch.randn(8, 3, 16, 16)], Labelled())
    artefact = compress_net(Captured.of(capture(small_net(), torch.zeros(shape)), shape), settings, data)
    lookups = [lookup for _, lookup in calls(artefact.net, LookupConv2d)]
    assert lookups
    for lookup in lookups:
        listed = 4 * int(lookup.support.unflatten(0, (-1, 4)).any(1).sum())
        # Not all: ties at the number asked for, and coefficients that rounding to float16 made zero.
        assert lookup.n_nonzeros > 0.98 * listed
    assert all(layer["share"] == 4 for layer in artefact.config["layers"] if layer["kind"] == "lookup")


def test_shares_without_a_kernel_are_refused():
    with pytest.raises(SettingsError, match="`filters_per_pattern` is 3; it must be one of 1, 2, 4, 8"):
        PlanSettings(filters_per_pattern=3)

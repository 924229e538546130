"""The comparison of methods in examples/: what reaches a number of MACs, what the plans become, and going on after a stop."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import small_net
from torch import Tensor, nn

from lcnn_compress import api
from lcnn_compress.compress.settings import CompressSettings, TrainingData
from lcnn_compress.errors import SettingsError
from lcnn_compress.net.layers import layers
from lcnn_compress.train.recipe import FinetuneSettings
from lcnn_compress.zoo import fashion_resnet

SHAPE = (1, 3, 16, 16)


@pytest.fixture(autouse=True, scope="module")
def examples_on_the_path() -> Iterator[None]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    yield
    del sys.path[0]


@pytest.fixture(scope="module")
def methods() -> Any:
    return importlib.import_module("methods")


@pytest.fixture(scope="module")
def compare() -> Any:
    return importlib.import_module("compare_methods")


class Noise:
    def __len__(self) -> int:
        return 64

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return torch.randn(len(indices), *SHAPE[1:], generator=torch.Generator().manual_seed(int(indices[0]))), indices % 10


def test_solve_returns_the_largest_share_that_fits(methods: Any) -> None:
    assert methods.solve(lambda t: round(1000 * t), 1000) == 1
    share = methods.solve(lambda t: round(1000 * t), 300)
    assert round(1000 * share) == 300
    assert round(1000 * (share + 1e-9)) == 301
    with pytest.raises(SettingsError, match="cannot be had"):
        methods.solve(lambda t: 400 + round(t), 300)


@pytest.mark.parametrize("method", ["lookup (one rule)", "lookup (paper)", "sparse", "low rank"])
@pytest.mark.parametrize("which", [0, 1])
def test_plans_have_the_macs_that_were_asked_for(methods: Any, method: str, which: int) -> None:
    source = api.open_model(small_net(), SHAPE)
    rewriting = methods.Rewriting(layers(source.net, torch.zeros(SHAPE)), ())
    assert [layer.name for layer in rewriting.layers] == ["conv1", "conv2"]
    planned = rewriting.plan(method, methods.CANDIDATES[method][which], 3)
    target = rewriting.total / 3
    row = sum(layer.dense_macs for layer in rewriting.layers) / 16  # what one more row of a dictionary can cost
    assert target - row < planned.macs <= target
    training: dict[str, Any] = {}
    if planned.threshold is not None:  # so slow that the first thresholding is the only one
        tuning = FinetuneSettings(1, 32, 1e-12, "threshold", planned.threshold)
        training = {"data": TrainingData(examples=Noise())}
    else:
        tuning = None
    settings = CompressSettings(init=planned.init, measure=False, finetune=tuning)
    artefact = api.compress_source(source, settings, plans=planned.plans, **training)
    macs = sum(row.macs for row in artefact.report.layers)
    # Training normalises in float32 what was solved in float64: a value at the threshold can go either way.
    assert abs(macs - planned.macs) <= 0.001 * planned.macs


def test_an_impossible_cut_is_refused(methods: Any) -> None:
    source = api.open_model(small_net(), SHAPE)
    rewriting = methods.Rewriting(layers(source.net, torch.zeros(SHAPE)), ())
    with pytest.raises(SettingsError, match="cannot be had"):
        rewriting.plan("sparse", "one density", rewriting.total / rewriting.fixed + 1)


def test_macs_of_a_module_are_those_of_its_captured_layers(compare: Any) -> None:
    shape = (1, 1, 28, 28)
    rows = api.dense_rows(api.open_model(fashion_resnet((16, 32, 64)), shape).net, shape)
    built = compare.module_macs(lambda share: fashion_resnet(tuple(round(share * w) for w in (32, 64, 128))), 0.5, shape)
    assert built == sum(row["macs"] for row in rows)


def test_a_narrower_net_starts_from_the_first_channels(methods: Any) -> None:
    dense, narrow = (nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1)) for width in (8, 5))
    methods.start_from_slices(narrow, dense.state_dict())
    assert torch.equal(narrow[0].weight, dense[0].weight[:5])
    assert torch.equal(narrow[2].weight, dense[2].weight[:, :5])


def test_results_are_kept_and_other_settings_refused(compare: Any, tmp_path: Path) -> None:
    path = tmp_path / "methods.json"
    results = compare.Results(path)
    results.check_settings("net", {"images": 3})
    assert results.get("runs", "a", lambda: {"score": 1.5}) == {"score": 1.5}
    assert json.loads(path.read_text())["runs"] == {"a": {"score": 1.5}}
    again = compare.Results(path)
    assert again.get("runs", "a", lambda: {"score": 2.0}) == {"score": 1.5}
    again.check_settings("another", {"images": 4})
    with pytest.raises(SystemExit, match=r"net was made with .*another --output"):
        again.check_settings("net", {"images": 4})


def test_a_stopped_comparison_goes_on_where_it_was(compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[float, str]] = []

    def make(_: Any, task: Any, choice: Any) -> Any:
        if len(made) == 6:
            raise KeyboardInterrupt
        made.append((task.speed, str(choice)))
        score = 2.0 if choice.candidate == "one threshold" else 1.0
        return compare.Made(score, lambda path: path.write_bytes(b"onnx"), {"macs": 7})

    source = api.open_model(small_net(), SHAPE)
    case = compare.Case(
        "net", "points", source, lambda _: small_net(), Noise(), {"validation": float, "test": lambda run: 10 * run}, 8,
        8, lambda indices: Noise().batch(indices)[0], speeds=(2, 3),
    )  # fmt: skip
    options = argparse.Namespace(
        work=tmp_path,
        methods=["sparse"],
        speeds=None,
        search_speeds=[2],
        seeds=2,
        images=64,
        epochs=1,
        precision="float32",
        rates=[1e-3, 3e-3],
        scored_images=None,
    )
    monkeypatch.setattr(compare.Comparison, "_make", make)
    monkeypatch.setattr(compare, "torch_runner", lambda _: 0.5)
    path = tmp_path / "methods.json"
    with pytest.raises(KeyboardInterrupt):
        compare.Comparison(case, options, compare.Results(path)).run()
    # Four candidates at 2x; the best of them is the first seed's result, so 2x needs seed 1 only, then 3x seed 0.
    tried = [(2, f"{candidate}, {rate}") for candidate in ("one density", "one threshold") for rate in (0.001, 0.003)]
    assert made == [*tried, (2, "one threshold, 0.001"), (3, "one threshold, 0.001")]
    made.clear()
    compare.Comparison(case, options, compare.Results(path)).run()
    assert made == [(3, "one threshold, 0.001")]
    runs = json.loads(path.read_text())["runs"]
    assert len(runs) == 8
    assert compare.Comparison(case, options, compare.Results(path)).missing() == ["times"]
    assert runs["net/sparse/3/1"] == {"macs": 7, "choice": "one threshold, 0.001", "score": 20.0}
    assert runs["net/sparse/3/0"]["bytes"] == 4


def test_best_at_equal_time() -> None:
    report = importlib.import_module("method_report")

    def point(method: str, ms: float, score: float) -> Any:
        return report.Point(method, 3, (score,), ms, 1, 1, 1, "")

    others = [point("a", 1.0, 80), point("a", 4.0, 90), point("b", 1.5, 84)]
    assert report.best_at(0.5, others) is None
    assert report.best_at(1.0, others) == (80, "a")
    score, method = report.best_at(2.0, others)
    assert (score, method) == (pytest.approx(85), "a")  # half way between on a logarithmic scale
    assert report.best_at(1.6, others)[1] == "b"
    assert report.best_at(9.0, others) == (90, "a")

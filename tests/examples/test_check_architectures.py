"""What the check of foreign nets calls right, refused, wrong, an error, too slow and unfit, and when it ends with 1."""

from __future__ import annotations

import importlib
import json
import os
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import small_net
from torch import nn

from lcnn_compress.errors import FileError, ModelError

OPTIONS = Namespace(dense=False, gigabytes=64, seconds=60)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script with one net, ours."""
    check = importlib.import_module("check_architectures")
    monkeypatch.setattr(check.architectures, "NETS", {"ours/small": 16})
    monkeypatch.setattr(check.architectures, "build", lambda name: small_net().eval())  # noqa: ARG005
    monkeypatch.setattr(check.architectures, "import_packages", lambda: None)
    monkeypatch.setattr(check, "version", lambda package: "1.0")  # noqa: ARG005
    return check


def raising(error: Exception) -> Callable[..., Any]:
    def made(*arguments: Any) -> Any:
        raise error

    return made


def test_a_net_is_held_against_itself_at_three_sizes_with_1_and_3_images(check: Any) -> None:
    stages: list[str] = []
    found = check.examine("ours/small", False, stages.append)
    assert found["outcome"] == "right", found
    assert {*found["differences"]} == {f"{n}x3x{size}" for n in (1, 3) for size in ("16x16", "48x80", "27x43")}
    assert 0 < found["difference"] == max(found["differences"].values()) < check.TOLERANCE
    assert found["lookup_layers"] > 0
    assert stages == ["build", "open", "compress", "save and load", "export", "compare"]


def test_a_file_of_another_net_is_wrong(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = check.made

    def other(net: nn.Module, *rest: Any) -> Any:
        with torch.no_grad():
            next(net.parameters()).mul_(1.1)
        return made(net, *rest)

    monkeypatch.setattr(check, "made", other)
    found = check.examine("ours/small", True, str)
    assert found["outcome"] == "wrong"
    assert found["says"].count("3x3x") == 3
    assert check.is_bad(found)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ModelError("no"), "refused"),
        (FileError("no disk"), "internal error"),
        (KeyError("x"), "internal error"),
    ],
    ids=["refusal", "other exit code", "other exception"],
)
def test_an_error_is_a_refusal_only_with_exit_code_2(
    check: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str
) -> None:
    monkeypatch.setattr(check, "made", raising(error))
    found = check.outcome_of("ours/small", OPTIONS)
    assert found["outcome"] == outcome
    assert type(error).__name__ in found["says"]
    assert check.is_bad(found) == (outcome != "refused")


def test_a_refusal_may_not_come_late(check: Any) -> None:
    assert not check.is_bad({"outcome": "refused", "refused_after": 29.0})
    assert check.is_bad({"outcome": "refused", "refused_after": 31.0})


def test_a_net_that_answers_all_images_alike_is_unfit(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.architectures, "enliven", lambda net, side: nn.init.zeros_(net[0].weight))  # noqa: ARG005
    found = check.examine("ours/small", False, str)
    assert found["outcome"] == "unfit"
    assert check.is_bad(found)


def test_a_process_that_dies_or_takes_too_long_is_told_with_its_stage(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(name: str, dense: bool, stage: Callable[[str], None]) -> None:
        stage("open")
        os._exit(9)

    def slept(name: str, dense: bool, stage: Callable[[str], None]) -> None:
        stage("export")
        time.sleep(60)

    monkeypatch.setattr(check, "examine", died)
    found = check.outcome_of("ours/small", OPTIONS)
    assert (found["outcome"], found["stage"], found["says"]) == ("internal error", "open", "the process ended with 9")
    monkeypatch.setattr(check, "examine", slept)
    found = check.outcome_of("ours/small", Namespace(**vars(OPTIONS) | {"seconds": 1}))
    assert (found["outcome"], found["stage"]) == ("too slow", "export")
    assert found["seconds"] < 30


def test_a_run_goes_on_where_it_stopped_and_ends_with_1_for_what_is_bad(
    check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    monkeypatch.setattr("sys.argv", ["check", "--json", str(file)])
    monkeypatch.setattr(check, "outcome_of", lambda name, options: {"outcome": "wrong", "seconds": 1.0})  # noqa: ARG005
    for outcome_of in (check.outcome_of, raising(AssertionError("done before"))):
        monkeypatch.setattr(check, "outcome_of", outcome_of)
        with pytest.raises(SystemExit) as ended:
            check.main()
        assert ended.value.code == 1
    assert "ours/small" in capsys.readouterr().out
    kept = json.loads(file.read_text())
    assert kept["runs"] == {"ours/small": {"outcome": "wrong", "seconds": 1.0}}
    assert {"date", "machine"} <= {*kept}


@torch.no_grad()
def test_enlivened_layers_have_a_quarter_of_their_rank_and_an_effect(check: Any) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm = nn.Conv2d(16, 12, 3, bias=False), nn.BatchNorm2d(12)
            self.gamma = nn.Parameter(torch.full((12, 1, 1), 1e-6))
            self.first = nn.Conv2d(3, 16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gamma * self.norm(self.inner(self.first(x)))

    torch.manual_seed(0)
    net = Scaled().eval()
    check.architectures.enliven(net, 16)
    rows = net.inner.weight.movedim(1, -1).reshape(-1, 16)
    assert torch.linalg.matrix_rank(rows) == 4
    assert torch.linalg.matrix_rank(net.first.weight.movedim(1, -1).reshape(-1, 3)) == 3  # too few channels for a dictionary
    assert net.gamma.min() > 0.1
    assert not net.norm.training
    assert net.norm.momentum == 0.1
    assert not torch.allclose(net.norm.running_var, torch.ones(12))
    check.answers(net, 16)

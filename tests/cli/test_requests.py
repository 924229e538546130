"""What the options of a command stand for, and which do not go together. Nothing is computed: the files are not there."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from command_line import lcnn

from lcnn_compress.cli.requests import BenchRequest, CompressRequest, EvalRequest, SensitivityRequest
from lcnn_compress.compression.settings import CompressSettings, PlanSettings
from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import SettingsError
from lcnn_compress.search.target import Target
from lcnn_compress.train.recipe import FinetuneSettings

NONE: frozenset[str] = frozenset()


def test_options_left_out_are_the_defaults_of_the_settings() -> None:
    made = CompressRequest(model="m.pt").configuration(NONE, None)
    assert made.settings == CompressSettings()
    assert made.data == DataSettings()
    assert (made.arch, made.input_shape, made.plans) == (None, None, None)


def test_every_option_reaches_the_settings() -> None:
    request = CompressRequest(
        model="m.pt", arch="a:b", input_shape="1,3,8,8", dictionary="fast", lookups="2", filters_per_pattern=8, init="svd",
        only=["a*"], skip=["b"], keep_slow=True, measure=False, threads=2, storage="float32", seed=7, calib="c.npz", samples=9,
        data="d.npz", mean="0.5", std="0.25,0.5,1", epochs=4, lr=0.1, batch_size=8, sparsity="threshold", l1=0.2,
        threshold_c=0.3, distill=False, training_precision="bfloat16", arithmetic="int8", task="multilabel",
        strict=True,
    )  # fmt: skip
    given = frozenset(f.name for f in fields(request)) - {"config", "dry_run", "max_drop"}
    made = request.configuration(given, None)
    finetune = FinetuneSettings(4, 8, 0.1, "threshold", 0.3, 0.2, False, seed=7, precision="bfloat16", task=Task.LABELS)
    plan = PlanSettings("fast", 2, ("a*",), ("b",), True, 8)
    assert made.settings == CompressSettings(plan, "svd", 7, "float32", False, 2, finetune, "int8")
    assert made.data == DataSettings("c.npz", 9, "d.npz", (0.5,), (0.25, 0.5, 1.0), task=Task.LABELS, strict=True)
    assert (made.arch, made.input_shape) == ("a:b", (1, 3, 8, 8))


def test_a_target_decides_the_start_of_dictionaries_and_a_drop_holds_data_out() -> None:
    request = CompressRequest(model="m.pt", max_drop=1.0, data="d.npz")
    target = request.target(frozenset({"max_drop", "data"}))
    assert target == Target("max_drop", 1.0)
    made = request.configuration(frozenset({"max_drop", "data"}), target)
    assert (made.settings.init, made.data.held_out) == ("ksvd", 0.3)
    given = frozenset({"target_speedup", "init"})
    kept = CompressRequest(model="m.pt", target_speedup=2.0).configuration(given, Target("speedup", 2.0))
    assert (kept.settings.init, kept.data.held_out) == ("kmeans", 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lr", "0.1"), "--lr does nothing without --epochs N"),
        (("--no-distill",), "--distill does nothing without --epochs N"),
        (("--data", "data.npz"), "--data does nothing without --epochs N or a target"),
        (("--samples", "3"), "--samples does nothing without --calib or --data"),
        (("--mean", "0.5"), "--mean does nothing without --calib or --data"),
        (("--dry-run",), "--dry-run does nothing without a target such as --target-speedup 4"),
        (("--epochs", "1", "--data", "data.npz", "--l1", "1"), "--l1 does nothing with --sparsity gradual"),
        (("--epochs", "1"), "--epochs asks for fine-tuning, but there is no training data; add --data"),
        (("--resume",), "--resume continues a fine-tuning; add --data and --epochs"),
        (("--dict", "8", "--max-drop", "1"), "--dict and --max-drop both say how far to compress"),
        (("--target-speedup", "2", "--share", "8"), "--filters-per-pattern does nothing with --target-speedup"),
        (("--target-speedup", "2", "--no-measure"), "--no-measure leaves out what a target of time or drop needs"),
        (("--target-speedup", "1"), "--target-speedup is 1; it must be a number above 1"),
        (("--max-drop", "1"), "--max-drop is judged on labelled examples; add --data"),
        (("--max-drop", "1", "--data", "d.npz", "--resume"), "--resume does not go with --max-drop"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"error: {message}" in lcnn("compress", "none.pt", *arguments, code=2).stderr


def test_samples_of_training_data_are_asked_for_without_calibration_data() -> None:
    given = frozenset({"data", "epochs", "samples"})
    made = CompressRequest(model="m.pt", data="d.npz", epochs=1, samples=20).configuration(given, None)
    assert made.data == DataSettings(samples=20, data="d.npz")
    sensitivity = SensitivityRequest(model="m.pt", data="d.npz", samples=20).checked_data(frozenset({"data", "samples"}))
    assert sensitivity == made.data


def test_what_is_given_beside_a_configuration(tmp_path: Path) -> None:
    layer = {"name": "1", "kind": "lookup", "reason": "", "dictionary_size": 8, "lookups": 2}
    values = {
        "init": "svd", "seed": 3, "coefficients": "float32", "layers": [layer], "finetune": None,
        "data": {"calib": "c.npz", "samples": 24, "data": None, "mean": [0.5], "std": [0.25]},
        "model": {"kind": "module", "arch": None, "sha256": "ab"}, "input_shape": [1, 3, 8, 8],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    request = CompressRequest(model="m.pt", config=tmp_path / "config.json", measure=False, threads=2, calib="moved.npz")
    made = request.configuration(frozenset({"config", "measure", "threads", "calib"}), None)
    assert made.settings == CompressSettings(init="svd", seed=3, storage="float32", measure=False, threads=2)
    assert made.data == DataSettings("moved.npz", 24, None, (0.5,), (0.25,))
    assert (made.input_shape, made.sha256) == ((1, 3, 8, 8), "ab")
    assert replace(request, input_shape="1,3,9,9").configuration(frozenset({"config"}), None).input_shape == (1, 3, 9, 9)
    with pytest.raises(SettingsError, match="--config already fixes --dict, --seed; leave those options out"):
        request.configuration(frozenset({"config", "seed", "dictionary", "threads"}), None)


def test_requests_of_other_commands() -> None:
    bench = BenchRequest(threads="1,2", batches="8", iterations=3, per_layer=False, rivals=False).settings()
    assert (bench.threads, bench.batches, bench.iterations, bench.per_layer, bench.rivals) == ((1, 2), (8,), 3, False, False)
    given = frozenset({"calib", "mean"})
    assert BenchRequest(calib="x.npy", mean="0.5").checked_data(given) == DataSettings("x.npy", mean=(0.5,))
    assert BenchRequest().checked_data(NONE) == DataSettings()
    with pytest.raises(SettingsError, match="--mean does nothing without --calib; add it"):
        BenchRequest(mean="0.5").checked_data(frozenset({"mean"}))
    with pytest.raises(SettingsError, match="--calib does nothing with --no-rivals; leave one of them out"):
        BenchRequest(calib="x.npy", rivals=False).checked_data(frozenset({"calib", "rivals"}))
    assert EvalRequest(data="d.npz", mean="0", std="1").data_settings() == DataSettings(data="d.npz", mean=(0.0,), std=(1.0,))
    with pytest.raises(SettingsError, match="eval needs labelled data"):
        EvalRequest().data_settings()
    with pytest.raises(SettingsError, match="sensitivity needs data"):
        SensitivityRequest(model="m.pt").checked_data(NONE)
    with pytest.raises(SettingsError, match="`sizes` is '2'; it must be shares above 0 and up to 1"):
        SensitivityRequest(model="m.pt", sizes="2").settings()

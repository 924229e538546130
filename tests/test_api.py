"""The Python interface: its names, and that it does what the command line does without changing what it is given."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from cases import Noise, small_net
from torch import nn

import lcnn_compress
from lcnn_compress import api
from lcnn_compress.compression.checkpoint_folder import CheckpointFolder
from lcnn_compress.errors import DataError, SettingsError

SHAPE = (1, 3, 16, 16)
HOME = Path(lcnn_compress.__file__).parent.parent
SETTINGS = api.CompressSettings(plan=api.PlanSettings("8", lookups=2), measure=False)
# What each command of the command line does, as a function.
COMMANDS = {
    "compress": ("open_model", "load_data", "compress", "compress_and_save", "compress_to_target", "forecast", "save"),
    "sensitivity": ("sensitivity", "sensitivity_picture"), "export": ("load", "export_onnx", "export_dense"),
    "bench": ("bench", "suite"), "eval": ("evaluate", "evaluate_file"), "inspect": ("inspect",), "doctor": ("doctor",),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt of torch's own classes, data.npz, and model.lcnn made from them."""
    path = tmp_path_factory.mktemp("api")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )
    torch.save(net, path / "model.pt")
    rng = np.random.default_rng(0)
    np.savez(path / "data.npz", x=rng.random((12, *SHAPE[1:]), np.float32), y=rng.integers(0, 10, 12))
    data = api.DataSettings(calib=str(path / "data.npz"), mean=(0.5,), std=(0.25,))
    source = api.open_model(path / "model.pt", data=data)
    loaded = api.load_data(data, source.input_shape)
    plan = api.PlanSettings("16", only=("0",), keep_slow=True)
    configuration = api.Configuration(api.CompressSettings(plan=plan, measure=False), data)
    api.compress_and_save(source, path / "model.lcnn", configuration, loaded)
    return path


# Names


def test_everything_is_public_and_says_what_it_does() -> None:
    for name in lcnn_compress.__all__:
        value = getattr(lcnn_compress, name)
        if not isinstance(value, (str, ModuleType)):
            assert inspect.getdoc(value), name
    assert {name for names in COMMANDS.values() for name in names} <= set(api.__all__)
    assert {n for n in api.__all__ if n not in lcnn_compress.__all__} == {
        "dense_rows", "describe_onnx", "find_dense", "layer_rows", "sensitivity_picture", "write_dense_form",
    }  # fmt: skip
    assert all(getattr(api, name) is getattr(lcnn_compress, name) for name in set(api.__all__) & set(lcnn_compress.__all__))
    with pytest.raises(AttributeError, match="module 'lcnn_compress' has no attribute 'nothing'"):
        lcnn_compress.nothing  # noqa: B018


def test_folders_do_not_take_the_place_of_functions_of_their_name() -> None:
    source = (
        "import lcnn_compress as lcnn\nlcnn.PlanSettings\n"
        "import lcnn_compress.benchmark.bench_settings, lcnn_compress.self_test\n"
        "from lcnn_compress.compression import settings\n"
        "print(lcnn.compress.__module__, lcnn.bench.__module__, lcnn.doctor.__name__, lcnn.runtime.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=HOME)
    assert run.stdout == "lcnn_compress.api lcnn_compress.api check lcnn_compress.runtime\n"


def test_functions_take_at_most_seven_arguments_and_say_so_and_types_are_marked() -> None:
    functions = [getattr(api, name) for name in api.__all__ if inspect.isfunction(getattr(api, name))]
    assert len(functions) > 20
    for function in functions:
        assert len(inspect.signature(function).parameters) <= 7, function
        assert len(function.__doc__ or "") > 30, function
    assert (Path(lcnn_compress.__file__).parent / "py.typed").is_file()


def test_settings_are_made_without_torch() -> None:
    names = [n for n in lcnn_compress.__all__ if n.endswith("Settings") and is_dataclass(getattr(lcnn_compress, n))]
    assert len(names) == 8
    source = f"import sys, lcnn_compress\nfor n in {names}: getattr(lcnn_compress, n)\nprint('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=HOME)
    assert run.stdout == "False\n"


# What is given stays as it was


def test_exporting_and_inspecting_leave_batch_norms_in_the_net(tmp_path: Path) -> None:
    source = api.open_model(small_net(), SHAPE)
    x = torch.randn(2, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    names, before = list(source.net.state_dict()), source.net(x)
    assert any("running_mean" in name for name in names)
    api.export_dense(source, tmp_path / "dense.onnx", [])
    assert list(source.net.state_dict()) == names
    torch.testing.assert_close(source.net(x), before, rtol=0, atol=0)
    again = api.runtime.session(tmp_path / "dense.onnx").run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(again, before.detach().numpy(), atol=1e-4)


def test_what_inspect_counts(folder: Path) -> None:
    found = api.inspect(folder / "model.pt", input_shape=SHAPE)
    # The batch norm is folded: 64 filters of 27 weights, and 10 classes of 64, each with a bias.
    assert found.facts["parameters"] == 64 * 27 + 64 + 640 + 10
    assert found.facts["macs"] == 64 * 27 * 16 * 16 + 640
    assert [row["name"] for row in found.layers] == ["0", "5"]
    of_artefact = api.inspect(folder / "model.lcnn")
    assert of_artefact.facts["macs_dense"] == found.facts["macs"]


# Data


def test_without_calibration_data_samples_of_the_training_data_calibrate(folder: Path) -> None:
    data = api.DataSettings(data=str(folder / "data.npz"), samples=5)
    loaded = api.load_data(data, SHAPE)
    with np.load(folder / "data.npz") as held:
        np.testing.assert_array_equal(torch.cat(list(loaded.calibration)).numpy(), held["x"][[0, 2, 4, 7, 9]])
    assert loaded.examples is not None
    assert len(loaded.examples) == 12
    assert loaded.origin == {"calib": None, "samples": 5, "data": data.data, "mean": None, "std": None}
    assert sum(map(len, api.load_data(api.DataSettings(data=data.data), SHAPE).calibration)) == 12  # fewer than 512


def test_a_net_of_any_size_is_compressed_at_the_size_of_the_data(folder: Path) -> None:
    config = json.loads((folder / "model.lcnn" / "config.json").read_text())
    assert config["input_shape"] == [*SHAPE]
    assert config["data"] == {"calib": str(folder / "data.npz"), "samples": 512, "data": None, "mean": [0.5], "std": [0.25]}
    (note,) = api.load(folder / "model.lcnn").report.notes
    assert note == "the net takes images of several sizes; 1,3,16,16 is that of the data, `input_shape` changes it"
    data = api.DataSettings(data=str(folder / "data.npz"))
    assert api.open_model(folder / "model.pt", (1, 3, 20, 20), data=data).input_shape == (1, 3, 20, 20)
    assert api.open_model(folder / "model.pt").input_shape == (1, 3, 224, 224)


def test_data_that_does_not_fit_the_net_is_refused() -> None:
    source = api.open_model(small_net(), SHAPE)
    with pytest.raises(DataError, match=r"the net does not take a batch of \(2, 5, 16, 16\) of the data"):
        api.compress(source, 8, data=api.TrainingData([torch.zeros(4, 5, 16, 16)]), settings=SETTINGS)


# Scores and measurements


def test_bench_measures_an_artefact_against_the_net_it_was_made_from(folder: Path, tmp_path: Path) -> None:
    quick = api.BenchSettings(iterations=2, warmup=0, per_layer=False)
    found = api.bench(folder / "model.lcnn", settings=quick)
    assert found["dense_source"].startswith("original net ")
    assert (found["lookup_source"], found["notes"]) == (str(folder / "model.lcnn"), [])
    api.export_dense(api.open_model(folder / "model.pt", SHAPE), tmp_path / "dense.onnx", [])
    given = api.bench(folder / "model.lcnn", tmp_path / "dense.onnx", quick)
    assert given["dense_source"] == str(tmp_path / "dense.onnx")
    assert given["runs"][0]["max_abs_diff"] == pytest.approx(found["runs"][0]["max_abs_diff"], rel=1e-3)


def test_there_is_no_such_suite() -> None:
    with pytest.raises(SettingsError, match="`suite` is 'other'; it must be paper"):
        api.suite("other")


# Repeating, interrupting


def test_a_configuration_is_repeated(folder: Path, tmp_path: Path) -> None:
    configuration = api.read_configuration(folder / "model.lcnn" / "config.json")
    assert configuration.plans is not None
    source = api.open_model(folder / "model.pt", configuration.input_shape)
    assert source.origin.sha256 == configuration.sha256
    loaded = api.load_data(configuration.data, source.input_shape, seed=configuration.settings.seed)
    api.compress_and_save(source, tmp_path / "again.lcnn", configuration, loaded)
    for name in ("manifest.json", "config.json", "model.safetensors"):
        assert (tmp_path / "again.lcnn" / name).read_bytes() == (folder / "model.lcnn" / name).read_bytes()


def test_an_interrupt_before_training_leaves_nothing(tmp_path: Path) -> None:
    source = api.open_model(small_net(), SHAPE)
    finetune = api.FinetuneSettings(epochs=1, batch_size=8)
    configuration = api.Configuration(api.CompressSettings(SETTINGS.plan, measure=False, finetune=finetune))

    def interrupted(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.compress_and_save(
            source, tmp_path / "new.lcnn", configuration, api.TrainingData(examples=Noise()), progress=interrupted
        )
    assert list(tmp_path.iterdir()) == []


def test_a_place_with_an_interrupted_training_is_refused(tmp_path: Path) -> None:
    checkpoint = CheckpointFolder(tmp_path / "new.lcnn")
    api.check_place(tmp_path / "new.lcnn", trains=True)
    checkpoint.folder.mkdir()
    checkpoint.plan.write_text('{"layers": []}')
    checkpoint.training.write_bytes(b"")
    with pytest.raises(SettingsError, match="holds an interrupted fine-tuning; add `resume` to continue it"):
        api.check_place(tmp_path / "new.lcnn", trains=True)
    api.check_place(tmp_path / "new.lcnn", trains=True, resume=True)
    api.check_place(tmp_path / "new.lcnn")  # without training it is not in the way


def test_8_bits_are_decided_when_an_artefact_is_made(folder: Path, tmp_path: Path) -> None:
    artefact = api.load(folder / "model.lcnn")
    with pytest.raises(SettingsError, match="is 'int8', but the artefact was made with"):
        api.export_onnx(artefact, tmp_path / "x.onnx", api.ExportSettings("int8"))

"""Artefacts: round trip, same bytes, and every kind of damage refused with a message that says which."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import small_net
from command_line import PACKAGE_PARENT, child, plain_net, same_bytes
from flattened import flattened_artefact, planes
from torch import nn

from lcnn_compress import api, runtime
from lcnn_compress.artefact.artefact import FORMAT_VERSION, load_artefact, save_artefact
from lcnn_compress.compression.settings import CompressSettings
from lcnn_compress.errors import ArtefactError, FileError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.net.layers import layers

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_linear_layer_on_planes_is_saved_and_reported(tmp_path: Path) -> None:
    artefact = flattened_artefact()
    save_artefact(artefact, tmp_path / "net.lcnn")
    assert torch.equal(load_artefact(tmp_path / "net.lcnn").net(planes()), artefact.net(planes()))
    row = next(row for row in artefact.report.layers if row.name == "fc1")
    assert (row.type, row.kernel, row.in_channels, row.input_sizes) == ("Linear", (4, 5), 8, ((4, 5),))
    assert (row.macs_stage1, row.macs_stage2) == (4 * 8 * 20, 2 * 12 * 20)


def test_a_report_names_a_file_whose_name_is_no_text(made, tmp_path):
    name = b"net_\xe4 <b>[red]\n\x1b[31m.pt".decode("utf-8", "surrogateescape")
    artefact = replace(made[0], report=replace(made[0].report, model=f"/old/{name}", notes=(f"{name}: read",)))
    save_artefact(artefact, tmp_path / "net.lcnn")
    assert load_artefact(tmp_path / "net.lcnn").report.model == f"/old/{name}"  # so that the net is found again
    page = (tmp_path / "net.lcnn" / "report.html").read_text("utf-8")
    assert r"net_\udce4 &lt;b&gt;[red]" in page


STABLE = ("manifest.json", "lcnn.json", "model.safetensors", "config.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source = api.open_model(small_net(), (1, 3, 16, 16))
    artefact = api.compress(source, 8, lookups=2, settings=CompressSettings(measure=False))
    path = tmp_path_factory.mktemp("artefact") / "small.lcnn"
    save_artefact(artefact, path)
    return artefact, path


def test_the_hash_of_the_weights_does_not_depend_on_their_memory_format():
    nets = [nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1).to(memory_format=torch.channels_last)]
    nets[1].load_state_dict(nets[0].state_dict())
    first, second = (api.open_model(net, (1, 8, 2, 2)).origin.sha256 for net in nets)
    assert first == second


@pytest.fixture
def copied(made, tmp_path):
    target = tmp_path / "copy.lcnn"
    shutil.copytree(made[1], target)
    return target


def test_round_trip_gives_the_same_outputs(made):
    artefact, path = made
    x = torch.randn(3, 3, 16, 16)
    again = load_artefact(path)
    assert torch.equal(again.net(x), artefact.net(x))
    assert again.input_shape == (1, 3, 16, 16)
    assert again.config == json.loads(json.dumps(artefact.config))
    assert {p.name for p in path.iterdir()} == {*STABLE, "report.json", "report.html"}


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.classes = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.body(x).relu()
        return {"boxes": self.boxes(x), "classes": self.classes(x)}


def test_several_outputs_stay_in_order(tmp_path):
    source = api.open_model(TwoOutputs(), (1, 3, 12, 12))
    artefact = api.compress(source, 8, lookups=2, settings=CompressSettings(measure=False))
    save_artefact(artefact, tmp_path / "two.lcnn")
    again = load_artefact(tmp_path / "two.lcnn")
    x = torch.randn(2, 3, 12, 12)
    first, second = again.net(x)
    assert (first.shape[1], second.shape[1]) == (8, 4)
    api.export_onnx(again, tmp_path / "two.onnx")
    outputs = runtime.session(tmp_path / "two.onnx").run(None, {"input": x.numpy()})
    with torch.no_grad():
        for got, want in zip(outputs, artefact.net(x), strict=True):
            np.testing.assert_allclose(got, want.numpy(), atol=2e-5)


def test_same_configuration_gives_the_same_bytes(made, tmp_path):
    artefact, path = made
    source = api.open_model(small_net(), (1, 3, 16, 16))
    from lcnn_compress.compression.plan import LayerPlan

    plans = [LayerPlan.from_json(values) for values in artefact.config["layers"]]
    again = api.compress_source(source, CompressSettings(), plans=plans)
    save_artefact(again, tmp_path / "again.lcnn")
    for name in STABLE:
        assert (tmp_path / "again.lcnn" / name).read_bytes() == (path / name).read_bytes(), name


def test_nothing_in_it_is_a_pickle(made):
    for file in made[1].iterdir():
        assert not file.read_bytes().startswith(b"\x80"), file
        assert b"data.pkl" not in file.read_bytes(), file


@pytest.mark.parametrize("name", STABLE)
def test_a_flipped_byte_is_found(copied, name):
    file = copied / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x04
    file.write_bytes(data)
    with pytest.raises(ArtefactError, match="copy"):
        load_artefact(copied)


@pytest.mark.parametrize("name", [*STABLE, "report.json"])
def test_a_missing_or_truncated_file_is_found(copied, name):
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtefactError, match=name):
        load_artefact(copied)
    (copied / name).unlink()
    with pytest.raises(ArtefactError, match=f"{name}: the file is missing"):
        load_artefact(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report["layers"][0].pop("macs"), "number 1, lacks macs"),
        (lambda report: report.update(totals=3), "'totals' of the report is 3, not an object"),
    ],
)
def test_a_damaged_report_is_found(copied, change, message):
    values = json.loads((copied / "report.json").read_text())
    change(values)
    (copied / "report.json").write_text(json.dumps(values))
    with pytest.raises(ArtefactError, match=rf"report\.json: .*{message}; .* make the artefact again"):
        load_artefact(copied)


def edited(folder: Path, name: str, change) -> None:
    """Change a JSON file of an artefact and its hash in the manifest, as somebody who means to would."""
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def first_lookup(values):
    return next(module for module in values["graph"]["modules"].values() if module["type"] == "LookupConv2d")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("graph"),
        lambda values: values.update(graph=[]),
        lambda values: values["graph"].pop("modules"),
        lambda values: values["graph"].update(modules=dict.fromkeys(values["graph"]["modules"], 3)),
        lambda values: values.pop("input_shape"),
        lambda values: values.update(input_shape=[1, "3"]),
        lambda values: first_lookup(values).update(kind="dense"),
        lambda values: first_lookup(values).update(kind=["lookup"]),
        lambda values: first_lookup(values).update(kind="fast"),
        lambda values: first_lookup(values).update(filters_per_pattern=3),
        lambda values: first_lookup(values).update(filters_per_pattern={}),
    ],
)
def test_an_edited_graph_is_refused(copied, change):
    edited(copied, "lcnn.json", change)
    with pytest.raises(ArtefactError, match=r"copy\.lcnn.*make (it|the artefact) again"):
        load_artefact(copied)


@pytest.mark.parametrize("layers", [3, [3, None], [{"name": ["x"]}], {"name": "x"}])
def test_a_configuration_of_anything_does_not_stop_a_net_from_loading(made, copied, layers):
    """Only a file of 0.1.0, whose layers do not say it themselves, is asked how many filters have a pattern."""
    edited(copied, "lcnn.json", lambda values: first_lookup(values).pop("filters_per_pattern"))
    edited(copied, "config.json", lambda values: values.update(layers=layers))
    net, x = load_artefact(copied).net, torch.randn(2, 3, 16, 16)
    assert torch.equal(net(x), made[0].net(x))
    assert {module.filters_per_pattern for module in net.modules() if isinstance(module, LookupConv2d)} == {1}


def test_the_report_says_when_it_was_made(made):
    artefact, path = made
    date = datetime.fromisoformat(artefact.report.date)
    assert date.utcoffset() == timedelta(0)
    assert date.isoformat(timespec="seconds") == artefact.report.date == json.loads((path / "report.json").read_text())["date"]
    assert load_artefact(path).report == replace(artefact.report, settings=json.loads(json.dumps(artefact.report.settings)))
    assert artefact.report.date in (path / "report.html").read_text()


def test_a_newer_version_is_refused(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["format_version"] = FORMAT_VERSION + 1
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=rf"format_version {FORMAT_VERSION + 1} is newer"):
        load_artefact(copied)


def test_no_such_directory(tmp_path):
    with pytest.raises(FileError, match=r"none\.lcnn: no such artefact"):
        load_artefact(tmp_path / "none.lcnn")


def test_an_artefact_can_be_compressed_no_further_and_says_so(made):

    found = layers(made[0].net, torch.zeros(1, 3, 16, 16))
    assert {layer.obstacle for layer in found if layer.name.startswith("conv")} == {"already a lookup convolution"}


def test_bytes_that_are_lost_or_changed_anywhere_never_give_another_net(made, copied):
    """The manifest holds hashes of all that makes the net; what else it says, and the report, may change unseen."""
    rng, x = np.random.default_rng(19), torch.randn(2, 3, 16, 16)
    wanted, refused = made[0].net(x), 0
    for number in range(150):
        file = copied / (*STABLE, "report.json")[number % 5]
        whole = file.read_bytes()
        broken = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            broken[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(broken[: int(rng.integers(len(whole)))] if number % 2 else broken)
        try:
            assert torch.equal(load_artefact(copied).net(x), wanted), (number, file.name)
            assert file.name in ("manifest.json", "report.json"), number
        except ArtefactError:
            refused += 1
        file.write_bytes(whole)
    assert refused > 100


@pytest.mark.slow
def test_a_signal_at_any_moment_leaves_a_whole_artefact_or_none(tmp_path):
    torch.save(plain_net(), tmp_path / "net.pt")
    options = ("net.pt", "--input-shape", "1,3,16,16", "--dict", "8", "--no-measure", "-q", "-o")
    begun = time.monotonic()
    child("compress", *options, "whole.lcnn", cwd=tmp_path)
    seconds = time.monotonic() - begun
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
    for number, part in enumerate(np.linspace(0.5, 1.0, 18)):
        command = [sys.executable, "-m", "lcnn_compress", "compress", *options, "net.lcnn"]
        run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            run.wait(part * seconds)
        except subprocess.TimeoutExpired:
            run.send_signal((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number % 3])
            run.wait(60)
        if (tmp_path / "net.lcnn").exists():
            same_bytes(tmp_path / "net.lcnn", tmp_path / "whole.lcnn")
            load_artefact(tmp_path / "net.lcnn")
            shutil.rmtree(tmp_path / "net.lcnn")
    child("compress", *options, "net.lcnn", cwd=tmp_path)
    same_bytes(tmp_path / "net.lcnn", tmp_path / "whole.lcnn")

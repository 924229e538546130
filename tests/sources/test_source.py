"""A dense net opened: what it was, how it is found again, and that the caller's own is left alone."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_cases import TensorExamples

from lcnn_compress import api
from lcnn_compress.compression.settings import TrainingData
from lcnn_compress.errors import DataError, ModelError, SettingsError
from lcnn_compress.operators.interface import interface_of
from lcnn_compress.sources.source import Source, dense_rows, find_dense, folded, open_source

SHAPE = (1, 3, 12, 12)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 8, 1))


def saved_artefact(folder: Path) -> Path:
    torch.save(net(), folder / "model.pt")
    settings = api.CompressSettings(plan=api.PlanSettings("6", lookups=2, only=("3",), keep_slow=True), measure=False)
    api.save(api.compress(str(folder / "model.pt"), settings=settings, input_shape=SHAPE), folder / "model.lcnn")
    return folder / "model.lcnn"


def test_equal_weights_have_one_digest_and_others_another() -> None:
    first, second = open_source(net(), SHAPE), open_source(copy.deepcopy(net()), SHAPE)
    changed = net()
    with torch.no_grad():
        changed[3].bias[0] += 1
    assert first.origin == second.origin
    assert (first.origin.kind, first.origin.spec) == ("memory", "Sequential")
    assert open_source(changed, SHAPE).origin.sha256 != first.origin.sha256


def test_other_types_are_taken_as_float32_with_a_note() -> None:
    half = net().half()
    source = open_source(half, SHAPE)
    assert source.notes == ("the net holds float16; it is taken as float32",)
    assert source.net(torch.zeros(SHAPE)).dtype == torch.float32
    assert half[0].weight.dtype == torch.float16  # the caller's own


def test_layers_are_listed_once_and_folding_is_done_on_a_copy() -> None:
    source = open_source(net(), SHAPE)
    assert source.captured is source.captured
    assert [layer.name for layer in source.captured.layers] == ["0", "3"]
    before = [node.name for node in source.net.graph.nodes]
    assert len(folded(source.net).graph.nodes) == len(before) - 1
    assert [node.name for node in source.net.graph.nodes] == before


def test_rows_of_a_dense_net_by_hand() -> None:
    first, last = dense_rows(open_source(net(), SHAPE).net, SHAPE)
    assert (first["macs"], last["macs"]) == (3 * 24 * 9 * 100, 24 * 8 * 100)
    assert (last["in_channels"], last["out_channels"], last["kernel"]) == (24, 8, [1, 1])


def test_the_net_of_an_artefact_is_found_until_it_changes(tmp_path: Path) -> None:
    path = saved_artefact(tmp_path)
    artefact = api.load(path)
    found = find_dense(artefact, path)
    assert isinstance(found, Source)
    assert found.origin.sha256 == artefact.config["model"]["sha256"]
    changed = net()
    with torch.no_grad():
        changed[0].weight.zero_()
    torch.save(changed, tmp_path / "model.pt")
    assert str(find_dense(artefact, path)).endswith("model.pt: has changed since it was compressed")
    (tmp_path / "model.pt").unlink()
    assert "no such file" in str(find_dense(artefact, path))


def test_a_net_of_unknown_shape_asks_for_it() -> None:
    with pytest.raises(SettingsError, match="`input_shape`"):
        open_source(nn.Sequential(nn.ReLU()))


class Batchwise(nn.Module):
    """Computes the images of a batch one after the other, so that a capture fixes how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x[i : i + 1]).mean((2, 3)) for i in range(x.shape[0])])


def test_a_net_of_one_image_is_scored_image_by_image_and_not_calibrated_in_batches() -> None:
    source = api.open_model(Batchwise(), (1, 3, 8, 8))
    assert source.input_shape == (1, 3, 8, 8)
    assert source.notes[0].startswith("files of this net have fixed sizes: batch (1)")
    x = torch.rand(5, 3, 8, 8)
    best = source.net(x[:1]).argmax(1)
    labels = torch.cat([source.net(image[None]).argmax(1) for image in x])
    assert api.evaluate(source.net, TensorExamples(x, labels)).value == 100.0
    assert len(best) == 1
    with pytest.raises(DataError, match="axis 0 has size 2, and the net takes 1 only; compress it without data"):
        api.compress(source, 2, data=TrainingData(calibration=[x]))


def test_programs_in_memory_are_taken_and_modules_of_programs_are_not() -> None:
    program = torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), (torch.zeros(2, 3, 8, 8),))
    source = api.open_model(program)
    assert source.input_shape == (1, 3, 8, 8)
    assert interface_of(source.net).open_axes == (0,)
    with pytest.raises(ModelError, match="module of an exported program"):
        api.open_model(program.module(), (1, 3, 8, 8))


@pytest.mark.parametrize(
    ("kind", "spec"), [("factory", "evil:make"), ("factory", "lcnn_compress.zoo:torch.os.abort"), ("state_dict", "weights.pt")]
)
def test_an_artefact_runs_no_code_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, spec: str) -> None:
    """A factory, or the factory of a state_dict, is code that whoever sent the artefact may have put beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('mark', 'w')\n\ndef make():\n    raise SystemExit\n")
    (tmp_path / "weights.pt").write_bytes(b"")
    artefact = api.compress(nn.Sequential(nn.Conv2d(3, 8, 3)), 2, input_shape=(1, 3, 8, 8))
    arch = "evil:make" if kind == "state_dict" else None
    model = {"kind": kind, "arch": arch, "sha256": hashlib.sha256(b"").hexdigest()}
    artefact = replace(artefact, config=artefact.config | {"model": model}, report=replace(artefact.report, model=spec))
    found = find_dense(artefact, tmp_path / "net.lcnn")
    assert "only `trust_pickle` runs" in str(found)
    assert not (tmp_path / "mark").exists()


def test_what_an_artefact_cannot_keep_is_refused_when_the_model_is_opened() -> None:
    class Rotating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("turn", torch.ones(1, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x) * self.turn).real.float()

    with pytest.raises(ModelError, match=r"Rotating: an artefact would not keep the net: torch\.complex128"):
        open_source(Rotating(), (1, 3, 8, 8))


def test_a_net_that_could_be_written_but_not_read_is_refused_when_it_is_opened() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.conv(x)
            return y, torch.nonzero(y)  # as many rows as there are values that are not 0

    with pytest.raises(ModelError, match=r"Places: an artefact would not keep the net: the net does not run on an input of"):
        open_source(Places(), (1, 3, 8, 8))

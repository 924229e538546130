"""The weights of a net are found in what common trainers save, or the message names what there is to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import ARCH, same, small_net
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lcnn_compress.errors import ModelError
from lcnn_compress.sources.load_model import load_model
from lcnn_compress.sources.model import LoadedModel

Weights = dict[str, Tensor]
RAW: Weights = dict(small_net().state_dict())
OTHER: Weights = {name: value + 1 for name, value in RAW.items()}
ADAM = torch.optim.Adam(small_net().parameters())


def behind(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def loaded(held: object, folder: Path, arch: str | None = ARCH) -> LoadedModel:
    torch.save(held, folder / "c.pt")
    return load_model(str(folder / "c.pt"), arch=arch)


def holds(found: LoadedModel, weights: Weights) -> bool:
    assert isinstance(found.model, nn.Module)
    state = found.model.state_dict()
    return all(torch.equal(state[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("held", "place"),
    [
        (RAW, None),
        ({"net": RAW, "acc": 90.0, "epoch": 1}, "net"),
        ({"weights": RAW, "best": [0.5] * 3, "config": {"lr": {"base": 0.1}}}, "weights"),
        ({"model": {"model": RAW}}, "model.model"),
        ({"state": {"net": behind("module.", RAW)}}, "state.net"),
        ({"generator": RAW, "discriminator": {"fc.weight": torch.zeros(1, 8)}}, "generator"),
        ({"model": RAW, "optimizer": ADAM.state_dict(), "scaler": {"scale": torch.ones(())}}, "model"),
        ({"state_dict": behind("model.", RAW), "optimizer_states": [ADAM.state_dict()], 3: "x"}, "state_dict"),
        ([{"step": 1}, RAW], "1"),
        ({**RAW, "epoch": 3, "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}, None),
        (AveragedModel(small_net()).state_dict(), None),
        ({"swa": AveragedModel(nn.DataParallel(small_net())).state_dict()}, "swa"),
        (behind("module._orig_mod.", RAW), None),
        ({name.replace(".", "._orig_mod."): value for name, value in RAW.items()}, None),  # parts of it were compiled
        (behind("net._fsdp_wrapped_module.", RAW), None),
        ({name.partition(".")[0]: behind("", {}) for name in RAW} | {"a": RAW}, "a"),
        ({"0": {"weight": RAW["0.weight"], "bias": RAW["0.bias"]}} | {k: v for k, v in RAW.items() if k[0] != "0"}, "0"),
        ({"model": small_net(), "epoch": 1}, "model"),  # the weights of a whole net, for a factory of it
        ({"model": RAW, "ema": RAW}, "model"),  # the same, so that nothing is to choose
        ({"model": RAW, "ema": {**RAW}}, "model"),
    ],
)
def test_weights_that_can_only_be_meant_are_found(held: object, place: str | None, tmp_path: Path) -> None:
    found = loaded(held, tmp_path)
    assert holds(found, RAW)
    assert found.notes == ((f"c.pt: the net is under {place!r} of a checkpoint",) if place else ())


@pytest.mark.parametrize(
    ("held", "names", "taken"),
    [
        ({"params_ema": OTHER, "params": RAW}, ("params_ema", "params"), "params_ema"),
        ({"params": RAW, "params_ema": OTHER}, ("params", "params_ema"), "params_ema"),
        ({"model": RAW, "ema": {"module": OTHER, "updates": 3}}, ("model", "ema.module"), "ema.module"),
        ({"state_dict": RAW, "state_dict_ema": OTHER}, ("state_dict", "state_dict_ema"), "state_dict_ema"),
        ({"g": RAW, "g_ema": OTHER, "d": {"w": torch.zeros(1)}}, ("g", "g_ema"), "g_ema"),
        ({"model": RAW, "modelEMA": OTHER}, ("model", "modelEMA"), "modelEMA"),
        ({"net": RAW, "end": {**behind("module.", OTHER), "n_averaged": torch.ones(())}}, ("net", "end.module"), "end.module"),
        ({**behind("model.", RAW), **behind("model_ema.module.", OTHER)}, ("model", "model_ema.module"), "model_ema.module"),
        ({**RAW, **behind("ema.", OTHER)}, ("", "ema"), "ema"),
        ({"model": RAW, "last": {**RAW}, "swa_model": OTHER}, ("model", "last", "swa_model"), "swa_model"),
    ],
)  # fmt: skip
def test_the_averaged_of_several_sets_is_taken_and_all_are_named(
    held: object, names: tuple[str, ...], taken: str, tmp_path: Path
) -> None:
    found = loaded(held, tmp_path)
    assert holds(found, OTHER)
    assert (
        f"c.pt: holds {len(names)} sets of weights that fit: {', '.join(map(repr, names))}; {taken!r} is taken, the averaged "
        "one; to take another, write it to a file of its own with torch.save"
    ) in found.notes


@pytest.mark.parametrize(
    ("held", "names"),
    [
        ({"best": OTHER, "last": RAW}, "2 sets of weights that fit {}: 'best', 'last'"),
        ({"schema": OTHER, "last": RAW}, "2 sets of weights that fit {}: 'schema', 'last'"),
        ({"ema_0.9": OTHER, "ema_0.99": RAW}, "2 sets of weights that fit {}: 'ema_0.9', 'ema_0.99'"),
        ({**behind("student.", RAW), **behind("teacher.", OTHER)}, "2 sets of weights that fit {}: 'student', 'teacher'"),
        (
            {"state_dict": {**behind("module.encoder_q.", RAW), **behind("module.encoder_k.", OTHER)}},
            "2 sets of weights that fit {}: 'state_dict.module.encoder_q', 'state_dict.module.encoder_k'",
        ),
    ],
)
def test_sets_that_cannot_be_told_apart_are_named(held: object, names: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        loaded(held, tmp_path)
    wanted = f"c.pt: holds {names.format(f'`arch` {ARCH}')}; write the one you mean to a file of its own with torch.save"
    assert str(caught.value).endswith(wanted)


def test_only_sets_that_fit_count(tmp_path: Path) -> None:
    wider = {**OTHER, "0.weight": torch.zeros(5, 3, 3, 3)}
    found = loaded({"model": RAW, "ema": wider}, tmp_path)
    assert holds(found, RAW)
    with pytest.raises(
        ModelError, match=r"does not fit `arch` .*1 different: 0\.weight torch\.float32 \(5, 3, 3, 3\) in the file"
    ):
        loaded({"ema": wider, "optimizer": ADAM.state_dict()}, tmp_path)


def test_averaged_weights_without_the_statistics_are_mentioned(tmp_path: Path) -> None:
    shadow = {name: value for name, value in OTHER.items() if "running" not in name and "num" not in name}
    found = loaded({"model": RAW, "ema": {"decay": 0.9, "shadow": shadow}}, tmp_path)
    assert holds(found, RAW)
    assert found.notes[1] == (
        "c.pt: 6 of the 9 tensors of the net lie, averaged, under 'ema.shadow'; without the others they are not used"
    )


def test_what_lies_beside_the_weights_of_the_net_is_noted(tmp_path: Path) -> None:
    loss = {"loss.weight": torch.ones(8), "metric.\x1b[31m": torch.zeros(1)}
    found = loaded({"state_dict": {**behind("model.", RAW), **loss}}, tmp_path)
    assert holds(found, RAW)
    assert found.notes[1] == (
        "c.pt: beside the weights of the net lie others, which are left out: state_dict.loss.weight, "
        r"'state_dict.metric.\x1b[31m'"
    )


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_is_left_over_among_the_weights_is_refused(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"does not fit .*\(1 unexpected: head\.weight\); name the factory of the saved net"):
        loaded(behind(prefix, {**RAW, "head.weight": torch.zeros(1)}), tmp_path)


def test_a_checkpoint_without_a_name_of_the_net_is_compared_with_its_largest_dict(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\(8 missing: 0\.weight, 0\.bias, 1\.weight and 5 more; 2 unexpected: x\.y, x\.z\)"):
        loaded({"stats": {"mean": torch.zeros(1)}, "model": behind("x.", {"y": RAW["0.bias"], "z": RAW["0.bias"]})}, tmp_path)


def test_a_factory_without_weights_has_nothing_to_fill(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\nmake = nn.ReLU\n")
    with pytest.raises(ModelError, match=r"does not fit `arch` .*9 unexpected: 0\.weight"):
        loaded(RAW, tmp_path, f"{tmp_path}/net.py:make")


def net_of(weights: Weights) -> nn.Module:
    net = small_net()
    net.load_state_dict(weights)
    return net


@pytest.mark.parametrize("ema", [net_of(OTHER), OTHER, {"module": net_of(OTHER)}, AveragedModel(net_of(OTHER))])
def test_the_better_of_whole_nets_is_taken(ema: Any, tmp_path: Path) -> None:
    found = loaded({"model": small_net(), "ema": ema, "criterion": nn.CrossEntropyLoss()}, tmp_path, None)
    assert (found.kind, holds(found, OTHER)) == ("module", True)
    assert any("'model', 'ema" in note and "is taken, the averaged one" in note for note in found.notes)


def test_whole_nets_that_cannot_be_told_apart_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"c\.pt: holds several nets: 'G', 'D'; write the one you mean to a file of its own"):
        loaded({"G": small_net(), "D": nn.Linear(2, 3)}, tmp_path, None)
    with pytest.raises(
        ModelError, match=r"holds 2 sets of weights that fit the net under 'a': 'a', 'b'; write the one you mean"
    ):
        loaded({"a": small_net(), "b": net_of(OTHER)}, tmp_path, None)


def test_a_loss_is_not_the_net(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a state_dict of 9 tensors, under 'state_dict', not a net; add `arch`"):
        loaded({"state_dict": RAW, "criterion": nn.CrossEntropyLoss()}, tmp_path, None)
    assert type(loaded({"net": nn.ReLU()}, tmp_path, None).model) is nn.ReLU


def test_an_averaged_net_is_the_net_inside(tmp_path: Path) -> None:
    found = loaded(AveragedModel(small_net()), tmp_path, None)
    assert isinstance(found.model, nn.Sequential)
    assert same(found.model, small_net())


def test_deep_and_circular_checkpoints_are_refused_by_what_they_are(tmp_path: Path) -> None:
    circle: dict[str, object] = {}
    circle["again"] = circle
    with pytest.raises(ModelError, match=r"c\.pt: holds a dict of 'again', but no net and no state_dict"):
        loaded(circle, tmp_path)
    deep: object = RAW
    for _ in range(60):
        deep = {"inner": deep}
    with pytest.raises(ModelError, match=r"c\.pt: is nested more than 50 deep, as no checkpoint is; save the state_dict"):
        loaded(deep, tmp_path)

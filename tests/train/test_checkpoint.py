"""Checkpoints: files that cannot be used, those of the first release, and signals that wait for the end of a step."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_cases import (
    CLASSES,
    TARGETS,
    assert_same,
    dense_net,
    examples,
    handling,
    lookup_net,
    lookups,
    recipe,
    uninterrupted,
)

from lcnn_compress.errors import ArtefactError, FileError, SettingsError
from lcnn_compress.train.checkpoint import (
    CHECKPOINT_MAGIC,
    CheckpointFile,
    deferred_interrupts,
    read_checkpoint,
    write_checkpoint,
)
from lcnn_compress.train.loop import Goal, Training, finetune
from lcnn_compress.train.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def saved_checkpoint(path: Path) -> bytes:
    finetune(lookup_net(), dense_net(), examples(), recipe(epochs=1), goal=Goal(TARGETS), checkpoint=CheckpointFile(path))
    return path.read_bytes()


def resume(path: Path | None, *, chosen: Recipe | None = None, n: int = 40, targets: dict[str, int] = TARGETS) -> None:
    finetune(
        lookup_net(), dense_net(), examples(n=n), chosen or recipe(epochs=1), goal=Goal(targets),
        checkpoint=CheckpointFile(path, resume=True),
    )  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    state: dict[str, Any] = {"step": 3, "net": {"weight": torch.arange(3.0)}, "losses": [0.5], "none": None}
    write_checkpoint(path, state)
    found = read_checkpoint(path)
    assert torch.equal(found["net"].pop("weight"), state["net"].pop("weight"))
    assert found == state
    CheckpointFile().write(state)  # keeps nothing
    assert [p.name for p in tmp_path.iterdir()] == ["training.ckpt"]
    with pytest.raises(FileError, match=r"absent.* cannot be written"):
        CheckpointFile(tmp_path / "absent" / "training.ckpt").write(state)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent.ckpt: no checkpoint to resume"):
        resume(tmp_path / "absent.ckpt")
    with pytest.raises(SettingsError, match="resume needs a checkpoint file"):
        resume(None)


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    content = saved_checkpoint(path)
    resume(path)
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    for damaged in (b"", b"not a checkpoint", content[:20], content[:-1], flipped):
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=rf"training.ckpt: not a checkpoint .* damaged \({len(damaged)} bytes\)"):
            resume(path)


@pytest.mark.parametrize("part", ["optimiser", "supports", "starts", "rng"])
def test_checkpoint_without_a_part(tmp_path: Path, part: str) -> None:
    path = tmp_path / "training.ckpt"
    saved_checkpoint(path)
    state = read_checkpoint(path)
    training = Training(lookup_net(), recipe(epochs=1), 40, teacher=dense_net(), nonzeros=TARGETS)
    del state[part]
    with pytest.raises(ArtefactError, match=rf"training.ckpt: incomplete checkpoint \('{part}'\)"):
        training.load(state, path)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("step", [True, -1, 10**6, 1.0, float("nan"), "3", None]), ("loss_sum", [True, float("nan"), "3", None]),
        ("losses", [3, [True], [float("inf")], ["a"]]), ("stopped", [1, None, "no"]),
        ("averages", [3, {}, {"0.bias": torch.zeros(1)}, {"other": torch.zeros(3)}]), ("rng", [3, torch.zeros(3)]),
    ],
)  # fmt: skip
def test_a_checkpoint_of_anything_is_refused(tmp_path: Path, part: str, wrong: list[object]) -> None:
    path = tmp_path / "training.ckpt"
    chosen = recipe(epochs=1, average=0.5)
    goal = Goal(TARGETS)
    finetune(lookup_net(), dense_net(), examples(), chosen, goal=goal, checkpoint=CheckpointFile(path))
    state = read_checkpoint(path)
    for value in wrong:
        training = Training(lookup_net(), chosen, 40, teacher=dense_net(), nonzeros=TARGETS)
        with pytest.raises(ArtefactError, match=r"training.ckpt: incomplete checkpoint \("):
            training.load({**state, part: value}, path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"PK\x03\x04" + bytes(60), pickle.dumps([print]), pickle.dumps(3)])
def test_a_checkpoint_of_other_bytes_with_the_right_hash_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "training.ckpt"
    path.write_bytes(CHECKPOINT_MAGIC + hashlib.sha256(content).digest() + content)
    with pytest.raises(ArtefactError, match=r"training.ckpt: incomplete checkpoint \("):
        resume(path)


def test_checkpoint_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    saved_checkpoint(path)
    with pytest.raises(ArtefactError, match=r"other settings: lr is 0.001 there and 0.1 here; use the same"):
        resume(path, chosen=recipe(epochs=1, lr=0.1))
    with pytest.raises(ArtefactError, match=r"other settings: task is None there and 'targets' here"):
        resume(path, chosen=recipe(epochs=1, task="targets"))
    with pytest.raises(ArtefactError, match="other net and data: number of examples is 40 there and 41 here"):
        resume(path, n=41)
    with pytest.raises(
        ArtefactError, match=r"non-zeros at the end is \{'0': 30, '3': 50\} there and \{'0': 31, '3': 50\} here"
    ):
        resume(path, targets={"0": 31, "3": 50})
    teacher = dense_net()
    with torch.no_grad():
        teacher[7].bias += 1
    again, goal = CheckpointFile(path, resume=True), Goal(TARGETS)
    with pytest.raises(ArtefactError, match=r"weights of the dense net is '[0-9a-f]{12}' there"):
        finetune(lookup_net(), teacher, examples(), recipe(epochs=1), goal=goal, checkpoint=again)
    net = lookup_net()
    net[7] = nn.Linear(32, CLASSES, bias=False)
    with pytest.raises(ArtefactError, match=r"layer shapes is '[0-9a-f]{12}' there"):
        finetune(net, dense_net(), examples(), recipe(epochs=1), goal=goal, checkpoint=again)


@pytest.mark.parametrize("sparsity", ["gradual", "threshold"])
def test_a_training_that_the_first_release_left_off_is_continued(sparsity: str) -> None:
    """The files were written by 0.1.0 after 7 of 15 steps."""
    chosen = recipe(sparsity=sparsity, threshold_c=0.2, average=0.9)
    whole, report = uninterrupted(chosen)
    net, data = lookup_net(), examples()
    state = read_checkpoint(Path(__file__).parent / f"{sparsity}_of_0.1.0.ckpt")
    assert state["step"] == 7
    training = Training(net, chosen, len(data), teacher=dense_net(), nonzeros=TARGETS)
    training.load(state, Path("of_0.1.0.ckpt"))
    assert (training.step, len(training.losses)) == (7, 1)
    # Seven steps of another machine may round otherwise than those of this one.
    assert training.losses == pytest.approx(report.losses[:1], rel=1e-4)
    net.train()
    while not training.ended:
        training.take(*data.batch(training.order()[training.step % training.steps_per_epoch]))
    training.finish()
    assert training.losses == pytest.approx(report.losses, rel=0.02)
    assert training.lookups.nonzeros() == pytest.approx(report.nonzeros, rel=0.02)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=0.05, atol=0.02)


def test_a_first_interrupt_waits_and_a_second_one_does_not() -> None:
    with handling(signal.SIGINT, signal.default_int_handler):
        with deferred_interrupts() as interrupted:
            assert not interrupted()
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupted()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_ignored_stays_ignored() -> None:
    """A shell starts jobs in the background so: ctrl-C in their terminal is meant for another program."""
    with handling(signal.SIGINT, signal.SIG_IGN), deferred_interrupts() as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupted()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("sigint", [signal.SIG_IGN, signal.default_int_handler])
def test_a_request_to_stop_waits_where_it_is_an_interrupt(sigint: Any) -> None:
    seen: list[int] = []
    with handling(signal.SIGINT, sigint):
        with handling(signal.SIGTERM, signal.default_int_handler):
            with deferred_interrupts() as interrupted:
                os.kill(os.getpid(), signal.SIGTERM)
                assert interrupted()
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        with handling(signal.SIGTERM, lambda number, _: seen.append(number)), deferred_interrupts() as interrupted:
            os.kill(os.getpid(), signal.SIGTERM)  # whoever handles it otherwise goes on doing so
            assert not interrupted()
    assert seen == [signal.SIGTERM]


def test_other_threads_leave_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with deferred_interrupts() as interrupted:
            seen.append((interrupted(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_a_training_in_the_background_is_not_interrupted() -> None:
    chosen = recipe(epochs=1)
    expected, _ = uninterrupted(chosen)
    net, data = lookup_net(), examples()
    data.at_call = lambda _: os.kill(os.getpid(), signal.SIGINT)
    with handling(signal.SIGINT, signal.SIG_IGN):
        finetune(net, dense_net(), data, chosen, goal=Goal(TARGETS))
    assert data.calls == 5
    assert_same(net, expected)
    assert lookups(net).keys() == TARGETS.keys()

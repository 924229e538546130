"""finetune: resuming bit for bit, pruning rules of both kinds, losses worked out by hand, checkpoints that cannot be used."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lcnn_compress.errors import ArtefactError, DataError, ModelError, SettingsError
from lcnn_compress.forms.lookup import LookupConv2d
from lcnn_compress.forms.pattern import largest
from lcnn_compress.geometry import ConvGeometry
from lcnn_compress.train.checkpoint import read_checkpoint
from lcnn_compress.train.loop import FinetuneReport, _Run, finetune
from lcnn_compress.train.losses import Features, loss_of
from lcnn_compress.train.recipe import FinetuneSettings, devices

CLASSES = 3
BOTH = pytest.mark.parametrize("sparsity", ["gradual", "threshold"])


pytestmark = pytest.mark.usefixtures("one_thread")


class TensorExamples:
    """Examples in memory; ``at_call`` is called with the number of each batch before it is handed out."""

    def __init__(self, x: Tensor, y: Tensor | None) -> None:
        self.x, self.y = x, y
        self.calls = 0
        self.at_call: Callable[[int], None] = lambda _: None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        self.calls += 1
        x = self.x[indices] + 0.01 * torch.randn(1)  # augmentation takes from the global random state
        self.at_call(self.calls)
        return x, None if self.y is None else self.y[indices]


def dense_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * 4, CLASSES),
    ).eval()  # fmt: skip


def lookup_net() -> nn.Sequential:
    """The dense net's shape with random factors, the first layer full and the second with 1 of 5 entries already gone."""
    net = copy.deepcopy(dense_net())
    torch.manual_seed(1)
    net[0] = LookupConv2d(
        torch.randn(2, 2), torch.randn(6, 2, 3, 3) / 4, torch.zeros(6), ConvGeometry((3, 3), padding=(1, 1, 1, 1))
    )
    kernel = torch.randn(8, 5, 3, 3) / 6
    kernel[:, 4] = 0
    net[3] = LookupConv2d(torch.randn(5, 6), kernel, torch.zeros(8), ConvGeometry((3, 3), (2, 2)))
    return net


TARGETS = {"0": 30, "3": 50}  # of 108 and 288


def examples(*, n: int = 40, kind: str = "classes") -> TensorExamples:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 2, 6, 6, generator=generator)
    y = {"classes": torch.arange(n) % CLASSES, "targets": torch.randn(n, CLASSES, generator=generator), "none": None}[kind]
    return TensorExamples(x, y)


def settings(**changes: object) -> FinetuneSettings:
    return replace(FinetuneSettings(epochs=3, batch_size=8), **changes)  # type: ignore[arg-type]


def lookups(net: nn.Sequential) -> dict[str, LookupConv2d]:
    return {name: m for name, m in net.named_modules() if isinstance(m, LookupConv2d)}


def assert_same(a: nn.Sequential, b: nn.Sequential) -> None:
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name
    for name, lookup in lookups(a).items():
        assert torch.equal(lookup.support, lookups(b)[name].support)


def uninterrupted(chosen: FinetuneSettings) -> tuple[nn.Sequential, FinetuneReport]:
    net = lookup_net()
    return net, finetune(net, dense_net(), examples(), chosen, targets=TARGETS)


@BOTH
@pytest.mark.parametrize("way", ["callback", "signal"])
@pytest.mark.parametrize(
    "extras",
    [{}, {"average": 0.9, "feature_weight": 0.3, "accumulate": 2, "precision": "bfloat16"}],
    ids=["plain", "extras"],
)  # fmt: skip
def test_interrupted_and_resumed_equals_uninterrupted(
    sparsity: str, way: str, extras: dict[str, object], tmp_path: Path
) -> None:
    chosen = settings(sparsity=sparsity, threshold_c=0.2, **extras)
    expected, report = uninterrupted(chosen)
    path = tmp_path / "training.ckpt"
    for attempt, stop_at in enumerate((7, 2)):  # in the second epoch, and two steps later
        data = examples()

        def interrupt(number: int, stop_at: int = stop_at) -> None:
            if number == stop_at and way == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            elif number == stop_at:
                raise KeyboardInterrupt

        data.at_call = interrupt
        with pytest.raises(KeyboardInterrupt):
            finetune(lookup_net(), dense_net(), data, chosen, targets=TARGETS, checkpoint=path, resume=attempt > 0)
        assert data.calls == stop_at
    net, data = lookup_net(), examples()
    resumed = finetune(net, dense_net(), data, chosen, targets=TARGETS, checkpoint=path, resume=True)
    # A signal lets its step finish, an exception from a callback comes before it: 9 or 7 steps were done of 15.
    assert data.calls == 15 - {"signal": 9, "callback": 7}[way]
    assert resumed == report
    assert_same(net, expected)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    net, data = lookup_net(), examples()
    report = finetune(net, dense_net(), data, settings(), targets=TARGETS, checkpoint=path)
    assert (report.steps, data.calls, len(report.losses)) == (15, 15, 3)
    again, data = lookup_net(), examples()
    assert finetune(again, dense_net(), data, settings(), targets=TARGETS, checkpoint=path, resume=True) == report
    assert data.calls == 0
    assert_same(again, net)


def test_seed_changes_the_result_and_the_callers_random_state_does_not() -> None:
    expected, _ = uninterrupted(settings())
    torch.manual_seed(99)
    before = torch.get_rng_state()
    same, other = lookup_net(), lookup_net()
    torch.set_rng_state(before)
    finetune(same, dense_net(), examples(), settings(), targets=TARGETS)
    finetune(other, dense_net(), examples(), settings(seed=1), targets=TARGETS)
    assert_same(same, expected)
    assert not torch.equal(other[7].weight, expected[7].weight)


@BOTH
def test_masks_only_shrink_and_dead_entries_stay_dead(sparsity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = lookup_net()
    start = {name: lookup.support.clone() for name, lookup in lookups(net).items()}
    history: list[dict[str, Tensor]] = [start]
    runs: list[_Run] = []
    prune = _Run._prune

    def watched(run: _Run) -> None:
        prune(run)
        history.append({name: lookup.support.clone() for name, lookup in run.lookups.items()})
        runs.append(run)

    monkeypatch.setattr(_Run, "_prune", watched)
    chosen = settings(sparsity=sparsity, threshold_c=0.2, epochs=8)
    report = finetune(net, dense_net(), examples(), chosen, targets=TARGETS)
    for earlier, later in pairwise(history):
        for name, support in later.items():
            assert not (support & ~earlier[name]).any()
    for name, lookup in lookups(net).items():
        dead = ~lookup.support
        assert dead.any()
        memory = runs[-1].optimiser.state[lookup.sparse_kernel]
        for tensor in (lookup.sparse_kernel, memory["exp_avg"], memory["exp_avg_sq"]):
            assert torch.count_nonzero(tensor[dead]) == 0
            assert torch.count_nonzero(tensor[~dead]) > 0
        assert report.nonzeros[name] == int(lookup.support.sum()) < int(start[name].sum())


def test_gradual_follows_the_cubic_schedule_and_ends_at_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    prune = _Run._prune

    def watched(run: _Run) -> None:
        prune(run)
        counts.append(run.lookups["3"].n_nonzeros)

    monkeypatch.setattr(_Run, "_prune", watched)
    _, report = uninterrupted(settings(epochs=8))
    assert report.nonzeros == TARGETS
    # 40 steps, pruned at 8, 16 and from 20 on: 50 + (288 - 50) * (1 - 8/20)^3 = 101.4, then * (1 - 16/20)^3 = 51.9
    assert counts[:7] == [288] * 7
    assert counts[7:15] == [101] * 8
    assert counts[15:19] == [52] * 4
    assert counts[19:] == [50] * 21


def test_pruning_keeps_the_largest_and_the_first_of_equal_ones() -> None:
    scores = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert largest(scores, 2).tolist() == [[False, True], [True, False]]
    net = lookup_net()
    lookup = lookups(net)["0"]
    lookup.normalise_()
    magnitude = lookup.sparse_kernel.detach().abs().flatten()
    # With a learning rate this small nothing moves: the 30 largest of the start remain.
    finetune(net, dense_net(), examples(), settings(lr=1e-12, epochs=1), targets=TARGETS)
    assert set(lookup.support.flatten().nonzero()[:, 0].tolist()) == set(magnitude.topk(30).indices.tolist())


def test_a_target_revives_nothing() -> None:
    net = lookup_net()
    report = finetune(net, dense_net(), examples(), settings(), targets={"0": 92, "3": 306})
    assert report.nonzeros == {"0": 92, "3": 288}  # 306 is more than were alive


def test_layers_without_target_keep_their_number() -> None:
    net = lookup_net()
    assert finetune(net, dense_net(), examples(), settings()).nonzeros == {"0": 108, "3": 288}


def test_threshold_kills_what_the_rule_says() -> None:
    net = lookup_net()
    reference = copy.deepcopy(net)
    chosen = settings(sparsity="threshold", threshold_c=0.5, l1=0.0, lr=1e-12, epochs=1)
    report = finetune(net, dense_net(), examples(), chosen)
    for name, lookup in lookups(reference).items():
        lookup.normalise_()
        values = lookup.sparse_kernel.detach()[lookup.support]
        epsilon = 0.5 * (values - values.mean()).square().mean().sqrt()
        alive = lookup.sparse_kernel.abs() > epsilon
        assert 0 < int(alive.sum()) < len(values)
        assert torch.equal(lookups(net)[name].support, alive)
        assert report.nonzeros[name] == int(alive.sum())


def test_penalty_reaches_live_entries_only() -> None:
    net = lookup_net()
    run = _Run(net, dense_net(), examples(), settings(sparsity="threshold", threshold_c=0.5, l1=0.2), {})
    for lookup in lookups(net).values():
        lookup.sparse_kernel.grad = torch.zeros_like(lookup.sparse_kernel)
    run._add_l1()
    for name, lookup in lookups(net).items():
        expected = 0.2 * run.epsilons[name] * torch.where(lookup.support, lookup.sparse_kernel.sign(), 0)
        assert 0 < int(lookup.support.sum()) < lookup.support.numel()
        assert torch.equal(lookup.sparse_kernel.grad, expected.detach())
    with_penalty, without = (
        finetune(lookup_net(), dense_net(), examples(), settings(sparsity="threshold", threshold_c=0.1, l1=l1, epochs=10))
        for l1 in (1.0, 0.0)
    )
    assert sum(with_penalty.nonzeros.values()) < sum(without.nonzeros.values())


def test_dictionary_rows_stay_unit_vectors() -> None:
    net, _ = uninterrupted(settings())
    for lookup in lookups(net).values():
        length = lookup.dictionary.detach().norm(dim=1)
        # Division by a float32 norm of up to 6 terms is off by a few eps.
        torch.testing.assert_close(length, torch.ones_like(length), rtol=0, atol=1e-6)


def test_distillation_without_labels_approaches_the_teacher() -> None:
    net, teacher, data = lookup_net(), dense_net(), examples(kind="none")
    teacher_before = copy.deepcopy(teacher.state_dict())

    def distance() -> float:
        with torch.no_grad():
            return float(functional.mse_loss(net.eval()(data.x), teacher(data.x)))

    before = distance()
    report = finetune(net, teacher, data, settings(epochs=10, lr=1e-2))
    assert distance() < 0.5 * before
    assert report.losses[-1] < report.losses[0]
    assert not net.training
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, teacher_before[name])


@pytest.mark.parametrize("kind", ["classes", "targets"])
@pytest.mark.parametrize("distill", [True, False])
def test_training_lowers_the_loss_of_labelled_data(kind: str, distill: bool) -> None:
    report = finetune(lookup_net(), dense_net(), examples(kind=kind), settings(epochs=10, lr=1e-2, distill=distill))
    assert report.losses[-1] < report.losses[0]


def test_the_result_is_the_moving_average() -> None:
    chosen = settings(average=0.8, epochs=1)
    net = lookup_net()
    run = _Run(net, dense_net(), examples(), chosen, {})
    net.train()
    expected = net[7].weight.detach().clone()
    for step in range(1, 9):
        x, y = examples().batch(torch.arange(8))
        run._step(x, y)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net[7].weight.detach()
    run.finish()
    torch.testing.assert_close(net[7].weight.detach(), expected)
    assert not net[1].num_batches_tracked.is_floating_point()
    for lookup in lookups(net).values():
        assert torch.count_nonzero(lookup.sparse_kernel.detach()[~lookup.support]) == 0
        torch.testing.assert_close(lookup.dictionary.detach().norm(dim=1), torch.ones(len(lookup.dictionary)))


def test_a_batch_in_parts_gives_the_same_gradient() -> None:
    gradients = []
    for parts in (1, 3):
        net = nn.Sequential(*(m for m in lookup_net() if not isinstance(m, (nn.BatchNorm2d, nn.Dropout))))
        teacher = nn.Sequential(*(m for m in dense_net() if not isinstance(m, (nn.BatchNorm2d, nn.Dropout))))
        chosen = settings(accumulate=parts, feature_weight=0.0)
        run = _Run(net, teacher, examples(), chosen, {})
        x, y = examples().x[:8], torch.arange(8) % CLASSES  # parts of 3, 3 and 2
        run._step(x, y)
        gradients.append([parameter.grad for parameter in net.parameters()])
    for whole, in_parts in zip(*gradients, strict=True):
        # The same sums in another order, of terms of about 1.
        torch.testing.assert_close(whole, in_parts, rtol=1e-4, atol=1e-6)


def test_features_by_hand() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    net, teacher = nn.Sequential(Doubled(), nn.ReLU(inplace=True)), nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    features = Features(net, teacher, ["0"])
    x = torch.tensor([[1.0, -1.0, 3.0, -3.0]])
    with features.recording():
        net(x.clone()), teacher(x.clone())
    # The error is x itself: mean square 5, against a variance of 20 / 3.
    torch.testing.assert_close(features.loss(), torch.tensor(5 / (20 / 3)))
    assert not net[0]._forward_hooks
    assert not teacher[0]._forward_hooks


def test_features_bring_the_layers_nearer_to_the_dense_ones() -> None:
    found = []
    for weight in (0.0, 10.0):
        net, teacher = lookup_net(), dense_net()
        finetune(net, teacher, examples(), settings(epochs=6, lr=1e-2, feature_weight=weight))
        features = Features(net, teacher, ["0", "3"])
        with torch.no_grad(), features.recording():
            net(examples().x)
            teacher(examples().x)
        found.append(float(features.loss()))
    assert found[1] < 0.8 * found[0]


def test_training_stops_when_it_is_enough_and_resuming_keeps_it_so(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    asked: list[int] = []

    def enough(result: nn.Module) -> bool:
        assert not result.training
        torch.randn(3)  # scoring may draw random numbers
        asked.append(sum(lookup.n_nonzeros for lookup in lookups(result).values()))  # type: ignore[arg-type]
        return len(asked) == 2

    chosen = settings(epochs=6, average=0.9)
    net = lookup_net()
    report = finetune(net, dense_net(), examples(), chosen, targets=TARGETS, checkpoint=path, enough=enough)
    # 30 steps in 6 epochs; pruned from step 15 on, the end of the third epoch, and asked then and after the fourth.
    assert (report.steps, len(report.losses), asked) == (20, 4, [80, 80])
    again = lookup_net()
    assert finetune(again, dense_net(), examples(), chosen, targets=TARGETS, checkpoint=path, resume=True) == report
    assert_same(again, net)
    whole, unasked = lookup_net(), lookup_net()
    finetune(whole, dense_net(), examples(), chosen, targets=TARGETS, enough=lambda _: bool(torch.randn(1) > 9))
    finetune(unasked, dense_net(), examples(), chosen, targets=TARGETS)
    assert_same(whole, unasked)


def test_losses_by_hand() -> None:
    output, taught = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    chosen = settings(distill_weight=0.25, temperature=2.0)
    y = torch.tensor([0, 0])
    cross_entropy = -(torch.tensor([1.0, 0.0]) - torch.tensor([[1.0, 0.0], [0.0, 2.0]]).exp().sum(1).log()).mean()
    p, q = (torch.softmax(v / 2, 1) for v in (taught, output))
    kl = (p * (p / q).log()).sum() / 2
    torch.testing.assert_close(loss_of(output, y, taught, chosen), 0.75 * cross_entropy + 0.25 * 4 * kl)
    torch.testing.assert_close(loss_of(output, y, None, chosen), cross_entropy)
    zeros = torch.zeros(2, 2)
    assert float(loss_of(output, zeros, None, chosen)) == 5 / 4
    assert float(loss_of(output, zeros, taught, chosen)) == 0.75 * 5 / 4 + 0.25 * 5 / 4
    assert float(loss_of(output, None, taught, chosen)) == 5 / 4


def test_labels_that_do_not_fit() -> None:
    output = torch.zeros(2, 3)
    with pytest.raises(DataError, match=r"class numbers run from 1 to 3, but the net returns \(2, 3\)"):
        loss_of(output, torch.tensor([1, 3]), None, settings())
    with pytest.raises(DataError, match="class numbers run from -1 to 0"):
        loss_of(output, torch.tensor([-1, 0]), None, settings())
    with pytest.raises(DataError, match=r"targets are \(2,\), but the net returns \(2, 3\)"):
        loss_of(output, torch.zeros(2), None, settings())
    with pytest.raises(SettingsError, match="distill is False and the training data has no labels"):
        finetune(lookup_net(), dense_net(), examples(kind="none"), settings(distill=False))
    with pytest.raises(ModelError, match="the net returns a tuple, not one tensor"):
        loss_of((output,), None, None, settings())  # type: ignore[arg-type]


def test_loss_that_is_not_finite() -> None:
    data = examples()
    data.x[:] = torch.nan
    with pytest.raises(ModelError, match=r"loss is nan at step 1 of 15 \(learning rate 0.001\); lower lr, which is 0.001"):
        finetune(lookup_net(), dense_net(), data, settings())


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_examples(n: int) -> None:
    with pytest.raises(DataError, match=f"training data holds {n} examples"):
        finetune(lookup_net(), dense_net(), examples(n=n), settings())


@pytest.mark.parametrize("n", [2, 7, 9, 15])
def test_every_example_is_seen_once_an_epoch_and_no_batch_is_smaller_than_asked(n: int) -> None:
    run = _Run(lookup_net(), dense_net(), examples(n=n), settings(batch_size=4), {})
    order = run._order()
    assert sorted(torch.cat(order).tolist()) == list(range(n))
    assert min(len(batch) for batch in order) >= min(4, n)
    run.step = run.steps_per_epoch
    assert torch.cat(run._order()).tolist() != torch.cat(order).tolist() or n == 2


def saved_checkpoint(path: Path) -> bytes:
    finetune(lookup_net(), dense_net(), examples(), settings(epochs=1), targets=TARGETS, checkpoint=path)
    return path.read_bytes()


def resume(
    path: Path | None, *, chosen: FinetuneSettings | None = None, n: int = 40, targets: dict[str, int] = TARGETS
) -> None:
    finetune(
        lookup_net(), dense_net(), examples(n=n), chosen or settings(epochs=1), targets=targets, checkpoint=path, resume=True
    )


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


def test_checkpoint_without_a_part(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    saved_checkpoint(path)
    saved = read_checkpoint(path)
    run = _Run(lookup_net(), dense_net(), examples(), settings(epochs=1), TARGETS)
    del saved.state["optimiser"]
    with pytest.raises(ArtefactError, match=r"training.ckpt: incomplete checkpoint \('optimiser'\)"):
        run.load(saved)


def test_checkpoint_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "training.ckpt"
    saved_checkpoint(path)
    with pytest.raises(ArtefactError, match=r"other settings: lr is 0.001 there and 0.1 here; use the same"):
        resume(path, chosen=settings(epochs=1, lr=0.1))
    with pytest.raises(ArtefactError, match="other net and data: number of examples is 40 there and 41 here"):
        resume(path, n=41)
    with pytest.raises(
        ArtefactError, match=r"non-zeros at the end is \{'0': 30, '3': 50\} there and \{'0': 31, '3': 50\} here"
    ):
        resume(path, targets={"0": 31, "3": 50})
    teacher = dense_net()
    with torch.no_grad():
        teacher[7].bias += 1
    with pytest.raises(ArtefactError, match=r"weights of the dense net is '[0-9a-f]{12}' there"):
        finetune(lookup_net(), teacher, examples(), settings(epochs=1), targets=TARGETS, checkpoint=path, resume=True)
    net = lookup_net()
    net[7] = nn.Linear(32, CLASSES, bias=False)
    with pytest.raises(ArtefactError, match=r"layer shapes is '[0-9a-f]{12}' there"):
        finetune(net, dense_net(), examples(), settings(epochs=1), targets=TARGETS, checkpoint=path, resume=True)


@pytest.mark.parametrize("kind", ["classes", "targets"])
def test_mixed_precision_rounds_products_only(kind: str) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        net = lookup_net()
        report = finetune(net, dense_net(), examples(kind=kind), settings(precision=precision), targets=TARGETS)
        losses[precision] = torch.tensor(report.losses)
        assert {t.dtype for t in net.state_dict().values() if t.is_floating_point()} == {torch.float32}
        assert report.nonzeros == TARGETS
    assert not torch.equal(losses["float32"], losses["bfloat16"])
    torch.testing.assert_close(losses["float32"], losses["bfloat16"], rtol=0.02, atol=0)  # a product rounds by 0.4 %


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trains_on_a_gpu(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "checkpoint"
    chosen = settings(device="cuda", precision=precision, average=0.5, feature_weight=0.1)
    nets = {device: (lookup_net(), dense_net()) for device in ("cpu", "cuda")}
    for net in (*nets["cpu"], *nets["cuda"]):
        net[6] = nn.Identity()  # no dropout: its random numbers would be others there
    on_cpu = finetune(*nets["cpu"], examples(), replace(chosen, device="cpu"), targets=TARGETS)
    report = finetune(*nets["cuda"], examples(), chosen, targets=TARGETS, checkpoint=path, enough=lambda _: False)
    assert {t.device.type for net in nets["cuda"] for t in net.state_dict().values()} == {"cpu"}
    assert report.nonzeros == TARGETS
    torch.testing.assert_close(report.losses, on_cpu.losses, rtol=0.02, atol=0)
    again = lookup_net()
    again[6] = nn.Identity()
    assert finetune(again, nets["cuda"][1], examples(), chosen, targets=TARGETS, checkpoint=path, resume=True) == report
    assert_same(nets["cuda"][0], again)


def test_devices_are_those_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SettingsError, match=r"device is 'cuda'; it must be one of those torch \S+ finds here: cpu$"):
        settings(device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices() == ("cpu", "cuda", "cuda:0", "cuda:1")
    assert settings(device="cuda:1").device == "cuda:1"


def test_progress_counts_steps() -> None:
    seen: list[tuple[str, int, int]] = []
    finetune(lookup_net(), dense_net(), examples(), settings(epochs=2), progress=lambda *step: seen.append(step))
    assert seen == [("fine-tuning", i, 10) for i in range(11)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", "float16"), ("epochs", 0), ("batch_size", 1), ("lr", 0.0), ("lr", float("inf")), ("sparsity", "magic"),
        ("threshold_c", -0.1), ("l1", float("nan")), ("distill_weight", 1.1), ("temperature", 0.0),
        ("seed", -1), ("feature_weight", -1.0), ("average", 1.0), ("accumulate", 0), ("accumulate", 5),
    ],
)  # fmt: skip
def test_settings_out_of_range(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is {value!r}; it must be"):
        settings(**{name: value})

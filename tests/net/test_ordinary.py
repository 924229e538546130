"""Whatever the caller has set: every call does what it always does, one at a time, and leaves all state as it was."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import STABLE
from torch import Tensor, nn

from lcnn_compress import api
from lcnn_compress.errors import LcnnError, ModelError
from lcnn_compress.net.ordinary import in_eval_mode, ordinary, ordinary_state, seeded

SHAPE = (1, 3, 12, 12)
PLAN = api.PlanSettings("6", lookups=2, keep_slow=True)
UNTRAINED = api.CompressSettings(PLAN, measure=False)
TRAINED = api.CompressSettings(
    PLAN, measure=False, finetune=api.FinetuneSettings(epochs=1, batch_size=4, precision="bfloat16")
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def net_of(width: int) -> nn.Module:
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.3),
            nn.Conv2d(width, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8),
        )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> api.DataSettings:
    path = tmp_path_factory.mktemp("data") / "data.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.random((12, *SHAPE[1:]), np.float32), y=rng.integers(0, 8, 12))
    return api.DataSettings(data=str(path), mean=(0.5,), std=(0.25,), samples=8)


# What callers set


@contextlib.contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def coarse_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def in_several_autocasts() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", torch.float16, cache_enabled=False):
        yield


@contextlib.contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def all_at_once() -> Iterator[None]:
    torch.backends.mha.set_fastpath_enabled(False)
    with (
        default_type(torch.float64), default_device("meta"), coarse_products(), warnings_as_errors(), torch.no_grad(),
        in_several_autocasts(), torch.inference_mode(),
    ):  # fmt: skip
        yield
    torch.backends.mha.set_fastpath_enabled(True)


SET_BY_CALLERS: dict[str, Callable[[], Any]] = {
    "float64": lambda: default_type(torch.float64), "float16": lambda: default_type(torch.float16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16), "autocast in autocast": in_several_autocasts,
    "inference_mode": torch.inference_mode, "no_grad": torch.no_grad, "device meta": lambda: default_device("meta"),
    "with device meta": lambda: torch.device("meta"), "products in bfloat16": coarse_products,
    "warnings are errors": warnings_as_errors, "all": all_at_once,
}  # fmt: skip


def all_state() -> dict[str, Any]:
    """Everything that the process or this thread has one of."""
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    loggers = [log for log in logging.root.manager.loggerDict.values() if isinstance(log, logging.Logger)]
    return {
        "random": random.getstate(), "numpy": repr(np.random.get_state()), "torch": torch.get_rng_state().tolist(),
        "type": torch.get_default_dtype(), "device": torch.get_default_device(), "depth of autocast": depth,
        "autocast": [torch.is_autocast_enabled(d) for d in ("cpu", "cuda")], "kept casts": torch.is_autocast_cache_enabled(),
        "gradients": torch.is_grad_enabled(), "inference": torch.is_inference_mode_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(), "products": torch.get_float32_matmul_precision(),
        "precisions": [
            getattr(kind, "fp32_precision", None) for kind in (
                torch.backends, torch.backends.mkldnn, getattr(torch.backends.mkldnn, "matmul", None),
                getattr(torch.backends.mkldnn, "conv", None),
            )
        ],
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "filters": list(warnings.filters), "shown": warnings.showwarning, "python threads": threading.active_count(),
        "levels": {log.name: log.level for log in loggers if log.name.startswith(("torch.onnx", "torch.fx", "lcnn"))},
    }  # fmt: skip


def all_of(net: nn.Module) -> dict[str, Any]:
    """Everything that a net holds."""
    found: dict[str, Any] = {}
    for name, module in net.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        found[name] = (type(module), module.training, sorted(module.__dict__), [list(h.values()) for h in hooks])
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        # Buffers that count calls get the values back that they had.
        version = tensor._version if isinstance(tensor, nn.Parameter) and not tensor.is_inference() else None
        found[f"{name} "] = (id(tensor), tensor.data_ptr(), version, tensor.dtype, tensor.requires_grad, tensor.tolist())
    return found


# The same results


def made(folder: Path, data: api.DataSettings, net: nn.Module) -> dict[str, object]:
    """What is made of a net: the bytes of every file, and scores."""
    source = api.open_model(net, SHAPE)
    loaded = api.load_data(data, source.input_shape)
    api.save(api.compress(source, settings=TRAINED, data=loaded), folder / "net.lcnn")
    artefact = api.load(folder / "net.lcnn")
    api.export_onnx(artefact, folder / "net.onnx")
    assert loaded.examples is not None
    scores = api.evaluate(artefact.net, loaded.examples), api.evaluate(folder / "net.onnx", loaded.examples)
    files = (*(folder / "net.lcnn" / name for name in STABLE), folder / "net.onnx")
    return {file.name: file.read_bytes() for file in files} | {"scores": scores}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, data: api.DataSettings) -> dict[str, object]:
    """What is made in the state that torch starts in, and in one thread, as in the tests: sums are others in two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return made(tmp_path_factory.mktemp("usual"), data, net_of(24))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "all" else pytest.mark.slow) for n in SET_BY_CALLERS])
def test_results_do_not_depend_on_what_the_caller_has_set(
    name: str, usual: dict[str, object], data: api.DataSettings, tmp_path: Path
) -> None:
    net = net_of(24)
    with SET_BY_CALLERS[name]():
        before = all_state()
        found = made(tmp_path, data, net)
        assert all_state() == before
    assert found.keys() == usual.keys()
    assert [key for key in usual if found[key] != usual[key]] == []


def test_nets_and_data_that_were_made_for_inference_are_taken_as_others() -> None:
    found = []
    for mode in (torch.inference_mode(), contextlib.nullcontext()):
        with mode:
            net, examples = net_of(24), Noise()
        before = all_of(net)
        found.append(api.compress(net, input_shape=SHAPE, settings=TRAINED, data=api.TrainingData([examples.x], examples)))
        assert all_of(net) == before
    weights = [artefact.net.state_dict() for artefact in found]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


# The same state


class Stubborn(nn.Module):
    """Draws random numbers, and cannot be captured."""

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(3), np.random.rand(), random.random()
        return x if x.sum() > 0 else -x


class Made:
    """What the functions are tried on."""

    def __init__(self, folder: Path, data: api.DataSettings) -> None:
        self.folder, self.settings, self.net = folder, data, net_of(24)
        torch.save(self.net, folder / "net.pt")
        self.source = api.open_model(folder / "net.pt", SHAPE)
        self.data = api.load_data(data, SHAPE)
        self.artefact = api.compress(self.source, settings=UNTRAINED)
        api.save(self.artefact, folder / "net.lcnn")
        api.export_onnx(self.artefact, folder / "net.onnx")
        self.unfit = api.TrainingData([torch.rand(4, 5, 12, 12)])
        self.labels = api.TrainingData(examples=api.load_examples(data.data or "", SHAPE))


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, data: api.DataSettings) -> Made:
    return Made(tmp_path_factory.mktemp("made"), data)


def small_target() -> api.Target:
    return api.Target("size_mb", 0.009)


def tuned(**changes: Any) -> api.CompressSettings:
    return api.CompressSettings(PLAN, measure=False, finetune=api.FinetuneSettings(epochs=1, batch_size=4, **changes))


# Each function, as it succeeds and as it fails.
CALLS: dict[str, tuple[Callable[[Made], object], Callable[[Made], object]]] = {
    "open_model": (lambda m: api.open_model(m.net, SHAPE), lambda _: api.open_model(Stubborn(), SHAPE)),
    "open_model of a file": (lambda m: api.open_model(m.folder / "net.pt"), lambda m: api.open_model(m.folder / "net.onnx")),
    "load_data": (lambda m: api.load_data(m.settings, SHAPE), lambda m: api.load_data(m.settings, (1, 5, 12, 12))),
    "compress": (
        lambda m: api.compress(m.source, settings=TRAINED, data=m.data), lambda m: api.compress(m.source, data=m.unfit),
    ),
    "compress to the end": (
        lambda m: api.compress(m.source, settings=UNTRAINED, data=m.data),
        lambda m: api.compress(m.source, settings=tuned(lr=1e30), data=m.labels),
    ),
    "compress_to_target": (
        lambda m: api.compress_to_target(m.source, UNTRAINED, small_target()),
        lambda m: api.compress_to_target(m.source, UNTRAINED, api.Target("size_mb", 1e-6)),
    ),
    "compress_and_save": (
        lambda m: api.compress_and_save(m.source, m.folder / "again.lcnn", api.Configuration(TRAINED), m.labels),
        lambda m: api.compress_and_save(m.source, m.folder / "net.pt", api.Configuration(UNTRAINED)),
    ),
    "forecast": (
        lambda m: api.forecast(m.source, UNTRAINED, small_target(), m.data),
        lambda m: api.forecast(m.source, UNTRAINED, api.Target("size_mb", 1e-6)),
    ),
    "sensitivity": (
        lambda m: api.sensitivity(m.source, api.SensitivitySettings((0.5,)), m.data),
        lambda m: api.sensitivity(m.source, api.SensitivitySettings((0.5,)), api.TrainingData()),
    ),
    "save": (
        lambda m: api.save(m.artefact, m.folder / "saved.lcnn"),
        lambda m: api.save(m.artefact, m.folder / "none" / "saved.lcnn"),
    ),
    "load": (lambda m: api.load(m.folder / "net.lcnn"), lambda m: api.load(m.folder)),
    "export_onnx": (
        lambda m: api.export_onnx(m.artefact, m.folder / "net.onnx"),
        lambda m: api.export_onnx(m.artefact, m.folder / "none.onnx", api.ExportSettings(tolerance=0.0)),
    ),
    "export_dense": (
        lambda m: api.export_dense(m.source, m.folder / "dense.onnx", []),
        lambda m: api.export_dense(m.source, m.folder / "none" / "dense.onnx", []),
    ),
    "write_dense_form": (
        lambda m: api.write_dense_form(m.folder / "net.onnx", m.folder / "form.onnx"),
        lambda m: api.write_dense_form(m.folder / "net.pt", m.folder / "form.onnx"),
    ),
    "bench": (
        lambda m: api.bench(m.folder / "net.lcnn", settings=api.BenchSettings(iterations=2, warmup=0, per_layer=False)),
        lambda m: api.bench(m.folder / "net.lcnn", m.folder / "net.pt"),
    ),
    "inspect": (lambda m: api.inspect(m.folder / "net.pt"), lambda m: api.inspect(m.folder / "none.pt")),
    "inspect an artefact": (lambda m: api.inspect(m.folder / "net.lcnn"), lambda m: api.inspect(m.folder)),
    "evaluate": (
        lambda m: api.evaluate(m.source.net, m.labels.examples), lambda m: api.evaluate(m.folder / "net.pt", m.labels.examples),
    ),
    "evaluate_file": (
        lambda m: api.evaluate_file(m.folder / "net.lcnn", m.settings),
        lambda m: api.evaluate_file(m.folder / "net.pt", api.DataSettings(data=str(m.folder / "none.npz"))),
    ),
    "load_examples": (
        lambda m: api.load_examples(str(m.settings.data), SHAPE), lambda _: api.load_examples("numpy:nothing", SHAPE),
    ),
    "doctor": (lambda _: api.doctor(), lambda _: api.suite("none")),
}  # fmt: skip


def odd_modes(net: nn.Module) -> None:
    """Set every other module to training."""
    for number, module in enumerate(net.modules()):
        module.training = number % 2 == 0


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_every_function_leaves_all_state_and_all_nets_as_they_were(name: str, fails: bool, ready: Made) -> None:
    for net in (ready.source.net, ready.artefact.net):
        odd_modes(net)
    with all_at_once():
        before, nets = all_state(), [all_of(net) for net in (ready.source.net, ready.artefact.net)]
        with pytest.raises(LcnnError) if fails else contextlib.nullcontext():
            CALLS[name][fails](ready)
        assert all_state() == before
        assert [all_of(net) for net in (ready.source.net, ready.artefact.net)] == nets


def test_all_functions_are_tried() -> None:
    functions = {name for name in api.__all__ if callable(getattr(api, name)) and not isinstance(getattr(api, name), type)}
    plain = {
        "check_place",
        "dense_rows",
        "describe_onnx",
        "find_dense",
        "layer_rows",
        "read_configuration",
        "sensitivity_picture",
    }
    assert functions - plain - {"compress_source", "suite"} == {name.partition(" ")[0] for name in CALLS}


@pytest.mark.parametrize("fails", [False, True])
def test_a_net_that_is_given_comes_back_as_it_was(fails: bool) -> None:
    net = nn.Sequential(net_of(16), Stubborn()) if fails else net_of(16)
    odd_modes(net)
    next(net.parameters()).requires_grad_(False)
    net.register_forward_hook(lambda *given: given[2])
    net(torch.rand(2, *SHAPE[1:])).sum().backward()
    before = all_of(net)
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    with pytest.raises(ModelError) if fails else contextlib.nullcontext():
        api.compress(net, 6, lookups=2, input_shape=SHAPE, settings=tuned(), data=api.TrainingData(examples=Noise()))
    assert all_of(net) == before
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert parameter.grad is gradient is None or torch.equal(parameter.grad, gradient)


class Noise:
    """Labelled examples whose batches are views of tensors of the caller's."""

    def __init__(self) -> None:
        self.x, self.y = torch.rand(12, *SHAPE[1:], generator=torch.Generator().manual_seed(0)), torch.arange(12) % 8

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        first = min(int(indices.min()), len(self.x) - len(indices))
        return self.x[first : first + len(indices)], self.y[first : first + len(indices)]


class InPlace(nn.Module):
    """Normalises its input where it lies, as many nets do."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).div_(0.25)


@pytest.mark.parametrize("first", [nn.Identity(), InPlace(), nn.ReLU(inplace=True)], ids=lambda m: type(m).__name__)
def test_data_that_is_given_stays_as_it_was(first: nn.Module) -> None:
    examples, calibration = Noise(), [torch.rand(6, *SHAPE[1:]), torch.rand(5, *SHAPE[1:])]
    given = [examples.x, examples.y, *calibration]
    before = [(t.clone(), t._version, t.data_ptr(), t.requires_grad) for t in given]
    source = api.open_model(nn.Sequential(first, net_of(16)), SHAPE)
    api.compress(source, settings=tuned(), data=api.TrainingData(calibration, examples))
    api.sensitivity(source, api.SensitivitySettings((0.5,)), api.TrainingData(calibration))
    api.evaluate(source.net, examples)
    for tensor, (values, version, place, gradient) in zip(given, before, strict=True):
        assert torch.equal(tensor, values)
        assert (tensor._version, tensor.data_ptr(), tensor.requires_grad) == (version, place, gradient)


# One call at a time


def test_threads_take_turns(tmp_path: Path, data: api.DataSettings) -> None:
    widths = (16, 24, 40)
    nets = [net_of(width) for width in widths]
    before = all_state()
    alone = [made(tmp_path, data, net) for net in nets]
    together: dict[int, dict[str, object]] = {}

    def work(number: int) -> None:
        (tmp_path / str(number)).mkdir()
        together[number] = made(tmp_path / str(number), data, nets[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert [thread.is_alive() for thread in threads] == [False] * 3
    for number in range(3):
        assert [key for key in alone[number] if together[number][key] != alone[number][key]] == []
    assert all_state() == before


def test_a_progress_function_may_call_us() -> None:
    found: list[api.Source] = []

    def progress(stage: str, done: int, total: int) -> None:
        if not found:
            assert torch.get_default_dtype() is torch.float32
            found.append(api.open_model(net_of(8), SHAPE))

    with default_type(torch.float64):
        api.compress(net_of(24), 6, input_shape=SHAPE, settings=UNTRAINED, progress=progress)
    assert len(found) == 1


def enter() -> None:
    with ordinary_state():
        assert torch.get_default_dtype() is torch.float32


def test_a_child_that_is_forked_meanwhile_does_not_wait_for_a_thread_it_does_not_have() -> None:
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with ordinary_state():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(60)
    child = multiprocessing.get_context("fork").Process(target=enter)
    child.start()
    child.join(30)
    ended = child.exitcode
    child.kill()
    leave.set()
    thread.join(60)
    assert ended == 0


# The parts


def test_casts_of_one_step_are_not_kept_for_the_next_one() -> None:
    """Inside a block of autocast, a training of ours would go on with the weights of its first step."""
    layer, x = nn.Linear(4, 4), torch.ones(1, 4)

    @ordinary
    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        with torch.no_grad():
            layer.weight.zero_()
        return y

    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(step(), layer.bias.bfloat16()[None])
        assert torch.equal(step(), layer.bias.bfloat16()[None])
        assert torch.equal(layer(x), layer.bias.bfloat16()[None])  # nor those of the caller's block


def test_a_net_is_in_eval_mode_inside_and_as_it_was_after_an_error() -> None:
    net = net_of(8)
    odd_modes(net)
    modes = [module.training for module in net.modules()]
    with in_eval_mode(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == modes
    with pytest.raises(KeyError), in_eval_mode(net):
        raise KeyError
    assert [module.training for module in net.modules()] == modes


def test_seeds_are_for_the_block_and_for_the_devices_that_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("all GPUs are seeded"))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda _: pytest.fail("a GPU is seeded"))
    before = torch.get_rng_state()
    with seeded(7):
        drawn = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)))

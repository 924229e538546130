"""What stands between the options of a command and the library calls that answer it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lcnn_compress import api, runtime
from lcnn_compress.artefact.artefact import FILES, is_artefact
from lcnn_compress.bench.compare import BenchSettings, compare
from lcnn_compress.cli.options import FIXED, find_artefact
from lcnn_compress.compress.plan import LayerPlan
from lcnn_compress.compress.settings import CALIBRATION_BATCH, CompressSettings, TrainingData
from lcnn_compress.data.examples import Examples, Preprocessing, batches, split
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.data.score import Score
from lcnn_compress.errors import ArtefactError, FileError, SettingsError
from lcnn_compress.files import write_atomically
from lcnn_compress.forms.size_rules import parse_amount
from lcnn_compress.net.edit import fold_batch_norms
from lcnn_compress.progress import Progress
from lcnn_compress.train.recipe import FinetuneSettings

TARGET_INIT = "ksvd"  # at few lookups clearly better than k-means in every layer tried
HELD_OUT, MOST_HELD_OUT = 0.3, 10_000


@dataclass(frozen=True)
class Feed:
    """Where data comes from and how it is prepared; all of it is written into the configuration."""

    calib: str | None = None
    samples: int = 512
    data: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    held_out: float = 0.0  # share of data, to judge by


@dataclass(frozen=True)
class Run:
    """A compression as asked for; ``plans`` are decisions to repeat, ``model`` the identity of the net they were made for."""

    settings: CompressSettings
    feed: Feed
    arch: str | None
    input_shape: tuple[int, ...] | None
    plans: list[LayerPlan] | None = None
    model: dict[str, Any] | None = None
    target: tuple[str, float] | None = None  # kind and value


@dataclass(frozen=True)
class Subject:
    """What to evaluate."""

    target: str | None
    arch: str | None
    input_shape: tuple[int, ...] | None
    trust_pickle: bool


def require(condition: bool, message: str) -> None:
    """Raise SettingsError(message) unless ``condition`` holds."""
    if not condition:
        raise SettingsError(message)


def check_output(path: Path) -> None:
    """Refuse a place for an artefact before any work is done: nothing but an artefact is ever replaced.

    Raises:
        SettingsError: something else is at ``path``, or files that are not of an artefact are in it.
        FileError: its folder is not there or may not be written.
    """
    parent = path.resolve().parent
    if not parent.is_dir():
        raise FileError(f"{path}: the folder {parent} is not there; create it first or choose another --output")
    if not os.access(parent, os.W_OK):
        raise FileError(f"{path}: the folder {parent} may not be written; choose another --output")
    if not path.exists():
        return
    require(is_artefact(path), f"{path}: exists and is not an artefact; it will not be replaced, choose another --output")
    own = sorted(p.name for p in path.iterdir() if p.name not in FILES and p.suffix != ".onnx")
    require(not own, f"{path}: holds files of yours ({', '.join(own[:3])}); move them away or choose another --output")


def lookups(text: str | None) -> int | float | None:
    """Read ``--lookups``.

    Raises:
        SettingsError: neither a whole number nor a share.
    """
    return None if text is None else parse_amount("--lookups", text, "lookups per position", "the dictionary")


def repeat(config: Path, given: frozenset[str], run: Run) -> Run:
    """Return the run that a configuration records; only data, architecture and input shape may be given anew.

    Args:
        config: config.json of an artefact.
        given: names of the options on the command line.
        run: what those options say.

    Raises:
        SettingsError: an option contradicts the configuration.
        ArtefactError, FileError: it cannot be read.
    """
    fixed = [option for name, option in FIXED.items() if name in given]
    require(not fixed, f"--config already fixes {', '.join(fixed)}; leave those options out, or leave out --config")
    values = read_config(config)
    try:
        tuning, recorded, model = values["finetune"], values["data"] or {}, values["model"]
        settings = replace(
            run.settings, init=values["init"], seed=values["seed"], storage=values["coefficients"],
            finetune=FinetuneSettings.from_recorded(tuning) if tuning else None,
        )  # fmt: skip
        plans = [LayerPlan.from_json(layer) for layer in values["layers"]]
        arch, shape = run.arch or model["arch"], run.input_shape or tuple(values["input_shape"])
        if recorded.get("in_memory"):
            feed = run.feed
            missing = feed.calib is None and feed.data is None
            require(not missing, f"{config}: the data of that run was in memory; give it with --calib or --data")
        else:
            feed = _feed(recorded, given, run.feed)
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ArtefactError(
            f"{config}: not a configuration of this version ({reason}); use the config.json of an artefact"
        ) from error
    return Run(settings, feed, arch, shape, plans, model)


def _feed(recorded: dict[str, Any], given: frozenset[str], feed: Feed) -> Feed:
    values = {name: value for name, value in recorded.items() if name not in given}
    for name in ("mean", "std"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return replace(feed, **values)


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json.

    Raises:
        FileError: it cannot be read.
        ArtefactError: it is not a JSON object.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}; give the config.json of an artefact") from error
    except ValueError as error:
        raise ArtefactError(f"{path}: not JSON ({error}); use the config.json of an artefact") from error
    if not isinstance(values, dict):
        raise ArtefactError(f"{path}: holds a {type(values).__name__}, not an object; use the config.json of an artefact")
    return values


def data(feed: Feed, seed: int, input_shape: tuple[int, ...], limit: int | None = None) -> TrainingData:
    """Load calibration and training data, at most ``limit`` examples of the latter.

    Raises:
        DataError, FileError: they cannot be used.
    """
    calibration: list[Any] = []
    if feed.calib is not None:
        examples = _examples(feed.calib, feed, input_shape, limit=feed.samples, seed=seed)
        calibration = [x for x, _ in batches(examples, CALIBRATION_BATCH)]
    training = None if feed.data is None else _examples(feed.data, feed, input_shape, limit=limit, seed=seed)
    held_out: Examples | None = None
    if training is not None and feed.held_out:
        count = min(MOST_HELD_OUT, round(feed.held_out * len(training)))
        require(count > 1, f"{feed.data}: holds {len(training)} examples, too few to hold out some; give more")
        training, held_out = split(training, count, seed)
    origin = None if feed.calib is None and feed.data is None else asdict(feed)
    if origin is not None and not feed.held_out:
        del origin["held_out"]
    return TrainingData(calibration, training, held_out, origin=origin).calibrated()


def write(path: Path, content: str) -> None:
    """Write a text file; raises FileError where it cannot be written."""
    write_atomically(path, content.encode())


def for_target(
    settings: CompressSettings, feed: Feed, kind: str, given: frozenset[str], resume: bool
) -> tuple[CompressSettings, Feed]:
    """Return settings and feed for a run that a target decides.

    Raises:
        SettingsError: an option does not go with it.
    """
    require(settings.measure or kind == "size_mb", "--no-measure leaves out what a target of time or drop needs; drop it")
    if "init" not in given:
        settings = replace(settings, init=TARGET_INIT)
    require(settings.init in ("kmeans", "ksvd"), f"--init {settings.init} does not go with a target; use kmeans or ksvd")
    if kind != "max_drop":
        return settings, feed
    require(feed.data is not None, "--max-drop is judged on labelled examples; add --data")
    require(not resume, "--resume does not go with --max-drop, which trains several nets; run without it")
    return settings, replace(feed, held_out=HELD_OUT)


def _examples(spec: str, feed: Feed, input_shape: tuple[int, ...], *, limit: int | None = None, seed: int = 0) -> Examples:
    return load_examples(spec, input_shape, Preprocessing(feed.mean, feed.std), limit=limit, seed=seed)


class Checkpoint:
    """The folder ``NAME.lcnn.checkpoint`` that keeps a fine-tuning until its artefact is written."""

    def __init__(self, target: Path) -> None:
        self.folder = target.with_name(target.name + ".checkpoint")
        self.plan, self.training = self.folder / "plan.json", self.folder / "training.ckpt"

    @property
    def exists(self) -> bool:
        """Whether there is something to resume."""
        return self.plan.is_file() and self.training.is_file()

    def earlier_plans(self, finetune: FinetuneSettings | None, resume: bool) -> list[LayerPlan] | None:
        """Return the layer decisions of the interrupted run, so that nothing is measured anew; None without ``resume``.

        Raises:
            SettingsError: there is nothing to resume, or a checkpoint that a new run would overwrite.
            ArtefactError: the checkpoint is damaged.
        """
        if not resume:
            taken = finetune is not None and self.exists
            require(
                not taken,
                f"{self.folder}: holds an interrupted fine-tuning; add --resume to continue it, or delete that folder",
            )
            return None
        require(finetune is not None, "--resume continues a fine-tuning; add --data and --epochs as in the first run")
        require(self.exists, f"{self.folder}: no checkpoint to resume; run without --resume")
        try:
            return [LayerPlan.from_json(values) for values in read_config(self.plan)["layers"]]
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"{self.plan}: damaged ({error}); delete {self.folder} and run without --resume") from error

    @contextmanager
    def keeping(self, feed: TrainingData, resume: bool) -> Iterator[TrainingData]:
        """Yield ``feed`` with this checkpoint; what is of use afterwards stays, and an interrupt says how to go on."""
        self.folder.mkdir(exist_ok=True)
        try:
            yield replace(feed, checkpoint=self.training, resume=resume, on_plan=self._keep)
        except KeyboardInterrupt:
            if not self.exists:
                raise
            raise KeyboardInterrupt(f"{self.folder} keeps the work; the same command with --resume continues") from None
        else:
            self.plan.unlink()
            self.training.unlink(missing_ok=True)
        finally:
            if not self.exists:
                self.plan.unlink(missing_ok=True)
                with suppress(OSError):  # files that are not ours keep the folder
                    self.folder.rmdir()

    def _keep(self, decided: Sequence[LayerPlan]) -> None:
        write_atomically(self.plan, json.dumps({"layers": [p.to_json() for p in decided]}).encode())


def bench(path: Path, chosen: BenchSettings, trust_pickle: bool) -> tuple[dict[str, Any], str | None]:
    """Measure an artefact or an exported file against its dense net; also say why that is not the original one.

    Raises:
        FileError, ArtefactError: the artefact or file cannot be used.
    """
    if path.suffix == ".onnx":
        return {**api.bench(path, None, chosen), "lookup_source": str(path)}, None
    artefact = api.load(path)
    with tempfile.TemporaryDirectory(prefix="lcnn-") as folder:
        lookup = path / "model.onnx"
        named = {"lookup_source": str(lookup if lookup.is_file() else path)}
        if not lookup.is_file():
            lookup = Path(folder) / "lookup.onnx"
            api.export_onnx(artefact, lookup)
        source = api.find_dense(artefact, path, trust_pickle)
        if isinstance(source, str):
            return {**api.bench(lookup, None, chosen), **named}, f"the original net cannot be used ({source})"
        dense = Path(folder) / "dense.onnx"
        api.export_dense(source, dense, api.layer_rows(artefact.report))
        result = compare(dense, lookup, chosen)
        return {**asdict(result), "dense_source": f"original net {source.origin['spec']}", **named}, None


def suite(name: str, chosen: BenchSettings, progress: Progress) -> dict[str, Any]:
    """Measure the nets of a suite.

    Raises:
        SettingsError: there is no such suite.
    """
    from lcnn_compress.bench.suite import run_suite
    from lcnn_compress.bench.suite_cases import SUITES

    require(name in SUITES, f"--suite is '{name}'; it must be {' or '.join(SUITES)}")
    return asdict(run_suite(chosen, SUITES[name], progress))


def evaluate(subject: Subject, feed: Feed, limit: int | None, progress: Progress) -> tuple[dict[str, Any], str | None]:
    """Score an artefact (beside its dense net), a model or an ONNX file; also say why there is no dense figure.

    Raises:
        DataError: the data cannot be used.
    """
    spec = str(feed.data)
    if subject.target is None or is_artefact(Path(subject.target)):
        path, note = find_artefact(None if subject.target is None else Path(subject.target))
        artefact = api.load(path)
        feed, prepared = _prepared_as_before(feed, artefact.config.get("data") or {})
        note = "; ".join(filter(None, [note, prepared])) or None
        examples = _examples(spec, feed, artefact.input_shape, limit=limit)
        score, dense = api.evaluate(artefact.net, examples, progress), None
        source = api.find_dense(artefact, path, subject.trust_pickle)
        if isinstance(source, str):
            note = "; ".join(filter(None, [note, f"no dense figure: {source}"]))
        else:
            dense = api.evaluate(source.net, examples, progress).value
        return _scores(score, dense=dense, lookup=score.value), note
    if Path(subject.target).suffix == ".onnx":
        shape = tuple(s if isinstance(s, int) else 0 for s in runtime.session(subject.target).get_inputs()[0].shape)
        score = api.evaluate(subject.target, _examples(spec, feed, shape, limit=limit), progress)
        return _scores(score, dense=None, lookup=score.value), None
    source = api.open_model(subject.target, subject.input_shape, arch=subject.arch, trust_pickle=subject.trust_pickle)
    score = api.evaluate(source.net, _examples(spec, feed, source.input_shape, limit=limit), progress)
    return _scores(score, dense=score.value, lookup=None), None


def _prepared_as_before(feed: Feed, recorded: dict[str, Any]) -> tuple[Feed, str | None]:
    """Return ``feed`` with the mean and std the net was compressed with, unless it has its own, and a note saying so."""
    mean, std = recorded.get("mean"), recorded.get("std")
    if feed.mean is not None or feed.std is not None or not (mean or std):
        return feed, None
    return replace(feed, mean=mean and tuple(mean), std=std and tuple(std)), f"mean {mean} and std {std} as in compression"


def _scores(score: Score, *, dense: float | None, lookup: float | None) -> dict[str, Any]:
    return {"command": "eval", "metric": score.metric, "dense": dense, "lookup": lookup, "n": score.n}


def inspect(target: str, arch: str | None, shape: tuple[int, ...] | None, trust_pickle: bool) -> dict[str, Any]:
    """Describe a model, an artefact or an ONNX file.

    Raises:
        LcnnError: it cannot be read.
    """
    path = Path(target)
    if path.is_dir():
        artefact = api.load(path)
        report = artefact.report
        facts = {"artefact": target, "input": list(artefact.input_shape), "model": report.model, **report.totals.to_json()}
        return {"command": "inspect", "notes": [], "facts": facts, "layers": [row.to_json() for row in report.layers]}
    if path.suffix == ".onnx":
        return {"command": "inspect", "notes": [], **api.describe_onnx(path)}
    source = api.open_model(target, shape, arch=arch, trust_pickle=trust_pickle)
    rows = api.dense_rows(source.net, source.input_shape)
    fold_batch_norms(source.net)
    parameters = sum(p.numel() for p in source.net.parameters())
    facts = {
        "model": target, "kind": source.origin["kind"], "input": list(source.input_shape), "parameters": parameters,
        "macs": sum(row["macs"] for row in rows),
    }  # fmt: skip
    return {"command": "inspect", "notes": list(source.notes), "facts": facts, "layers": rows}

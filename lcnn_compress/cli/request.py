"""What stands between the options of a command and the library calls that answer it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lcnn_compress import api, benchmark, runtime
from lcnn_compress.artefact import is_artefact
from lcnn_compress.data import Examples, Preprocessing, batches, load_examples
from lcnn_compress.errors import ArtefactError, FileError, SettingsError
from lcnn_compress.files import write_atomically
from lcnn_compress.finetune import FinetuneSettings
from lcnn_compress.graph import fold_batch_norms
from lcnn_compress.pipeline import CompressSettings, TrainingData
from lcnn_compress.plan import LayerPlan, PlanSettings, parse_amount
from lcnn_compress.progress import Progress

CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class Wish:
    """The options of ``compress`` that decide the result; None where the user said nothing."""

    dictionary: str | None
    lookups: str | None
    init: str | None
    only: tuple[str, ...]
    skip: tuple[str, ...]
    coefficients: str | None
    seed: int | None
    keep_slow: bool


@dataclass(frozen=True)
class Feed:
    """Where data comes from and how it is prepared."""

    calib: str | None
    samples: int
    data: str | None
    preprocessing: tuple[tuple[float, ...] | None, tuple[float, ...] | None]
    seed: int


@dataclass(frozen=True)
class Subject:
    """What to evaluate."""

    target: Path | None
    arch: str | None
    input_shape: tuple[int, ...] | None
    trust_pickle: bool


def require(condition: bool, message: str) -> None:
    """Raise SettingsError(message) unless ``condition`` holds."""
    if not condition:
        raise SettingsError(message)


def check_output(path: Path) -> None:
    """Refuse to replace anything but an artefact.

    Raises:
        SettingsError: something else is at ``path``.
    """
    if path.exists() and not is_artefact(path):
        raise SettingsError(f"{path}: exists and is not an artefact; it will not be replaced, choose another --output")


def settings(
    wish: Wish, config: Path | None, tuning: FinetuneSettings | None, measure: bool, threads: int
) -> tuple[CompressSettings, list[LayerPlan] | None]:
    """Return the settings and, with ``--config``, the decisions of the earlier run.

    Raises:
        SettingsError: an option contradicts the configuration, or it cannot be read.
    """
    if config is not None:
        return _from_config(wish, config, tuning)
    lookups = (
        None if wish.lookups is None else parse_amount("--lookups", wish.lookups, "lookups per position", "the dictionary")
    )
    plan = PlanSettings(wish.dictionary or "0.25", lookups, wish.only, wish.skip, wish.keep_slow)
    chosen = CompressSettings(
        plan, wish.init or "kmeans", wish.seed or 0, wish.coefficients or "float16", measure, threads, tuning
    )
    return chosen, None


def _from_config(wish: Wish, path: Path, tuning: FinetuneSettings | None) -> tuple[CompressSettings, list[LayerPlan]]:
    given = [name for name, value in asdict(wish).items() if value]
    require(not given, f"--config already fixes {', '.join(given)}; leave those options out, or leave out --config")
    values = read_config(path)
    try:
        earlier = values["finetune"]
        finetune = tuning or (FinetuneSettings(**earlier) if earlier else None)
        plans = [LayerPlan(**layer) for layer in values["layers"]]
        return CompressSettings(
            PlanSettings(), values["init"], values["seed"], values["coefficients"], finetune=finetune
        ), plans
    except (KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path}: not a configuration of this version ({error}); use the config.json of an artefact"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json.

    Raises:
        FileError: it cannot be read.
        ArtefactError: it is not a JSON object.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ArtefactError(f"{path}: not JSON ({error}); use the config.json of an artefact") from error
    if not isinstance(values, dict):
        raise ArtefactError(f"{path}: holds a {type(values).__name__}, not an object; use the config.json of an artefact")
    return values


def data(feed: Feed, input_shape: tuple[int, ...]) -> TrainingData:
    """Load calibration and training data.

    Raises:
        DataError, FileError: they cannot be used.
    """
    calibration: list[Any] = []
    if feed.calib is not None:
        examples = _examples(feed.calib, feed, input_shape, feed.samples)
        calibration = [x for x, _ in batches(examples, CALIBRATION_BATCH)]
    training = None if feed.data is None else _examples(feed.data, feed, input_shape, None)
    return TrainingData(calibration, training)


def _examples(spec: str, feed: Feed, input_shape: tuple[int, ...], limit: int | None) -> Examples:
    preprocessing = Preprocessing(*feed.preprocessing)
    return load_examples(spec, input_shape, preprocessing, limit=limit, seed=feed.seed)


@contextmanager
def checkpointing(
    feed: TrainingData, target: Path, chosen: CompressSettings, resume: bool
) -> Iterator[tuple[TrainingData, list[LayerPlan] | None]]:
    """Keep a fine-tuning's checkpoint in ``NAME.lcnn.checkpoint`` until the artefact is written.

    On ``resume`` the layer decisions of the interrupted run are used again, so that nothing is measured anew.

    Raises:
        SettingsError: there is nothing to resume.
    """
    folder = target.with_name(target.name + ".checkpoint")
    plans = None
    if resume:
        require(chosen.finetune is not None, "--resume continues a fine-tuning; add --data and --epochs as in the first run")
        require((folder / "plan.json").is_file(), f"{folder}: no checkpoint to resume; run without --resume")
        plans = [LayerPlan(**values) for values in read_config(folder / "plan.json")["layers"]]
    if chosen.finetune is None:
        yield feed, plans
        return
    folder.mkdir(exist_ok=True)

    def keep(decided: Sequence[LayerPlan]) -> None:
        write_atomically(folder / "plan.json", json.dumps({"layers": [asdict(p) for p in decided]}).encode())

    yield replace(feed, checkpoint=folder / "training.ckpt", resume=resume, on_plan=keep), plans
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def bench(path: Path, chosen: benchmark.BenchSettings, trust_pickle: bool) -> dict[str, Any]:
    """Measure an artefact or an exported file against its dense net.

    Raises:
        FileError, ArtefactError: the artefact or file cannot be used.
    """
    if path.suffix == ".onnx":
        return api.bench(path, None, chosen)
    artefact = api.load(path)
    with tempfile.TemporaryDirectory(prefix="lcnn-") as folder:
        lookup = path / "model.onnx"
        if not lookup.is_file():
            lookup = Path(folder) / "lookup.onnx"
            api.export_onnx(artefact, lookup)
        source = api.find_dense(artefact, path, trust_pickle)
        if source is None:
            return api.bench(lookup, None, chosen)
        dense = Path(folder) / "dense.onnx"
        api.export_dense(source, dense, api.layer_rows(artefact.report))
        return benchmark.compare(dense, lookup, chosen) | {"dense_source": f"original net {source.origin['spec']}"}


def evaluate(subject: Subject, feed: Feed, limit: int | None, progress: Progress) -> dict[str, Any]:
    """Score an artefact (beside its dense net), a model or an ONNX file.

    Raises:
        DataError: the data cannot be used.
    """
    from lcnn_compress.cli.options import find_artefact

    path = subject.target
    if path is None or is_artefact(path):
        path, _ = find_artefact(path)
        artefact = api.load(path)
        examples = _examples(str(feed.data), feed, artefact.input_shape, limit)
        lookup = api.evaluate(artefact.net, examples, progress)
        source = api.find_dense(artefact, path, subject.trust_pickle)
        dense = None if source is None else api.evaluate(source.net, examples, progress).value
        return {"command": "eval", "metric": lookup.metric, "dense": dense, "lookup": lookup.value, "n": lookup.n}
    if path.suffix == ".onnx":
        shape = tuple(s if isinstance(s, int) else 0 for s in runtime.session(path).get_inputs()[0].shape)
        score = api.evaluate(path, _examples(str(feed.data), feed, shape, limit), progress)
        return {"command": "eval", "metric": score.metric, "dense": None, "lookup": score.value, "n": score.n}
    source = api.open_model(str(path), subject.input_shape, arch=subject.arch, trust_pickle=subject.trust_pickle)
    score = api.evaluate(source.net, _examples(str(feed.data), feed, source.input_shape, limit), progress)
    return {"command": "eval", "metric": score.metric, "dense": score.value, "lookup": None, "n": score.n}


def inspect(target: str, arch: str | None, shape: tuple[int, ...] | None, trust_pickle: bool) -> dict[str, Any]:
    """Describe a model, an artefact or an ONNX file.

    Raises:
        LcnnError: it cannot be read.
    """
    path = Path(target)
    if path.is_dir():
        artefact = api.load(path)
        report = artefact.report
        facts = {"artefact": target, "input": list(artefact.input_shape), "model": report.get("model"), **report["totals"]}
        return {"command": "inspect", "notes": [], "facts": facts, "layers": report["layers"]}
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

"""Scores worked out by hand, and outputs and data that cannot be scored."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_cases import TensorExamples

from lcnn_compress.data.arrays import Arrays
from lcnn_compress.data.examples import Preprocessing
from lcnn_compress.data.score import LabelScores, Score, image_scores, onnx_runner, score, torch_runner
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError, ModelError
from lcnn_compress.net.capture import capture
from lcnn_compress.runtime import ORT_ERRORS


def examples(x: Tensor, y: Tensor | None) -> Arrays:
    return Arrays(x, y, Preprocessing())


def same(x: Tensor) -> Tensor:
    return x


def test_classes_are_right_or_wrong() -> None:
    data = examples(torch.eye(4)[[0, 1, 2, 3, 0]], torch.tensor([0, 1, 2, 2, 1]))
    assert image_scores(same, data)[1].tolist() == [100, 100, 100, 0, 0]
    assert score(same, data) == Score("top1_percent", 60.0, 5)


def test_images_are_scored_by_their_mean_squared_error() -> None:
    y = torch.zeros(2, 1, 2, 2)
    x = torch.stack([y[0] + 0.1, y[0] + 0.01])
    metric, values = image_scores(same, examples(x, y))
    assert metric == "psnr_db"
    assert values.tolist() == pytest.approx([20, 40], abs=1e-5)  # -10 log10 of 0.01 and of 0.0001


def test_progress_counts_the_images_of_every_batch() -> None:
    seen: list[tuple[str, int, int]] = []
    data = examples(torch.eye(2).repeat(75, 1), torch.tensor([0, 1]).repeat(75))
    assert score(same, data, lambda *step: seen.append(step)).value == 100
    assert seen == [("evaluating", 100, 150), ("evaluating", 150, 150)]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "the data has no labels or targets; evaluation needs them"),
        (torch.tensor([0, 7]), r"class numbers run from 0 to 7, but the net returns \(2, 3\); it must return \(n, classes\)"),
        (torch.zeros(2, 4), r"targets are \(2, 4\), but the net's output is \(2, 3\); they must be equal"),
    ],
)
def test_data_that_does_not_fit_the_outputs(y: Tensor | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(same, examples(torch.zeros(2, 3), y))


def test_outputs_that_are_not_numbers_are_named_by_their_images() -> None:
    x = torch.zeros(150, 2)
    x[120] = torch.nan
    with pytest.raises(ModelError, match="the net's output for images 100 to 149 holds NaN"):
        score(same, examples(x, torch.zeros(150, dtype=torch.int64)))


def test_torch_runs_a_net_in_evaluation_mode() -> None:
    net = capture(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), torch.zeros(1, 4)).train()
    run = torch_runner(net)
    assert torch.equal(run(torch.ones(3, 4)), run(torch.ones(3, 4)))


@dataclass
class Session:
    """As a session of ONNX Runtime whose file takes ``batch`` images; it adds 1."""

    batch: int | str
    sizes: list[int] = field(default_factory=list)
    name: str = "input"

    @property
    def shape(self) -> list[int | str]:
        return [self.batch, 2]

    def get_inputs(self) -> list[Session]:
        return [self]

    def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.sizes.append(len(given["input"]))
        return [given["input"] + 1]


@pytest.mark.parametrize(("batch", "sizes"), [("batch", [5]), (2, [2, 2, 2]), (1, [1] * 5)])
def test_a_file_gets_batches_of_the_size_it_allows(batch: int | str, sizes: list[int]) -> None:
    session = Session(batch)
    assert torch.equal(onnx_runner(session)(torch.zeros(5, 2)), torch.ones(5, 2))
    assert session.sizes == sizes


def test_a_file_that_does_not_run_on_the_images() -> None:
    class Refusing(Session):
        def run(self, _: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:  # noqa: ARG002
            raise ORT_ERRORS[-1]("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got 2 expected 3")

    with pytest.raises(DataError, match=r"the file does not run on images of \(5, 2\): Got 2 expected 3; see what it takes"):
        onnx_runner(Refusing("batch"))(torch.zeros(5, 2))


def test_labels_told_right() -> None:
    y = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    logits = torch.tensor([[2.0, -1.0, 3.0, 0.5], [-1.0, 0.0, 0.1, -0.1]])  # three of four right, twice
    examples = TensorExamples(torch.zeros(2, 1), y)
    metric, values = image_scores(lambda _: logits, examples, task=Task.LABELS)
    assert (metric, values.tolist()) == ("labels_percent", [75.0, 75.0])
    # The third label ranks the image without it first: precision is 1 / 2 where the one with it is found.
    each = LabelScores((1, 0, 1, 2), (100.0, 100.0, 50.0, 50.0), (1.0, None, 0.5, 1.0), 2.5 / 3)
    assert score(lambda _: logits, examples, task=Task.LABELS) == Score("labels_percent", 75.0, 2, labels=each)
    assert score(lambda _: logits, examples).labels is None
    assert score(lambda _: logits, examples).metric == "psnr_db"  # floats are targets unless it is stated
    with pytest.raises(DataError, match=r"labels are \(2, 4\), but the net returns \(2, 3\)"):
        score(lambda _: logits[:, :3], examples, task=Task.LABELS)


def test_no_image_with_any_label_leaves_no_mean_and_outputs_of_a_sigmoid_are_doubted() -> None:
    examples = TensorExamples(torch.zeros(30, 1), torch.zeros(30, 2))
    found = score(lambda x: torch.full((len(x), 2), 0.25), examples, task=Task.LABELS)
    assert found.labels == LabelScores((0, 0), (0.0, 0.0), (None, None), None)
    assert [note for note in found.notes if "leave out the last sigmoid" in note]
    assert not [
        note for note in score(lambda x: torch.full((len(x), 2), -1.0), examples, task=Task.LABELS).notes if "sig" in note
    ]


FOUR = torch.eye(4).repeat(10, 1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            FOUR,
            torch.tensor([1, 2, 3, 2]).repeat(10),
            "class numbers run from 1 to 3, but the net tells the classes 0 to 3 apart",
        ),
        (
            FOUR,
            torch.tensor([1, 0]).repeat(20),
            "class numbers run from 0 to 1, but the net tells the classes 0 to 3 apart; see",
        ),
        (FOUR[[0] * 20], torch.tensor([0, 3]).repeat(10), "all 20 images are the same; see that the data is"),
        (FOUR[:4], torch.ones(4, 4), "y holds only 0 and 1 and is scored as targets"),
        (FOUR, torch.arange(4).repeat(10), None),
        (FOUR[:2], torch.tensor([0, 1]), None),  # few images prove nothing
        (FOUR[:, :1], torch.ones(40, 1), None),
    ],
)
def test_data_that_seems_not_to_be_what_was_meant(x: Tensor, y: Tensor, message: str | None) -> None:
    notes = score(same, examples(x, y)).notes
    assert [note.startswith(message or "") for note in notes] == [True] * (message is not None)


def test_outputs_that_are_no_tensor() -> None:
    with pytest.raises(ModelError, match="the net returns a dict; it must return a tensor to be scored"):
        score(lambda x: {"out": x}, examples(torch.eye(2), torch.arange(2)))  # type: ignore[arg-type, return-value]

"""The folder that keeps a fine-tuning until its artefact is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcnn_compress.compression.checkpoint_folder import CheckpointFolder
from lcnn_compress.compression.settings import LayerPlan, TrainingData
from lcnn_compress.errors import ArtefactError, SettingsError

PLANS = [LayerPlan("0", "dense", "tiny"), LayerPlan("1", "lookup", "", 8, 2)]


def interrupted(checkpoint: CheckpointFolder, *, trained: bool) -> None:
    """Decide, perhaps train for a while, and be interrupted."""
    with checkpoint.keeping(TrainingData(), resume=False) as data:
        assert data.on_plan is not None
        data.on_plan(PLANS)
        if trained:
            assert data.checkpoint is not None
            data.checkpoint.write_bytes(b"state")
        raise KeyboardInterrupt


def test_it_is_gone_when_all_went_well(tmp_path: Path) -> None:
    checkpoint = CheckpointFolder(tmp_path / "net.lcnn")
    with checkpoint.keeping(TrainingData(), resume=False) as data:
        assert data.on_plan is not None
        data.on_plan(PLANS)
        checkpoint.training.write_bytes(b"state")
        assert checkpoint.exists
        checkpoint.last_part.write_bytes(b"state")
        checkpoint.training.unlink()  # where all is in 8 bits, there is no other part
        assert checkpoint.exists
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_is_kept_and_gives_its_decisions_back(tmp_path: Path) -> None:
    checkpoint = CheckpointFolder(tmp_path / "net.lcnn")
    with pytest.raises(KeyboardInterrupt, match=r"net\.lcnn\.checkpoint keeps the work; the same command with `resume`"):
        interrupted(checkpoint, trained=True)
    assert checkpoint.earlier_plans(trains=True, resume=True) == PLANS
    with pytest.raises(SettingsError, match="holds an interrupted fine-tuning; add `resume` to continue it, or delete"):
        checkpoint.earlier_plans(trains=True, resume=False)
    assert checkpoint.earlier_plans(trains=False, resume=False) is None


def test_an_interrupt_before_the_first_step_leaves_only_files_of_others(tmp_path: Path) -> None:
    checkpoint = CheckpointFolder(tmp_path / "net.lcnn")
    with pytest.raises(KeyboardInterrupt) as stopped:
        interrupted(checkpoint, trained=False)
    assert stopped.value.args == ()
    assert list(tmp_path.iterdir()) == []
    checkpoint.folder.mkdir()
    (checkpoint.folder / "mine.txt").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        interrupted(checkpoint, trained=False)
    assert [p.name for p in checkpoint.folder.iterdir()] == ["mine.txt"]


def test_nothing_to_resume(tmp_path: Path) -> None:
    checkpoint = CheckpointFolder(tmp_path / "net.lcnn")
    with pytest.raises(SettingsError, match="no checkpoint to resume; run without `resume`"):
        checkpoint.earlier_plans(trains=True, resume=True)
    with pytest.raises(SettingsError, match="`resume` continues a fine-tuning; add `data` and `epochs`"):
        checkpoint.earlier_plans(trains=False, resume=True)
    checkpoint.folder.mkdir()
    checkpoint.training.write_bytes(b"state")
    checkpoint.plan.write_text('{"layers": [{"name": "0"}]}')
    with pytest.raises(ArtefactError, match=r"plan\.json: damaged \(.*; delete .* and run without `resume`"):
        checkpoint.earlier_plans(trains=True, resume=True)


@pytest.mark.parametrize(
    "plan",
    [
        '{"layers": [{"name": "0", "kind": "dense", "reason": "", "dictionary_size": true}]}',
        '{"layers": ["ab"]}',
        '{"layers": 3}',
    ],
)
def test_a_plan_of_anything_is_refused(plan: str, tmp_path: Path) -> None:
    checkpoint = CheckpointFolder(tmp_path / "net.lcnn")
    checkpoint.folder.mkdir()
    checkpoint.training.write_bytes(b"state")
    checkpoint.plan.write_text(plan)
    with pytest.raises(ArtefactError, match=r"plan\.json: damaged \(.*; delete .* and run without `resume`"):
        checkpoint.earlier_plans(trains=True, resume=True)

"""Tables of labels: what is read, what is left out, and everything that is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from attributes import NAMES, all_labels, write_table

from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.data.label_table import label_names, read_table, require_images
from lcnn_compress.data.load_data import image_size, load_parts
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.data.tasks import Task
from lcnn_compress.errors import DataError, FileError, SettingsError

SHAPE = (1, 3, 8, 8)


def test_a_table_gives_images_and_their_labels(tmp_path: Path) -> None:
    path = write_table(tmp_path, all_labels())
    table = read_table(path)
    assert (table.names, label_names(path), table.missing, table.note(path)) == (NAMES, NAMES, [], None)
    assert table.labels.tolist() == all_labels().tolist()
    examples = load_examples(str(path), SHAPE, task=Task.LABELS)
    x, y = examples.batch(torch.tensor([6, 1]))
    assert x.shape == (2, 3, 8, 8)
    assert y is not None
    assert y.tolist() == [[1, 1, 0], [0, 0, 1]]
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([230, 230, 25]) / 255)
    assert len(load_examples(str(path), SHAPE, limit=3, task=Task.LABELS)) == 3
    assert image_size(DataSettings(data=str(path))) == (8, 8)


def test_it_must_be_said_that_labels_are_several_but_for_calibration(tmp_path: Path) -> None:
    path = str(write_table(tmp_path, all_labels()))
    for task in (None, Task.CLASSES):
        with pytest.raises(DataError, match=r"table\.csv: is a table of several labels .* say so with `task` multilabel"):
            load_examples(path, SHAPE, task=task)
    parts = load_parts(DataSettings(calib=path, samples=5, data=path, task=Task.LABELS), SHAPE)
    assert [len(x) for x in parts.calibration] == [5]
    assert parts.examples is not None
    assert len(parts.examples) == 8


def test_images_that_are_not_there_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_table(tmp_path, all_labels())
    for number in (2, 5):
        (tmp_path / "images" / f"{number}.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(load_examples(str(path), SHAPE, task=Task.LABELS)) == 6
    said = f"{path}: 2 of 8 images are not there and are left out, the first is {tmp_path}/images/2.png"
    assert caplog.messages == [said]
    with pytest.raises(DataError, match=r"2 of 8 images are not there, the first is .*2\.png; add them, remove their lines"):
        load_parts(DataSettings(data=str(path), task=Task.LABELS, strict=True), SHAPE)
    with pytest.raises(SettingsError, match=r"`strict` is for tables of labels \(\.csv\), and the data is x\.npz"):
        require_images("x.npz")
    for image in (tmp_path / "images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"none of its 8 images is there, such as .*0\.png; paths in it are relative"):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line names no labels"), ("image\na.png\n", "its first line names no labels"),
        ("a.png,0,1\n", "its first line names no labels"), ("image,a,\n", "its first line names no labels"),
        ("image,a,a\n", "'a' names two labels"), ("image,a,b\n", "holds no images"),
        ("image,a,b\nx.png,1\n", "line 2 has 2 columns, and the first line 3"),
        ("image,a,b\n\nx.png,1,-1\n", "line 3: 'b' is '-1'; each label must be 0 or 1; write 0 for -1"),
        ("image,a\nx.png,0.5\n", "line 2: 'a' is '0.5'; each label must be 0 or 1$"),
        ("image,a\nx.png,\n", "line 2: 'a' is ''; each label"), ("image,a\nx.png,nan\n", "line 2: 'a' is 'nan'; each label"),
        ('image,a\n"x.png,1\n', "is no table of comma-separated text"), ("image,a\nx.png,yes\n", "'a' is 'yes'; each label"),
    ],
)  # fmt: skip
def test_other_tables_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "table.csv")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"gone\.csv: cannot be read: No such file"):
        read_table(tmp_path / "gone.csv")
    (tmp_path / "table.csv").write_bytes(b"image,\xff\xfe\n")
    with pytest.raises(DataError, match="is no table of comma-separated text in UTF-8"):
        label_names(tmp_path / "table.csv")


def test_spaces_a_byte_order_mark_and_other_numbers_are_taken(tmp_path: Path) -> None:
    write_table(tmp_path, all_labels())
    (tmp_path / "table.csv").write_text("image, a ,b\r\n images/0.png , 1.0,0\r\n,,\r\n", "utf-8-sig")
    table = read_table(tmp_path / "table.csv")
    assert (table.names, table.labels.tolist(), table.paths) == (("a", "b"), [[1, 0]], [tmp_path / "images/0.png"])

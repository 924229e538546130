"""Idx files of images and labels: what is read, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import bytes_of, everything

from lcnn_compress.data.data_settings import DataSettings
from lcnn_compress.data.idx import idx_shape, is_idx, read_idx
from lcnn_compress.data.load_data import image_size
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.errors import DataError

IMAGES, LABELS = bytes_of(5, 6, 4), np.array([2, 0, 1, 2, 2], np.uint8)


def written(path: Path, array: np.ndarray) -> Path:
    content = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("labels", ["train-labels-idx1-ubyte", "train-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize("images", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_images_are_read_with_the_labels_beside_them(tmp_path: Path, images: str, labels: str) -> None:
    path = written(tmp_path / images, IMAGES)
    written(tmp_path / labels, LABELS)
    examples = load_examples(str(path), (1, 1, 6, 4))
    x, y = everything(examples)
    assert torch.equal(x, torch.from_numpy(IMAGES)[:, None].float() / 255)
    assert y is not None
    assert y.tolist() == LABELS.tolist()
    assert idx_shape(path) == (5, 1, 6, 4)
    assert image_size(DataSettings(data=str(path))) == (6, 4)


def test_images_without_labels(tmp_path: Path) -> None:
    path = written(tmp_path / "t10k-images.idx3-ubyte", IMAGES)
    assert read_idx(path)[1] is None
    written(tmp_path / "t10k-labels.idx1-ubyte", LABELS)
    assert read_idx(path)[1] is not None


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, compress: type[bytes]) -> None:
    path = written(tmp_path / "train-images-idx3-ubyte", IMAGES)
    path.write_bytes(compress(path.read_bytes()[:-1]))
    assert is_idx(path)
    with pytest.raises(DataError, match="damaged"):
        read_idx(path)


def test_the_file_of_labels_is_not_one_of_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name the file of the images"):
        read_idx(written(tmp_path / "train-labels-idx1-ubyte", LABELS))


def test_labels_of_other_images_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "train-images-idx3-ubyte", IMAGES)
    written(tmp_path / "train-labels-idx1-ubyte", LABELS[:4])
    with pytest.raises(DataError, match="5 examples and y has shape"):
        load_examples(str(path), (1, 1, 6, 4))


def test_a_folder_of_idx_files_is_refused_by_what_to_name(tmp_path: Path) -> None:
    path = written(tmp_path / "train-images-idx3-ubyte.gz", IMAGES)
    with pytest.raises(DataError, match=f"such as {path}"):
        load_examples(str(tmp_path), (1, 1, 6, 4))


def test_other_files_are_no_idx_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    np.save(tmp_path / "x.npy", IMAGES)
    assert not any(map(is_idx, (tmp_path / "notes.txt", tmp_path / "x.npy", tmp_path / "missing", tmp_path)))

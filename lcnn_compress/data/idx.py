"""Files of the MNIST family: an idx file of images, plain or compressed with gzip, and that of their labels beside it."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcnn_compress.errors import DataError, FileError

GZIP, BYTES = b"\x1f\x8b", b"\0\0\x08"  # first bytes of a compressed file, and of an idx file of unsigned bytes
MAX_AXES = 4


def is_idx(path: Path) -> bool:
    """Tell by its first bytes whether a file is an idx file of bytes; one that cannot be read is none."""
    try:
        return _head(path)[:3] == BYTES
    except (OSError, EOFError, zlib.error):
        return False


def idx_shape(path: Path) -> tuple[int, ...]:
    """Return the shape that an idx file states, with an axis of one channel after the first, without reading its values.

    Raises:
        OSError, EOFError, zlib.error, ValueError: it cannot be read, or is no idx file of images.
    """
    n, *plane = _stated(_head(path))
    return (n, 1, *plane)


def read_idx(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return images, (n, 1, H, W), and the labels (n,) that lie beside them; None where there are none.

    Labels of ``train-images-idx3-ubyte.gz`` are sought in ``train-labels-idx1-ubyte.gz``, with the same ending or without it.

    Raises:
        FileError: a file cannot be read.
        DataError: a file is damaged, or holds no images.
    """
    images = _values(path)
    if images.ndim != 3:
        raise DataError(f"{path}: holds {images.ndim} axes, not images (n, height, width); name the file of the images")
    labels = next(filter(Path.is_file, _label_files(path)), None)
    return images[:, None], None if labels is None else _values(labels)


def _label_files(path: Path) -> list[Path]:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    names = dict.fromkeys((name, name.removesuffix(".gz"), f"{name}.gz"))
    return [path.with_name(other) for other in names if other != path.name]


def _head(path: Path) -> bytes:
    size = len(BYTES) + 1 + 4 * MAX_AXES
    with path.open("rb") as file:
        head = file.read(size)
    if head[:2] != GZIP:
        return head
    with gzip.open(path) as file:
        return file.read(size)


def _stated(content: bytes) -> tuple[int, ...]:
    """Return the shape at the start of a file; raises ValueError where there is none."""
    if content[:3] != BYTES or not 1 <= content[3] <= MAX_AXES or len(content) < 4 + 4 * content[3]:
        raise ValueError("it does not start like an idx file of unsigned bytes")
    return struct.unpack_from(f">{content[3]}I", content, 4)


def _values(path: Path) -> NDArray[np.uint8]:
    try:
        content = path.read_bytes()
        if content[:2] == GZIP:
            content = gzip.decompress(content)
        shape = _stated(content)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is damaged or is no idx file of bytes ({error}); fetch it anew") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from error

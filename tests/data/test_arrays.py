"""NumPy files and what functions return: brought to one form, and every defect of the data is named."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import NET, bytes_of, everything, saved

from lcnn_compress.data.examples import Preprocessing
from lcnn_compress.data.load_examples import load_examples
from lcnn_compress.errors import DataError


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">i4", "?"])
def test_bytes_are_scaled_and_class_numbers_of_any_width_become_int64(kind: str, tmp_path: Path) -> None:
    x = bytes_of(3, 3, 4, 4)
    got, labels = everything(load_examples(saved(tmp_path, x=x, y=np.array([1, 0, 1], kind)), NET))
    assert got.dtype == torch.float32
    assert torch.equal(got, torch.from_numpy(x).float() / 255)
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_floats_are_taken_as_they_are(kind: str, tmp_path: Path) -> None:
    x = np.array([-2, 0.5, 300], kind).reshape(3, 1)
    got, targets = everything(load_examples(saved(tmp_path, x=x, y=x[:, ::-1]), (1, 1)))
    assert got.tolist() == [[-2.0], [0.5], [300.0]]
    assert targets is not None
    assert targets.dtype == got.dtype == torch.float32
    assert targets.tolist() == got.tolist()


def test_npy_and_npz_are_told_apart_by_content(tmp_path: Path) -> None:
    x = bytes_of(2, 3, 4, 4)
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, x)
    with (tmp_path / "b.npy").open("wb") as file:
        np.savez(file, x=x)
    for name in ("a.npz", "b.npy"):
        got, labels = everything(load_examples(str(tmp_path / name), NET))
        assert torch.equal(got, torch.from_numpy(x).float() / 255)
        assert labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": np.zeros(3), "y": np.zeros(3)},
            "holds images, y, but no array x; write it with numpy.savez(file, x=images",
        ),
        ({}, "holds nothing, but no array x"),
        ({"x": np.zeros((0, 3, 4, 4))}, "holds no examples; give at least one"),
        (
            {"x": np.zeros((2, 1, 4, 4))},
            "x has shape (2, 1, 4, 4), but the net takes (1, 3, 4, 4); only the first number may differ",
        ),
        ({"x": np.zeros((2, 3, 4, 5))}, "x has shape (2, 3, 4, 5), but the net takes (1, 3, 4, 4)"),
        ({"x": np.zeros((2, 48))}, "x has shape (2, 48), but the net takes (1, 3, 4, 4)"),
        ({"x": np.zeros((2, 4, 4, 3))}, "its channels come last, give x.transpose(0, 3, 1, 2)"),
        ({"x": np.float32(1)}, "x has shape (), but the net takes (1, 3, 4, 4)"),
        ({"x": np.zeros((2, 3, 4, 4), np.int32)}, "x is int32; give uint8 (divided by 255 here) or floats"),
        ({"x": np.zeros((2, 3, 4, 4), np.complex64)}, "x is of type complex64; give integers or floats"),
        ({"x": np.full((2, 3, 4, 4), "a")}, "x is of type <U1; give integers or floats"),
        ({"x": np.full((2, 3, 4, 4), np.nan)}, "x holds 96 values of 96 that are NaN or infinite; remove those examples"),
        ({"x": np.full((2, 3, 4, 4), 1e300)}, "x holds 96 values of 96 that are NaN or infinite"),
        ({"x": np.zeros((2, 3, 4, 4)), "y": np.zeros(3, int)}, "x has 2 examples and y has shape (3,); give one y for each x"),
        ({"x": np.zeros((2, 3, 4, 4)), "y": np.int64(3)}, "x has 2 examples and y has shape (); give one y for each x"),
        (
            {"x": np.zeros((2, 3, 4, 4)), "y": np.zeros((2, 5), int)},
            "y has shape (2, 5); give class numbers of shape (2,), or float targets, or one-hot rows",
        ),
        ({"x": np.zeros((2, 3, 4, 4)), "y": np.array([0, -3])}, "y holds the class number -3; class numbers start at 0"),
        ({"x": np.zeros((2, 3, 4, 4)), "y": np.array(["cat", "dog"])}, "y is of type <U3; give integers or floats"),
        (
            {"x": np.full((2, 3, 4, 4), 200.0)},
            "x holds floats from 200 to 200, but nothing says that the net takes such values",
        ),
        ({"x": np.zeros((2, 3, 4, 4)), "y": np.array([0, np.inf])}, "y holds 1 values of 2 that are NaN or infinite"),
        ({"x": np.array([None, {}])}, "is damaged or is no NumPy file of numbers (Object arrays cannot be loaded"),
    ],
)
def test_defects_of_arrays_are_named(arrays: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_examples(saved(tmp_path, **arrays), NET)
    assert str(caught.value).startswith(f"{tmp_path}/data.npz: ")
    assert message in str(caught.value)


def test_grey_images_without_an_axis_of_channels_are_refused_with_the_way_to_give_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it has no axis of channels, give x\[:, None\]"):
        load_examples(saved(tmp_path, x=bytes_of(2, 4, 4)), (1, 1, 4, 4))


def test_an_entry_of_zero_takes_any_size(tmp_path: Path) -> None:
    spec = saved(tmp_path, x=bytes_of(2, 3, 7, 5))
    assert len(load_examples(spec, (1, 3, 0, 0))) == 2
    with pytest.raises(DataError, match=r"\(2, 3, 7, 5\), but the net takes \(1, 3, 0, 4\)"):
        load_examples(spec, (1, 3, 0, 4))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"hello"),
        lambda path: path.write_bytes(b"\x93NUMPY\x01\0"),
        lambda path: zipfile.ZipFile(path, "w").writestr("x.npy", b"hello"),
    ],
    ids=["flipped", "cut", "empty", "text", "header", "member"],
)
def test_damaged_files_are_refused(damage: Callable[[Path], object], tmp_path: Path) -> None:
    path = Path(saved(tmp_path, x=bytes_of(20, 3, 4, 4)))
    damage(path)
    with pytest.raises(DataError, match=r"data\.npz: (is damaged or is no NumPy file of numbers \(|x is of type)"):
        load_examples(str(path), NET)


SOURCE = """
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

x = torch.arange(6 * 48, dtype=torch.uint8).view(6, 3, 4, 4)
y = torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.int32)

def arrays(): return x.numpy(), y.numpy()
def tensors(): return x.requires_grad_(False), y
def alone(): return x
def dataset(): return TensorDataset(x, y)
def loader(): return DataLoader(TensorDataset(x, y), batch_size=4)
def generator(): return ((x[i:i + 2], y[i:i + 2]) for i in range(0, 6, 2))
def single(): return ((x[i], int(y[i])) for i in range(6))
def batches_alone(): return [x[:4], x[4:]]

class Items(Dataset):
    def __len__(self): return 6
    def __getitem__(self, i): return x[i].float() / 255, int(y[i])
class Stream(IterableDataset):
    def __iter__(self): return iter(Items())
def items(): return Items()
def stream(): return ((x[i], y[i]) for i in range(6))

class OneHot(Items):
    def __getitem__(self, i): return x[i], torch.eye(3)[i % 3]
class OftenOneHot(Items):
    def __len__(self): return 100
    def __getitem__(self, i): return x[0], torch.eye(3)[i % 3] if i < 90 else torch.ones(3)
class SeldomOneHot(OftenOneHot):
    def __getitem__(self, i): return x[0], torch.eye(3)[i % 3] if i % 2 else torch.ones(3)
def one_hot(): return OneHot()
def often(): return OftenOneHot()
def seldom(): return SeldomOneHot()
class Broken(Items):
    def __getitem__(self, i): raise KeyError("image 7")
def broken(): return Broken()
def raises(): raise ValueError("no data here")
def breaks_off():
    yield x
    raise ValueError("cable pulled")
def number(): return 3
def empty(): return []
def text(): return ["a", "b"]
def no_items(): return TensorDataset(x[:0], y[:0])
def mixed(): return [(x[:2], y[:2]), x[2:]]
def shapes(): return [x, x[:, :, :2]]
def nan(): return [x.float() / 255, x.float() * float("nan")]
def text_labels(): return [(x[0], "cat"), (x[1], "dog")]
def image_items(): return [(np, 1)]
def half(): return x.half() / 255, y.double()
value = 3
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "my_data.py").write_text(SOURCE)
    return f"{tmp_path}/my_data.py"


@pytest.mark.parametrize(
    "name", ["arrays", "tensors", "alone", "dataset", "loader", "generator", "single", "batches_alone", "items", "stream"]
)
def test_what_a_function_returns_is_read(name: str, source: str) -> None:
    examples = load_examples(f"{source}:{name}", NET, Preprocessing((0.0,), (2.0,)))
    assert len(examples) == 6
    x, y = examples.batch(torch.tensor([5, 0]))
    want = (torch.arange(6 * 48) % 256).view(6, 3, 4, 4)[[5, 0]].float() / 255 / 2
    torch.testing.assert_close(x, want, rtol=0, atol=1e-7)  # one rounding of a number below 1
    assert (y is None) == ("alone" in name)
    if y is not None:
        assert (y.dtype, y.tolist()) == (torch.int64, [2, 0])


def test_half_inputs_and_double_targets_become_float32(source: str) -> None:
    x, y = everything(load_examples(f"{source}:half", NET, limit=2))
    assert y is not None
    assert x.dtype == y.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing_there", "my_data.py has no 'nothing_there'; it holds "),
        ("value", "value: is of type int, not a function"),
        ("raises", "raises: it raised ValueError: no data here"),
        ("breaks_off", "breaks_off: it raised ValueError: cable pulled"),
        ("number", "number: returned an object of type int; return x, (x, y), a torch Dataset with a length, or an iterable"),
        ("empty", "empty: returned nothing; return x"),
        ("no_items", "no_items: holds no examples"),
        ("text", "text: item 0 is of type str; give tensors x or (x, y), for images with a ToTensor transform"),
        ("image_items", "image_items: item 0 is of type module; give tensors"),
        ("mixed", "mixed: its items differ (uint8 (3, 4, 4) with y, uint8 (3, 4, 4) without y); give all of them one type"),
        ("shapes", "shapes: item 1: x has shape (6, 3, 2, 4), but the net takes (1, 3, 4, 4)"),
        ("nan", "nan: item 1: x holds 288 values of 288 that are NaN or infinite"),
        ("text_labels", "text_labels: item 0: y is of type str; give a class number, or a tensor of targets"),
    ],
)
def test_functions_that_fail(name: str, message: str, source: str) -> None:
    with pytest.raises(DataError) as caught:
        load_examples(f"{source}:{name}", NET)
    assert message in str(caught.value)


def test_items_that_fail_are_named_when_they_are_asked_for(source: str) -> None:
    examples = load_examples(f"{source}:broken", NET)
    with pytest.raises(DataError, match=r"broken: an item of \[2, 4\] raised KeyError: 'image 7'"):
        examples.batch(torch.tensor([2, 4]))


def test_the_first_items_of_a_dataset_tell_whether_its_labels_are_one_hot(source: str) -> None:
    y = load_examples(f"{source}:one_hot", NET).batch(torch.tensor([2]))[1]
    assert y is not None
    assert (y.dtype, y.tolist()) == (torch.bool, [[False, False, True]])
    seldom = load_examples(f"{source}:seldom", NET).batch(torch.tensor([1]))[1]  # it looks one-hot alone
    assert seldom is not None
    assert seldom.dtype == torch.float32
    often = load_examples(f"{source}:often", NET)
    with pytest.raises(DataError, match="often: some rows of y are one-hot and some are not"):
        often.batch(torch.tensor([1, 95]))

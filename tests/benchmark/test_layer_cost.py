"""Times of lookup convolutions: measured once, kept by shape and machine, and never a reason to fail."""

from __future__ import annotations

import json
import logging
import os
import pwd
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import needs_library

from lcnn_compress.benchmark.layer_cost import MAX_FILE_BYTES, default_cache, measure_forms, time_forms
from lcnn_compress.benchmark.layer_forms import ORDINARY, Form, LookupForm, NarrowForm, Rounding, Shape
from lcnn_compress.operators.geometry import ConvGeometry

SHAPE = Shape(8, 6, ConvGeometry((3, 3), padding=(1, 1, 1, 1)), (7, 5))
FORMS: list[Form] = [LookupForm(4, 30), LookupForm(0, 100), LookupForm(2, 108)]


def three_halves(shape: Shape, forms: Sequence[Form], threads: int) -> dict[Form, float]:
    """A measurement by which every form takes 1.5 ms."""
    del shape, threads
    return dict.fromkeys(forms, 1.5)


@needs_library
def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    first = time_forms({SHAPE: [ORDINARY, *FORMS]}, cache=tmp_path)
    assert all(ms > 0 for ms in first[SHAPE].values())
    asked: list[list[Form]] = []

    def fake(shape: Shape, forms: Sequence[Form], threads: int) -> dict[Form, float]:
        asked.append([*forms])
        return three_halves(shape, forms, threads) | {ORDINARY: 3.0}

    assert time_forms({SHAPE: FORMS[:2]}, cache=tmp_path, measure=fake) == {
        SHAPE: {form: first[SHAPE][form] for form in FORMS[:2]}
    }
    assert asked == []
    more = time_forms({SHAPE: [ORDINARY, FORMS[0], LookupForm(1, 5)]}, cache=tmp_path, measure=fake)[SHAPE]
    assert asked == [[ORDINARY, LookupForm(1, 5)]]
    # Half as long as the ordinary convolution, whatever the machine's speed was before and is now.
    dense_ms = first[SHAPE][ORDINARY]
    assert more == {ORDINARY: dense_ms, FORMS[0]: first[SHAPE][FORMS[0]], LookupForm(1, 5): pytest.approx(dense_ms / 2)}
    time_forms({SHAPE: FORMS[:1]}, threads=2, cache=tmp_path, measure=fake)  # another number of threads is another machine
    assert asked[1:] == [FORMS[:1]]
    assert len(list(tmp_path.glob("layer-times-*.json"))) == 2
    other = Shape(8, 6, ConvGeometry((3, 3), padding=(1, 1, 1, 1)), (7, 6))
    time_forms({other: FORMS[:1]}, cache=tmp_path, measure=fake)
    assert asked[2:] == [FORMS[:1]]


@needs_library
def test_narrow_forms_are_timed_and_kept_like_others(tmp_path: Path) -> None:
    kinds = ("int8", "bfloat16")
    forms: list[Form] = [*(NarrowForm(kind, rows) for kind in kinds for rows in (0, 2)), *map(Rounding, kinds), ORDINARY]
    first = time_forms({SHAPE: forms}, cache=tmp_path)[SHAPE]
    assert set(first) == set(forms)
    assert time_forms({SHAPE: forms}, cache=tmp_path, measure=three_halves)[SHAPE] == first


def held(times: object) -> str:
    return json.dumps({"times": times})


def one_time(ms: object, form: str = FORMS[0].key) -> str:
    """A file of times with a single one, of our shape."""
    return held({SHAPE.key: {form: ms}})


DAMAGED = {
    "": "Expecting value", "{": "Expecting property name", "[]": "holds no times", '{"times": 3}': "holds no times",
    "[" * 200_000: "nested deeper than 100 levels", '{"times":' * 200_000: "nested deeper than 100 levels",
    held({"a": 3}): "the times of 'a' are 3", held({"a": [1.5]}): "the times of 'a' are [1.5]",
    one_time(1.5, "b"): "'b' is no form", one_time(1.5, "1 2"): "'1 2' is no form", one_time(1.5, "1 2 3 4"): "is no form",
    one_time(1.5, "1 2 -3"): "is no form", one_time(1.5, "1 2 .5"): "is no form", one_time(1.5, f"{10**400} 1 1"): "no form",
    one_time(1.5, "int8"): "no form", one_time(1.5, "int8 -1"): "no form", one_time(1.5, "int4 1"): "no form",
    one_time("1.5"): "a time of '1.5' ms", one_time(None): "a time of None ms", one_time(True): "a time of True ms",
    one_time(float("nan")): "it holds NaN", one_time(float("inf")): "it holds Infinity", one_time(-1.5): "a time of -1.5 ms",
    one_time(0): "a time of 0 ms", one_time(1e-300): "a time of 1e-300 ms", one_time(1e300): "a time of 1e+300 ms",
    one_time(10**400): "needs more than 64 bits",
    held({SHAPE.key: {FORMS[0].key: 2.5}, "other": {"1 1 1": -1}}): "a time of -1 ms",
    held({str(i): {f"{j} 1 1": 1.2345678901234 for j in range(30)} for i in range(9000)}): "larger than 4194304 bytes",
}  # fmt: skip


@needs_library
@pytest.mark.parametrize("content", [pytest.param(text, id=text[:60]) for text in DAMAGED])
def test_a_damaged_cache_is_replaced(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of it is believed: whoever damaged one time may have damaged others."""
    time_forms({SHAPE: FORMS}, cache=tmp_path, measure=three_halves)
    (path,) = tmp_path.glob("layer-times-*.json")
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert set(time_forms({SHAPE: FORMS}, cache=tmp_path, measure=three_halves)[SHAPE].values()) == {1.5}
    (line,) = caplog.messages
    assert line.startswith(f"{path}: cannot be used (")
    assert DAMAGED[content] in line
    assert line.endswith("); layers are timed anew")
    assert len(line) < 300
    assert json.loads(path.read_text())["times"] == {SHAPE.key: {form.key: 1.5 for form in FORMS}}


@needs_library
def test_what_cannot_be_timed_counts_as_the_least_that_can() -> None:
    assert min(measure_forms(Shape(1, 1, ConvGeometry((1, 1)), (1, 1)), [ORDINARY, LookupForm(1, 1)], 1).values()) >= 1e-3


PLACES = {
    "below a file": "file/below", "a long name": "n" * 300, "a long path": "n/" * 3000, "links in a circle": "circle",
    "a link to nowhere": "nowhere", "a system folder": "/proc/lcnn",
}  # fmt: skip


@needs_library
@pytest.mark.parametrize("name", PLACES)
def test_a_folder_that_cannot_be_used_only_costs_the_cache(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing" / "below")
    with caplog.at_level(logging.WARNING):
        times = time_forms({SHAPE: FORMS}, cache=tmp_path / PLACES[name], measure=three_halves)
    assert times[SHAPE][FORMS[0]] == 1.5
    (line,) = caplog.messages
    assert line.startswith("layer times are not kept: ")


@needs_library
@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read and write everything")
@pytest.mark.parametrize("mode", [0o000, 0o100, 0o500])
def test_a_folder_without_permissions_only_costs_the_cache(mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=mode)
    with caplog.at_level(logging.WARNING):
        assert time_forms({SHAPE: FORMS}, cache=folder, measure=three_halves)[SHAPE][FORMS[0]] == 1.5
    assert [line[:26] for line in caplog.messages] == ["layer times are not kept: "]


@needs_library
@pytest.mark.parametrize("chosen", ["", "relative"])
def test_without_a_home_nothing_is_kept(
    chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", chosen)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert default_cache() is None
    with caplog.at_level(logging.WARNING):
        assert time_forms({SHAPE: FORMS}, measure=three_halves)[SHAPE][FORMS[0]] == 1.5
    assert caplog.messages == [
        "layer times are not kept: the home folder is not known; set XDG_CACHE_HOME to a folder for them"
    ]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "lcnn"


@needs_library
def test_the_oldest_times_make_room_for_new_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    time_forms({SHAPE: FORMS}, cache=tmp_path, measure=three_halves)
    (path,) = tmp_path.glob("layer-times-*.json")
    others = {f"shape {i}": {f"{j} 1 1": 1.25 for j in range(100)} for i in range(2499)}
    path.write_text(json.dumps({"times": {SHAPE.key: {FORMS[0].key: 7.5}, **others}}))
    size = path.stat().st_size
    assert 4_000_000 < size < MAX_FILE_BYTES
    new = Shape(4, 4, ConvGeometry((1, 1)), (1, 1))
    # The first shape is timed anew, and so is among the latest now.
    found = time_forms({new: [LookupForm(i, 1) for i in range(20_000)], SHAPE: FORMS}, cache=tmp_path, measure=three_halves)
    assert found[SHAPE][FORMS[0]] == 7.5
    times = json.loads(path.read_text())["times"]
    assert path.stat().st_size <= MAX_FILE_BYTES
    left = len(times) - 2
    assert 2000 < left < 2499
    assert list(times) == [*list(others)[-left:], new.key, SHAPE.key]
    assert caplog.messages == []
    assert time_forms({SHAPE: FORMS}, cache=tmp_path, measure=three_halves)[SHAPE][FORMS[0]] == 7.5


@needs_library
def test_the_file_of_times_is_as_it_was(tmp_path: Path) -> None:
    time_forms({SHAPE: [LookupForm(4, 30, 8), ORDINARY]}, cache=tmp_path, measure=three_halves)
    (path,) = tmp_path.glob("layer-times-*.json")
    held = json.loads(path.read_text())
    assert held["times"] == {"8 6 3,3 1,1 1,1,1,1 1,1 1 7,5 1 0": {"-1 0 1": 1.5, "4 30 8": 1.5}}
    assert set(held["conditions"]) == {"cpu", "cores", "isa", "onnxruntime", "method", "threads", "library"}


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "lcnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG base directory specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "lcnn"

"""Files and folders are replaced whole or not at all, also when the process is killed or the disk is full."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lcnn_compress import files
from lcnn_compress.errors import FileError
from lcnn_compress.files import _swap_in_steps, directory_atomically, sha256_of, temporary_folder, write_atomically


def run_child(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a Python process on ``code``; its standard output tells how far it is."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])},
    )


def kill_in_the_middle(code: str, path: Path) -> None:
    """Run ``code`` until it reports that half is written, then kill it with SIGKILL."""
    with run_child(code, str(path)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_bytes_are_written_and_replace_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")
    write_atomically(path, b"new, longer")
    assert path.read_bytes() == b"new, longer"
    assert names(tmp_path) == ["a.bin"]


def test_a_writer_gets_a_name_with_the_same_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_atomically(path, lambda temporary: np.savez(temporary, x=np.arange(3)))  # savez appends .npz to other names
    assert np.load(path)["x"].tolist() == [0, 1, 2]
    assert names(tmp_path) == ["a.npz"]


def test_new_files_get_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failing_writer_keeps_the_old_file_and_its_own_error(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "a.bin: cannot be written: No space left on device; free some space there"),
        (errno.EDQUOT, "a.bin: cannot be written: Disk quota exceeded; free some of your quota"),
        (errno.EROFS, "a.bin: cannot be written: Read-only file system; choose a folder you may write to"),
        (errno.EIO, "a.bin: cannot be written: Input/output error; check the disk"),
    ],
)
def test_a_disk_error_names_the_way_out(code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match=message) as caught:
        write_atomically(path, b"new")
    assert caught.value.exit_code == 5
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_write_that_really_runs_out_of_room_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = """
import resource, sys
from pathlib import Path
from lcnn_compress.errors import FileError
from lcnn_compress.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path(sys.argv[1]), bytes(100_000))
except FileError as error:
    print(error)
"""
    with run_child(code, str(path)) as child:
        said, _ = child.communicate()
    assert child.returncode == 0
    assert said.decode().strip() == (
        f"{path}: cannot be written: File too large; raise the file size limit (ulimit -f) or choose another file system"
    )
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere/a\.bin: cannot be written: No such file or directory; create the folder"):
        write_atomically(tmp_path / "nowhere" / "a.bin", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match=r"a\.bin: cannot be written: Not a directory; choose a path below a folder"):
        write_atomically(tmp_path / "file" / "a.bin", b"")
    with (
        pytest.raises(FileError, match=r"nowhere/net: cannot be written: No such file or directory; create the folder"),
        directory_atomically(tmp_path / "nowhere" / "net"),
    ):
        pytest.fail("the block must not run")


def test_a_file_cannot_replace_a_folder_nor_a_folder_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"folder: cannot be written: Is a directory.*choose the name of a file"):
        write_atomically(tmp_path / "folder", b"")
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileError, match="file: is a file and cannot become a folder"), directory_atomically(tmp_path / "file"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["file", "folder"]


def test_a_kill_in_the_middle_of_a_file_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = """
import sys, time
from pathlib import Path
from lcnn_compress.files import write_atomically
def write(temporary):
    with temporary.open("wb") as file:
        file.write(b"n")
        file.flush()
        print("half", flush=True)
        time.sleep(60)
write_atomically(Path(sys.argv[1]), write)
"""
    kill_in_the_middle(code, path)
    assert path.read_bytes() == b"old"
    leftovers = [name for name in names(tmp_path) if name != "a.bin"]
    assert len(leftovers) == 1
    assert leftovers[0].startswith(".a.bin.")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "net.lcnn"
    with directory_atomically(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a.txt").write_text("a")
        assert temporary.parent == tmp_path
        assert not path.exists()
    assert (path / "sub" / "a.txt").read_text() == "a"
    assert names(tmp_path) == ["net.lcnn"]


def test_a_folder_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "net.lcnn"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with directory_atomically(path) as temporary:
        (temporary / "new.txt").write_text("new")
    assert names(path) == ["new.txt"]
    assert names(tmp_path) == ["net.lcnn"]


def two_folders(parent: Path) -> tuple[Path, Path]:
    """Make a folder with new.txt and one with old.txt."""
    new, old = parent / "new", parent / "old"
    for folder in (new, old):
        folder.mkdir()
        (folder / f"{folder.name}.txt").write_text(folder.name)
    return new, old


def test_folders_are_swapped_in_steps_where_the_system_cannot_do_it_in_one(tmp_path: Path) -> None:
    new, old = two_folders(tmp_path)
    _swap_in_steps(new, old)
    assert (names(new), names(old)) == (["old.txt"], ["new.txt"])
    assert names(tmp_path) == ["new", "old"]


def test_a_failing_block_keeps_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "net.lcnn"
    path.mkdir()
    (path / "old.txt").write_text("old")

    def fail_in_the_middle() -> None:
        with directory_atomically(path) as temporary:
            (temporary / "new.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_in_the_middle()
    with pytest.raises(FileError, match=r"net.lcnn: cannot be written: No space left"), directory_atomically(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (path / "old.txt").read_text() == "old"
    assert names(tmp_path) == ["net.lcnn"]


def test_a_failing_swap_puts_the_old_folder_back(tmp_path: Path) -> None:
    new, old = two_folders(tmp_path)
    shutil.rmtree(new)
    with pytest.raises(FileNotFoundError):
        _swap_in_steps(new, old)
    assert names(old) == ["old.txt"]
    assert names(tmp_path) == ["old"]


def test_a_kill_in_the_middle_of_a_folder_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "net.lcnn"
    path.mkdir()
    (path / "old.txt").write_text("old")
    code = """
import sys, time
from pathlib import Path
from lcnn_compress.files import directory_atomically
with directory_atomically(Path(sys.argv[1])) as temporary:
    (temporary / "new.txt").write_text("n")
    print("half", flush=True)
    time.sleep(60)
"""
    kill_in_the_middle(code, path)
    assert names(path) == ["old.txt"]
    assert len(names(tmp_path)) == 2  # and one leftover
    with directory_atomically(path) as temporary:
        (temporary / "new.txt").write_text("new")
    assert names(path) == ["new.txt"]


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    content = bytes(range(256)) * 5000  # 1.28 MB: more than one block
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileError, match=r"none\.bin: cannot be read: No such file or directory"):
        sha256_of(tmp_path / "none.bin")


# Temporary folders

IN_USE = """
import signal
from lcnn_compress.files import temporary_folder
with temporary_folder() as folder:
    (folder / "big").write_bytes(b"x")
    print("half", flush=True)
    signal.pause()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_a_temporary_folder_is_gone_after_its_block(place: Path) -> None:
    def fails() -> None:
        with temporary_folder() as folder:
            assert folder.parent == place
            (folder / "a").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert names(place) == []


def test_what_a_killed_process_left_is_removed_by_the_next_one(place: Path) -> None:
    kill_in_the_middle(IN_USE, place)
    (left,) = names(place)
    with run_child(IN_USE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        (used,) = names(place)
        assert used != left
        with temporary_folder():
            assert used in names(place)  # it is in use
        child.kill()
    with temporary_folder() as folder:
        assert names(place) == [folder.name]


def dead_process() -> int:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    return child.pid


def test_only_our_folders_are_removed(place: Path) -> None:
    dead, outside = dead_process(), place / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"x")
    (place / f"lcnn-{dead}-link").symlink_to(outside)
    (place / f"lcnn-{dead}-file").write_bytes(b"x")
    kept = [f"lcnn-{dead}", f"lcnn-{dead}-a.b", "lcnn-mine", f"lcnn-x{dead}-a", f"xlcnn-{dead}-a", f"lcnn-{2**40}-a"]
    for name in (*kept, f"lcnn-{dead}-a"):
        (place / name).mkdir()
    (place / f"lcnn-{dead}-a" / "link").symlink_to(outside)
    before = names(place)
    with temporary_folder():
        pass
    assert names(place) == [name for name in before if name != f"lcnn-{dead}-a"]
    assert names(outside) == ["mine"]


def test_a_folder_that_is_locked_is_in_use_whatever_its_number_says(place: Path) -> None:
    folder = place / f"lcnn-{dead_process()}-a"
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with temporary_folder():
        assert folder.is_dir()
    os.close(handle)
    with temporary_folder():
        assert not folder.exists()


def test_no_place_for_temporary_files_is_a_file_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place / "none"))
    with pytest.raises(FileError, match="temporary files cannot be written: No such file or directory; set TMPDIR to a folder"):
        temporary_folder().__enter__()

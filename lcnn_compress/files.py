"""Write files and folders so that a crash, a kill or a full disk leaves the old content or the new, never a mixture.

New content goes under a temporary name beside its destination and is renamed when it is on the disk. A killed run can leave
such a temporary (``.NAME.PID-RANDOM.tmp``) behind: nothing ever reads it, names do not repeat, it may be deleted by hand.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lcnn_compress.errors import FileError

_WAYS_OUT = {
    errno.ENOSPC: "free some space there or choose another folder",
    errno.EDQUOT: "free some of your quota or choose another folder",
    errno.EFBIG: "raise the file size limit (ulimit -f) or choose another file system",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "choose a path below a folder",
    errno.EISDIR: "choose the name of a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write_atomically(path: Path, data: bytes | Callable[[Path], None]) -> None:
    """Create or replace the file ``path``.

    Args:
        path: the file, whose folder must exist.
        data: the content, or a function that writes it to the path it is given (same folder, same suffix).

    Raises:
        FileError: the file cannot be written; what was there before is still there.
    """
    temporary = _temporary_name(path, path.suffix)
    try:
        if callable(data):
            data(temporary)
        else:
            temporary.write_bytes(data)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with suppress(OSError):  # the file is gone after the rename, and never was there if its folder is of no use
            temporary.unlink()


@contextmanager
def directory_atomically(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that takes its name, and the place of an older folder, when the block ends well.

    Raises:
        FileError: the folder cannot be written; what was there before is still there.
    """
    if path.exists() and not path.is_dir():
        raise FileError(f"{path}: is a file and cannot become a folder; choose another name or delete it")
    temporary = _temporary_name(path, "")
    try:
        temporary.mkdir()
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            _flush(written)
        if path.exists():
            _swap(temporary, path)
        else:
            os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # this is the old folder after a swap, else the failed one


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield an empty folder for temporary files, gone after the block; so are those that killed processes of ours have left.

    Raises:
        FileError: no folder can be made.
    """
    try:
        place = Path(tempfile.gettempdir())
        folder = Path(tempfile.mkdtemp(prefix=f"lcnn-{os.getpid()}-", dir=place))
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"temporary files cannot be written: {reason}; set TMPDIR to a folder you may write to") from error
    try:
        # The lock goes with the process, however it ends: another container has other numbers of processes. Some file systems
        # have no locks.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        for left in place.glob("lcnn-*"):
            _remove_if_left(left)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _remove_if_left(folder: Path) -> None:
    """Delete a temporary folder of this user whose process is dead; what only has such a name, or is a link, stays."""
    named = re.fullmatch(r"lcnn-([0-9]{1,10})-\w+", folder.name)
    if named is None or _is_alive(int(named[1])):
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone, of somebody else, or no folder
        return
    try:
        if os.fstat(handle).st_uid == os.getuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # the lock is held: it is in use in another container
        return
    finally:
        os.close(handle)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        FileError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}; check the path and its permissions") from error
    return digest.hexdigest()


def _temporary_name(path: Path, suffix: str) -> Path:
    """Return an unused name in the folder of ``path``; it keeps the suffix, which writers such as numpy look at."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp{suffix}")


def _flush(path: Path) -> None:
    """Bring a file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(new: Path, old: Path) -> None:
    """Give two folders each other's name, in one step where the system can (renameat2, Linux 3.15, glibc 2.28)."""
    libc = ctypes.CDLL(None, use_errno=True)
    at_fdcwd, rename_exchange = -100, 2
    if hasattr(libc, "renameat2"):
        if libc.renameat2(at_fdcwd, os.fsencode(new), at_fdcwd, os.fsencode(old), rename_exchange) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):  # network file systems, among others, lack the exchange
            raise OSError(code, os.strerror(code), str(old))
    _swap_in_steps(new, old)


def _swap_in_steps(new: Path, old: Path) -> None:
    """Give two folders each other's name; a kill between the first two steps leaves the old one as ``.NAME.….old``."""
    aside = old.with_name(f".{old.name}.{os.getpid()}-{secrets.token_hex(4)}.old")
    os.replace(old, aside)
    try:
        os.replace(new, old)
    except OSError:
        os.replace(aside, old)
        raise
    os.replace(aside, new)


def _not_written(path: Path, error: OSError) -> FileError:
    reason = error.strerror or str(error)
    where = (
        f" ({error.filename})"
        if error.filename and not str(error.filename).startswith(str(path.parent / f".{path.name}."))
        else ""
    )
    way_out = _WAYS_OUT.get(error.errno or 0, "check the disk and try again")
    return FileError(f"{path}: cannot be written: {reason}{where}; {way_out}")

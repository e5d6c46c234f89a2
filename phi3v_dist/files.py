"""Files that are whole or absent: temporary name, fsync, rename; content hashes; a lock; a cache's old files.

Enters: a path and content. Leaves: the file under its final name, durable, never half written, also after
``kill -9``: a reader that sees the name sees the whole content.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

PARTIAL = ".partial"  # how the name of a half written file or folder ends
_AT_A_TIME = 2**20  # bytes
_LEFT_OVER_SECONDS = 24 * 3600.0  # a half file this old belongs to a process that was killed


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes ``path``, on an exception it is removed."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: processes of two machines may write the same file, and share a process id.
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield temporary
        fsync_file(temporary)
        os.replace(temporary, final)
        fsync_folder(final.parent)
    except OSError as error:
        if str(error.filename) == str(temporary):
            error.filename, error.filename2 = str(final), None  # the name that the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def fsync_folder(folder: Path) -> None:
    """Make renames and new names inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def locked(path: str | os.PathLike[str], *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock ``path``; the kernel gives it back when the process dies.

    ``shared``: beside others that share it; the file must be there. Without ``wait`` a lock that another holds raises
    ``BlockingIOError``. On a file system that knows no locks nobody waits.
    """
    with open(path, "rb" if shared else "ab") as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def xxh3_of(path: Path) -> str:
    """Hexadecimal XXH3-128 of a file's content, as ``xxhsum -H2`` prints it; also of a ``UPath``'s.

    It finds every accident, and is ten times as fast as SHA-256, which finds intent too.
    """
    whole = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while part := handle.read(_AT_A_TIME):
            whole.update(part)
    return whole.hexdigest()


def clean_cache(kept: Path, most: int) -> None:
    """Delete beside ``kept`` all but the ``most`` files and folders used last, and what killed processes left.

    Whoever uses one sets its time (``os.utime``). Who has a deleted one mapped keeps its pages.
    """
    others = []
    for path in kept.parent.iterdir():
        try:
            age_seconds = time.time() - path.stat().st_mtime
        except OSError:
            continue  # deleted meanwhile
        if path.suffix == PARTIAL and age_seconds > _LEFT_OVER_SECONDS:
            _delete(path)
        elif not path.name.startswith(".") and path != kept:
            others.append((age_seconds, path))
    for _, path in sorted(others)[most:]:
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            path.unlink()

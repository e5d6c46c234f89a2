"""A folder that is whole or absent: everything is written beside it and renamed at the end.

Enters: the final folder's path. Leaves: the folder with all its files, or nothing under its name. A run that was
killed leaves ``.NAME.partial`` beside it; the next run clears it. Two runs at a time keep each other out by a lock.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from phi3v_dist.errors import ShardError
from phi3v_dist.files import fsync_folder

OTHER_FOLDER = "Set shards.folder to another folder, or delete this one."
_LOCK_NAME = ".lock"


@contextmanager
def staging_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder; on success it becomes ``final``, on an exception it is removed.

    Raises ``ShardError`` when ``final`` has files in it already or another process is writing it.
    """
    _refuse_files(final)
    staging = final.with_name(f".{final.name}.partial")
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the shard folder can't be made: {error.strerror}"
        raise ShardError(what, where=str(final), mend="Set shards.folder to a place that you may write to.") from None
    with open(staging / _LOCK_NAME, "w", encoding="utf-8") as lock:
        _take(lock, staging)
        _clear(staging)
        try:
            yield staging
            _refuse_files(final)
            (staging / _LOCK_NAME).unlink()
            os.replace(staging, final)
            fsync_folder(final.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def _refuse_files(final: Path) -> None:
    if final.exists() and not final.is_dir():
        raise ShardError("a file is in the way of the shard folder", where=str(final), mend=OTHER_FOLDER)
    if final.is_dir() and (found := sorted(entry.name for entry in final.iterdir())):
        raise ShardError(
            "the folder holds files but no manifest.json", where=str(final), value=found[0], mend=OTHER_FOLDER
        )


def _take(lock: IO[str], staging: Path) -> None:
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ShardError(
                "another process is making these shards", where=str(staging), mend="Wait for it, or stop it."
            ) from None
        # Some cluster file systems know no locks; then only the user can keep two runs apart.


def _clear(staging: Path) -> None:
    for entry in staging.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK_NAME:
            entry.unlink()

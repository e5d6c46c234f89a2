"""Where tar files lie, and how a reader asks for them; here: in a folder. Behind a URL: remote.py.

Enters: the name of a tar file, and places in it. Leaves: the bytes there, or a ``ReadFailure`` with a reason. A window
of samples is asked for at once: the kernel is asked for its pages in the order of the disk, then samples are read one
by one, so that nothing but the sample in hand lies in this process (256 pictures kept would cost more page faults than
reading costs). A store may be used by several threads, and by a process and its forks.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from phi3v_dist.shards.manifest import MANIFEST_NAME

# A million samples are a thousand tar files, as many as a process may usually open.
_MAX_OPEN_FILES = 128


class Place(NamedTuple):
    """Where a sample lies: a tar file, and (offset, bytes) of its JSON and of each picture."""

    shard: str
    members: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """Offset of the first byte."""
        return min(self.members)[0]

    @property
    def end(self) -> int:
        """Offset behind the last byte."""
        return sum(max(self.members))  # members don't overlap


class ReadFailure(Exception):
    """The bytes can't be read; the reason in words."""


class Store(Protocol):
    """What a reader asks of the tar files of one shard folder."""

    def read(self, place: Place) -> list[bytes] | ReadFailure:
        """Bytes of each member of a sample, fewer where the file ends; or why there are none."""

    def expect(self, places: Sequence[Place]) -> None:
        """These places are read soon."""

    def read_many(self, places: Sequence[Place]) -> Iterator[list[bytes] | ReadFailure]:
        """As ``read`` for each place, in the order given."""

    def size(self, shard: str) -> int:
        """Bytes of a tar file. Raises ``ReadFailure``."""

    def copy(self, shard: str, to: Path) -> None:
        """Copy a whole tar file. Raises ``ReadFailure``; what goes wrong at the other end is an ``OSError``."""

    def is_there(self) -> bool:
        """Whether the folder itself answers: else a missing file means nothing."""

    def close(self) -> None:
        """Close what is open; the next ``read`` opens it again."""


class _OpenFile:
    """A descriptor that lives as long as somebody reads from it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._pid = os.getpid()

    def __del__(self) -> None:
        # In a fork the number is the parent's, perhaps already given to another file.
        if self.__dict__.get("_pid") == os.getpid():
            os.close(self.descriptor)


class LocalStore:
    """Tar files in a folder: one ``pread`` per member."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begin()

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._files: dict[str, _OpenFile] = {}

    def read(self, place: Place) -> list[bytes] | ReadFailure:
        """See ``Store``."""
        try:
            file = self._open(place.shard)
            return [_read_at(file.descriptor, offset, length) for offset, length in place.members]
        except OSError as error:
            return ReadFailure(f"the file can't be read ({error.strerror})")

    def expect(self, places: Sequence[Place]) -> None:
        """Ask the kernel for the pages, in the order of the disk."""
        for shard, start, end in sorted((place.shard, place.start, place.end) for place in places):
            try:
                os.posix_fadvise(self._open(shard).descriptor, start, end - start, os.POSIX_FADV_WILLNEED)
            except OSError:
                continue  # reading will tell

    def read_many(self, places: Sequence[Place]) -> Iterator[list[bytes] | ReadFailure]:
        """See ``Store``."""
        return map(self.read, places)

    def size(self, shard: str) -> int:
        """See ``Store``."""
        try:
            return (self.folder / shard).stat().st_size
        except OSError as error:
            raise ReadFailure(f"the file can't be read ({error.strerror})") from None

    def copy(self, shard: str, to: Path) -> None:
        """See ``Store``."""
        shutil.copyfile(self.folder / shard, to)

    def is_there(self) -> bool:
        """See ``Store``."""
        return (self.folder / MANIFEST_NAME).exists()

    def close(self) -> None:
        """See ``Store``."""
        self._begin()

    def _open(self, shard: str) -> _OpenFile:
        if self._pid != os.getpid():
            self._begin()
        file = self._files.get(shard)
        if file is None:
            with self._lock:
                file = self._files.get(shard)
                if file is None:
                    while len(self._files) >= _MAX_OPEN_FILES:
                        self._files.pop(next(iter(self._files)))  # closed when its last reader is done
                    file = self._files[shard] = _OpenFile(self.folder / shard)
        return file


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    content = os.pread(descriptor, length, offset)
    while len(content) < length and (more := os.pread(descriptor, length - len(content), offset + len(content))):
        content += more  # some network file systems answer in parts
    return content

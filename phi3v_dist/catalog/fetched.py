"""Which pictures have been fetched, and where they lie: what others read.

Enters: a folder that ``tools/fetch_products.py`` filled. Leaves: for a URL the file, or why there is none. Any number
of processes may ask at once, also over a network file system: SQLite locks nothing here, because a file lock of ours
keeps readers and the one writer apart (NFS and Lustre often know no byte-range locks, and SQLite would stop there).

The folder::

    ab/ab3f….jpg       a picture as it came; its name is the hash of its URL, its ending tells its content
    fetched.sqlite     what became of each URL (catalog/fetch_state.py)
    rejects.parquet    each picture that a product lacks, and why
    .lock              held while pictures are fetched, shared by those who read
"""

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from phi3v_dist.errors import CatalogError
from phi3v_dist.files import locked

STATE_NAME = "fetched.sqlite"
LOCK_NAME = ".lock"
NOT_FETCHED = "not fetched"

_URL = re.compile(r"https?://", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Does this text of a picture column name a picture on the web?"""
    return _URL.match(text) is not None


def key_of(url: str) -> str:
    """Name of a URL's picture: 128 bits of its SHA-256, so that a million don't collide."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def picture_path(folder: Path, key: str, ending: str) -> Path:
    """Where a picture lies: 256 folders keep each one small."""
    return folder / key[:2] / f"{key}.{ending}"


@contextmanager
def state_faults(folder: Path) -> Iterator[None]:
    """What SQLite can't read is an error of the user's folder."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        mend = "Delete this file and start tools/fetch_products.py again: it takes the pictures that lie there."
        raise CatalogError("can't be read", where=str(folder / STATE_NAME), value=str(error), mend=mend) from None


class FetchedPictures:
    """Looks URLs up. Cheap to make, to pickle and to carry over a fork: each process opens the table for itself.

    ``num_asked``: how many were looked up.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._process = self.num_asked = 0
        self._state: sqlite3.Connection | None = None
        self._open_things = ExitStack()

    def find(self, url: str) -> Path | str:
        """The picture's file; or why there is none, as in ``fetch: http 404``; or ``not fetched``.

        Raises ``CatalogError`` while pictures are being fetched, and when the table can't be read.
        """
        self.num_asked += 1
        if self._process != os.getpid():
            self._open()
        if self._state is None:
            return NOT_FETCHED
        key = key_of(url)
        with state_faults(self.folder):
            found = self._state.execute("SELECT reason, ending FROM pictures WHERE key = ?", (key,)).fetchone()
        reason, ending = found or (NOT_FETCHED, "")
        return picture_path(self.folder, key, ending) if reason == "" else reason or NOT_FETCHED

    def close(self) -> None:
        """Let pictures be fetched again."""
        self._open_things.close()
        self._process, self._state = 0, None

    def __getstate__(self) -> Path:
        return self.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def _open(self) -> None:
        # What a parent process opened is left to it: closing its connection here could disturb it.
        self._state, self._open_things = None, ExitStack()
        path = self.folder / STATE_NAME
        if path.exists():
            self._open_state(path)
        self._process = os.getpid()  # last: what failed is tried again

    def _open_state(self, path: Path) -> None:
        try:
            self._open_things.enter_context(locked(self.folder / LOCK_NAME, shared=True, wait=False))
        except BlockingIOError:
            mend = "Wait until tools/fetch_products.py has ended."
            raise CatalogError("pictures are being fetched into it", where=str(self.folder), mend=mend) from None
        journal = path.with_name(f"{STATE_NAME}-journal")
        if journal.exists() and journal.stat().st_size > 0:  # only a writer may take its changes back
            mend = "Start tools/fetch_products.py again, it goes on where it was."
            raise CatalogError("fetching was killed in the middle", where=str(self.folder), mend=mend)
        with state_faults(self.folder):
            # immutable: no locks and no look at the journal for each question; our lock sees to it that it holds
            self._state = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        self._open_things.callback(self._state.close)

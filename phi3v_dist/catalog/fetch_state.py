"""What became of each URL, kept on disk so that memory stays flat and a killed run goes on where it was.

Enters: URLs of the product table, then one verdict for each. Leaves: ``fetched.sqlite``. The folder of pictures is the
truth about what is fetched, this table its index: at every start both are laid side by side, so that a picture that was
renamed into place a moment before a kill counts, and one that somebody deleted is fetched again.

Columns of ``pictures``: ``key`` hash of the URL · ``host`` name and port · ``url`` · ``reason`` NULL: waiting, empty:
fetched, else why it failed, as in ``fetch: http 404`` · ``detail`` what the failure said · ``ending`` of the file.
"""

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from phi3v_dist.catalog.fetch_hosts import host_name
from phi3v_dist.catalog.fetched import LOCK_NAME, NOT_FETCHED, STATE_NAME, key_of, state_faults
from phi3v_dist.errors import CatalogError
from phi3v_dist.files import locked

_PICTURE_NAME = re.compile(r"([0-9a-f]{32})\.([a-z0-9]+)")
_ROWS_AT_A_TIME = 256
_TABLES = """
CREATE TABLE IF NOT EXISTS pictures (
    key TEXT PRIMARY KEY, host TEXT, url TEXT, reason TEXT, detail TEXT, ending TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS waiting ON pictures (host, key) WHERE reason IS NULL;
"""


@contextmanager
def fetch_state(folder: Path) -> Iterator["FetchState"]:
    """The table of a folder, for one writer at a time. What was told it is on disk when it closes, however it ends.

    Raises ``CatalogError``: another fetches into this folder or reads it, or the table is damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogError(
            f"the folder can't be made: {error.strerror}", where=str(folder), mend="Set catalog.fetched_folder."
        ) from None
    with ExitStack() as open_things:
        try:
            open_things.enter_context(locked(folder / LOCK_NAME, wait=False))
        except BlockingIOError:
            mend = "Wait until it ends, or set catalog.fetched_folder."
            raise CatalogError("another command fetches into it or reads it", where=str(folder), mend=mend) from None
        # nolock: see catalog/fetched.py. The journal is a plain one: WAL needs memory shared between machines.
        path = (folder / STATE_NAME).absolute().as_uri()
        open_things.enter_context(state_faults(folder))
        connection = open_things.enter_context(closing(sqlite3.connect(f"{path}?nolock=1", uri=True)))
        connection.executescript(_TABLES)
        try:
            yield FetchState(folder, connection)
        finally:
            connection.commit()


class FetchState:
    """The open table."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._table = connection

    def forget(self, *, failed: bool) -> None:
        """Forget what waits (the product table may have changed), and with ``failed`` the failures too."""
        self._table.execute("DELETE FROM pictures WHERE reason IS NULL" + (" OR reason != ''" if failed else ""))

    def match_files(self) -> None:
        """Lay the table beside the pictures on disk: a whole file is fetched, a lost one isn't, a half one goes."""
        for first in range(256):
            name = f"{first:02x}"
            files = dict(_whole_pictures(self.folder / name))
            rows = self._table.execute(
                "SELECT key, ending FROM pictures WHERE key >= ? AND key < ? AND reason = ''", (name, f"{name}g")
            )
            known = dict(rows.fetchall())
            lost = [(key,) for key, ending in known.items() if files.get(key) != ending]
            found = [(key, ending) for key, ending in files.items() if known.get(key) != ending]
            self._table.executemany("DELETE FROM pictures WHERE key = ?", lost)
            self._table.executemany("INSERT OR REPLACE INTO pictures (key, reason, ending) VALUES (?, '', ?)", found)

    def plan(self, urls: Iterable[str]) -> None:
        """Let each URL wait that has no verdict yet."""
        rows = ((key_of(url), host_name(url), url.encode("utf-8", "replace").decode()) for url in urls)
        self._table.executemany("INSERT OR IGNORE INTO pictures (key, host, url) VALUES (?, ?, ?)", rows)
        self.commit()

    def hosts(self) -> list[tuple[str, int]]:
        """Each host with how many URLs wait for it, the longest line first: it ends last anyway."""
        question = "SELECT host, COUNT(*) FROM pictures WHERE reason IS NULL GROUP BY host ORDER BY 2 DESC, 1"
        return self._table.execute(question).fetchall()

    def waiting(self, host: str) -> Iterator[tuple[str, str]]:
        """Key and URL of what waits for a host, a few in memory at a time."""
        last = ""
        question = "SELECT key, url FROM pictures WHERE reason IS NULL AND host = ? AND key > ? ORDER BY key LIMIT ?"
        while rows := self._table.execute(question, (host, last, _ROWS_AT_A_TIME)).fetchall():
            yield from rows
            last = rows[-1][0]

    def fetched(self, key: str, ending: str) -> None:
        """The picture lies in the folder, whole."""
        self._table.execute("UPDATE pictures SET reason = '', ending = ? WHERE key = ?", (ending, key))

    def failed(self, key: str, reason: str, detail: str) -> None:
        """There is no picture, and why."""
        self._table.execute("UPDATE pictures SET reason = ?, detail = ? WHERE key = ?", (reason, detail, key))

    def failed_host(self, host: str, reason: str, detail: str) -> int:
        """All that still waits for a host has failed; returns how many."""
        change = "UPDATE pictures SET reason = ?, detail = ? WHERE reason IS NULL AND host = ?"
        return self._table.execute(change, (reason, detail, host)).rowcount

    def verdict(self, url: str) -> tuple[str, str]:
        """Reason (empty: fetched; ``not fetched``: it waits) and detail."""
        question = "SELECT reason, detail FROM pictures WHERE key = ?"
        reason, detail = self._table.execute(question, (key_of(url),)).fetchone() or (None, None)
        return NOT_FETCHED if reason is None else reason, detail or ""

    def commit(self) -> None:
        """Put what was told so far on disk."""
        self._table.commit()


def _whole_pictures(folder: Path) -> Iterator[tuple[str, str]]:
    """Key and ending of the pictures in a folder; what a killed run left half written is deleted."""
    if not folder.is_dir():
        return
    for name in os.listdir(folder):
        if (match := _PICTURE_NAME.fullmatch(name)) is not None:
            yield match[1], match[2]
        elif name.startswith(".") and name.endswith(".partial"):
            (folder / name).unlink(missing_ok=True)

"""Shards behind a URL that fsspec knows: http(s)://, s3://, memory://, …

Enters: what a recipe calls ``shards.folder``. Leaves: a folder that index and manifest are read from as from a disk (a
``UPath``), and a ``RemoteStore`` for its tar files. All ranges of a window of samples travel together. What the network
fails at is asked again after a pause.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from phi3v_dist.errors import ShardError
from phi3v_dist.shards.manifest import MANIFEST_NAME
from phi3v_dist.shards.store import LocalStore, Place, ReadFailure

Answer = TypeVar("Answer")

_ATTEMPTS = 3  # to reach a store
_FIRST_WAIT_SECONDS = 0.5  # doubled after each attempt
_MEND_AWAY = "Check the network, the mount and the address, then start again."


def as_folder(folder: str | Path) -> Path:
    """The folder as a ``Path``, or as a ``UPath`` for a URL. Raises ``ShardError`` where the URL can't be reached."""
    if not isinstance(folder, str) or "://" not in folder:
        return folder if is_remote(folder) else Path(folder).absolute()
    if folder.startswith("file://"):
        return Path(folder.removeprefix("file://")).absolute()
    from upath import UPath  # not every run reads from a network

    try:
        found = UPath(folder)
        RemoteStore(found).ask(lambda files: files.cat_file(f"{found.path}/{MANIFEST_NAME}"))
    except FileNotFoundError:
        pass  # the manifest's reader has the better words
    except ImportError as error:
        mend = "Install what it needs (http: pip install aiohttp; s3: pip install s3fs)."
        raise ShardError(f"can't be read here: {error}", where=folder, mend=mend) from None
    except Exception as error:  # every kind of store has its own
        raise ShardError(f"the store can't be reached: {_words(error)}", where=folder, mend=_MEND_AWAY) from None
    return found


def away(folder: Path, reason: str) -> ShardError:
    """The error of a store that has gone: nothing can be told about its samples."""
    return ShardError(f"the shards can't be reached any more: {reason}", where=str(folder), mend=_MEND_AWAY)


def is_remote(folder: object) -> bool:
    """Whether a folder is a ``UPath`` behind a URL."""
    return hasattr(folder, "fs")


def store_of(folder: Path) -> "LocalStore | RemoteStore":
    """The store for a folder that ``as_folder`` made."""
    return RemoteStore(folder) if is_remote(folder) else LocalStore(folder)


class RemoteStore:
    """Tar files behind a URL, through fsspec: one range per sample."""

    def __init__(self, folder: Any) -> None:
        self.folder = folder

    def read(self, place: Place) -> list[bytes] | ReadFailure:
        """See ``Store``."""
        return next(self.read_many([place]))

    def expect(self, places: Sequence[Place]) -> None:
        """Nothing: ``read_many`` fetches all of a window at once."""

    def read_many(self, places: Sequence[Place]) -> Iterator[list[bytes] | ReadFailure]:
        """See ``Store``."""
        order = sorted(range(len(places)), key=lambda number: (places[number].shard, places[number].start))
        asked = [places[number] for number in order]
        paths = [self._path(place.shard) for place in asked]
        starts, ends = [place.start for place in asked], [place.end for place in asked]
        found = self._files().cat_ranges(paths, starts, ends, on_error="return")
        contents = dict(zip(order, found, strict=True))
        for number, place in enumerate(places):
            span = contents.pop(number)
            if isinstance(span, Exception):
                span = self._once_more(place)
            yield span if isinstance(span, ReadFailure) else _cut(span, place, self.folder)

    def _once_more(self, place: Place) -> bytes | ReadFailure:
        try:
            return self.ask(lambda files: files.cat_file(self._path(place.shard), start=place.start, end=place.end))
        except Exception as error:  # every kind of store has its own
            return ReadFailure(f"the file can't be read ({_words(error)})")

    def size(self, shard: str) -> int:
        """See ``Store``."""
        try:
            return int(self.ask(lambda files: files.size(self._path(shard))))
        except Exception as error:  # every kind of store has its own
            raise ReadFailure(f"the file can't be read ({_words(error)})") from None

    def copy(self, shard: str, to: Path) -> None:
        """See ``Store``."""
        try:
            self.ask(lambda files: files.get_file(self._path(shard), str(to)))
        except Exception as error:  # every kind of store has its own
            raise ReadFailure(f"the file can't be read ({_words(error)})") from None

    def is_there(self) -> bool:
        """See ``Store``."""
        try:
            self._files().cat_file(self._path(MANIFEST_NAME))
        except Exception:
            return False
        return True

    def close(self) -> None:
        """See ``Store``."""

    def ask(self, question: Callable[[Any], Answer]) -> Answer:
        """Ask the file system, again after a pause where the network failed; the last error is raised."""
        for attempt in range(_ATTEMPTS):
            try:
                return question(self._files())
            except (FileNotFoundError, ImportError):
                raise
            except Exception:
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("unreachable")

    def _files(self) -> Any:
        """The file system, made anew in a fork (fsspec keeps one per process)."""
        from fsspec.core import url_to_fs

        return url_to_fs(str(self.folder))[0]

    def _path(self, name: str) -> str:
        return f"{self.folder.path.rstrip('/')}/{name}"


def _cut(span: bytes, place: Place, folder: Path) -> list[bytes]:
    start, end = place.start, place.end
    if len(span) > end - start:
        raise ShardError("the server sends whole files where a range was asked for", where=f"{folder}/{place.shard}",
                         mend="Put the shards on a server that knows byte ranges, or on a disk.")  # fmt: skip
    return [span[offset - start : offset - start + length] for offset, length in place.members]


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

"""Tar files copied to a disk of the node, each when it is first read, for all processes of the node.

Enters: a store that is far away, a folder on a near disk, how much may lie there. Leaves: a store that reads from the
near disk what it holds or can take, and from afar what it can't. A copy is whole or absent; one process makes it while
the others that want it wait. When there is no room, those used longest ago go, but none that was used in the last ten
minutes: a limit smaller than what a run reads at once would else copy a tar file for each sample.

::

    FOLDER/<index hash>/train/train-000000.tar …     its time of change: when it was last used
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from phi3v_dist.config.options import ShardOptions
from phi3v_dist.files import atomic_path, locked
from phi3v_dist.shards.index import ShardIndex
from phi3v_dist.shards.remote import store_of
from phi3v_dist.shards.store import LocalStore, Place, ReadFailure, Store

_IN_USE_SECONDS = 600.0
_MARK_SECONDS = 60.0  # how often a reader says that it still uses a copy
_FREE_SHARE = 0.05  # of the disk, left to others
_LEFT_OVER_SECONDS = 3600.0  # a half copy untouched for so long belongs to a process that was killed


def store_for(index: ShardIndex, options: ShardOptions | None) -> Store:
    """The store of an index's tar files, with copies on the node's disk where ``options.local_copy`` asks for them."""
    store = store_of(index.folder)
    if options is None or options.local_copy is None:
        return store
    folder = Path(options.local_copy).expanduser().absolute()
    return CopyingStore(store, folder, index.index_hash[:16], round(options.local_copy_gb * 1e9))


class CopyingStore:
    """A store in front of ``far`` that keeps its tar files in ``root/name``, at most ``limit_bytes`` in ``root``."""

    def __init__(self, far: Store, root: Path, name: str, limit_bytes: int) -> None:
        self._far, self._root, self._limit_bytes = far, root, limit_bytes
        self._near = LocalStore(root / name)
        self._marked: dict[str, float] = {}  # when this reader last said that it uses a copy
        self._refused: dict[str, float] = {}  # when there was last no room

    def read(self, place: Place) -> list[bytes] | ReadFailure:
        """See ``Store``."""
        if self._copied(place.shard):
            content = self._near.read(place)
            if not isinstance(content, ReadFailure):
                return content
            self._marked.pop(place.shard, None)  # deleted meanwhile
        return self._far.read(place)

    def expect(self, places: Sequence[Place]) -> None:
        """Of what lies near already; the rest is copied, or fetched, when it is read."""
        self._near.expect([place for place in places if place.shard in self._marked])

    def read_many(self, places: Sequence[Place]) -> Iterator[list[bytes] | ReadFailure]:
        """See ``Store``."""
        return map(self.read, places)

    def size(self, shard: str) -> int:
        """See ``Store``."""
        return self._far.size(shard)

    def copy(self, shard: str, to: Path) -> None:
        """See ``Store``."""
        self._far.copy(shard, to)

    def is_there(self) -> bool:
        """See ``Store``."""
        return self._far.is_there()

    def close(self) -> None:
        """See ``Store``."""
        self._near.close()
        self._far.close()

    def _copied(self, shard: str) -> bool:
        """Whether a tar file lies near; copies it first where there is room."""
        now = time.monotonic()
        if now - self._marked.get(shard, -_MARK_SECONDS) < _MARK_SECONDS:
            return True
        if now - self._refused.get(shard, -_MARK_SECONDS) < _MARK_SECONDS:
            return False
        target = self._near.folder / shard
        try:
            if not target.exists():
                self._make_copy(shard, target)
            os.utime(target)
        except (OSError, ReadFailure):
            self._refused[shard] = now  # no room, or the far end will tell for itself
            return False
        self._marked[shard] = now
        return True

    def _make_copy(self, shard: str, target: Path) -> None:
        size = self._far.size(shard)
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f".{target.name}.lock")):
            if target.exists():
                return
            with atomic_path(target) as temporary:
                with locked(self._root / ".room.lock"):
                    self._make_room(size)
                    with open(temporary, "wb") as file:
                        os.posix_fallocate(file.fileno(), 0, max(size, 1))  # taken before the next one counts
                self._far.copy(shard, temporary)
                if temporary.stat().st_size != size:
                    raise OSError(f"{shard}: {size} bytes expected, {temporary.stat().st_size} copied")

    def _make_room(self, size: int) -> None:
        """Delete until ``size`` bytes fit. Raises ``OSError`` where they don't."""
        copies = []
        for path in self._root.rglob("*.tar*"):
            found = path.stat()
            idle_seconds = time.time() - found.st_mtime
            if path.suffix == ".partial" and idle_seconds > _LEFT_OVER_SECONDS:
                path.unlink(missing_ok=True)
            elif path.suffix in (".tar", ".partial"):
                copies.append((found.st_mtime, found.st_size, path))
        held = sum(taken for _, taken, _ in copies)
        for last_used, taken, path in sorted(copies):
            if self._fits(held, size):
                return
            if path.suffix == ".tar" and time.time() - last_used > _IN_USE_SECONDS:
                path.unlink(missing_ok=True)
                held -= taken
        if not self._fits(held, size):
            raise OSError("no room")

    def _fits(self, held_bytes: int, more_bytes: int) -> bool:
        disk = shutil.disk_usage(self._root)
        return held_bytes + more_bytes <= self._limit_bytes and disk.free - more_bytes >= _FREE_SHARE * disk.total

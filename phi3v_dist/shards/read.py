"""A sample by its number: one ``pread`` at the index's offset, checked by hash.

Enters: a ``ShardIndex`` and a sample number. Leaves: a ``Sample`` with the pictures' original bytes. Tar files are
opened when first needed and stay open in this process only: after a fork or in a loader process descriptors are
opened anew. A reader serves one thread. No torch in here.
"""

import json
import os
from dataclasses import dataclass, field
from typing import Any

from phi3v_dist.shards.index import ShardIndex, content_hash

# A million samples are a thousand tar files, as many as a process may usually open.
_MAX_OPEN_FILES = 128


@dataclass(frozen=True)
class Sample:
    """One product as it lies in a shard; ``images``: original bytes of each picture, at least one. ``further``: more
    texts of the product, by the names that its catalogue gave them.
    """

    number: int
    key: str
    product_code: str
    title: str
    category: str
    price: float
    currency: str
    images: tuple[bytes, ...]
    further: dict[str, str] = field(default_factory=dict)


class DamagedSample(Exception):
    """A sample's bytes can't be read or are not the ones that were written. The loader blanks it and counts it."""

    def __init__(self, shard: str, offset: int, key: str, reason: str) -> None:
        super().__init__(shard, offset, key, reason)  # all of them, so that it crosses a process border
        self.shard, self.offset, self.key, self.reason = shard, offset, key, reason

    def __str__(self) -> str:
        return f"{self.shard}, byte {self.offset}, key {self.key}: {self.reason}"


class ShardReader:
    """Random access to the samples of an index."""

    def __init__(self, index: ShardIndex) -> None:
        self.index = index
        self._descriptors: dict[str, int] = {}
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["index"])  # type: ignore[misc]

    def __del__(self) -> None:
        if self.__dict__.get("_pid") == os.getpid():
            self.close()

    def close(self) -> None:
        """Close this reader's files; the next ``sample`` opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def sample(self, number: int) -> Sample:
        """Read one sample. Raises ``DamagedSample``, and ``IndexError`` for a number that doesn't exist."""
        row = self.index.row(number)
        text, *pictures = self._members(row)
        if content_hash([text, *pictures]) != row["sha256"]:
            raise _damage(row, "the bytes are not the ones the index was made from (SHA-256 differs)")
        try:
            told = json.loads(text)
            product = {name: told[name] for name in ("product_code", "title", "category", "currency", "further")}
            price = float(told["price"])
        except (ValueError, TypeError, KeyError) as error:
            raise _damage(row, f"the JSON can't be read ({error!r})") from None
        return Sample(number=number, key=row["key"], price=price, images=tuple(pictures), **product)

    def _members(self, row: dict[str, Any]) -> list[bytes]:
        """Bytes of the JSON and each picture. They lie side by side: one read takes them all."""
        places = [(row["json_offset"], row["json_bytes"]), *zip(row["image_offset"], row["image_bytes"], strict=True)]
        start = min(offset for offset, _ in places)
        end = max(offset + length for offset, length in places)
        try:
            span = os.pread(self._descriptor(row["shard"]), end - start, start)
        except OSError as error:
            raise _damage(row, f"the file can't be read ({error.strerror})") from None
        if len(span) != end - start:
            raise _damage(row, f"the file ends {end - start - len(span)} bytes too early")
        return [span[offset - start : offset - start + length] for offset, length in places]

    def _descriptor(self, shard: str) -> int:
        if self._pid != os.getpid():
            # The parent's numbers: not ours to close, perhaps already given to another file.
            self._descriptors, self._pid = {}, os.getpid()
        if shard not in self._descriptors:
            if len(self._descriptors) >= _MAX_OPEN_FILES:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = os.open(self.index.folder / shard, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[shard]


def _damage(row: dict[str, Any], reason: str) -> DamagedSample:
    return DamagedSample(row["shard"], min(row["json_offset"], *row["image_offset"]), row["key"], reason)

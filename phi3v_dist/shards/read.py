"""Samples by their numbers: read at the index's offsets, checked by checksum.

Enters: a ``ShardIndex`` and sample numbers. Leaves: ``Sample``s with the pictures' original bytes. ``sample`` reads
one; ``samples`` reads many in the order given, and tells the disk a window ahead what comes. Texts are the index's,
which its hash guards; JSON and pictures are compared with the index's XXH3 on every reading (5 µs). A reader may be
used by several threads and after a fork; it keeps no picture. No torch in here.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from phi3v_dist.config.options import ShardOptions
from phi3v_dist.shards.index import ShardIndex, as_numpy, checksum
from phi3v_dist.shards.local_copies import store_for
from phi3v_dist.shards.remote import away
from phi3v_dist.shards.store import Place, ReadFailure

# A window: enough for a disk to sort, little enough to stay in the page cache (or in memory, from a network).
_WINDOW_SAMPLES = 256
_WINDOW_BYTES = 64 * 2**20
_FEW_TEXTS = 65_536


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
    """Random access to the samples of an index. ``options``: whether tar files are copied to a disk of the node."""

    def __init__(self, index: ShardIndex, options: ShardOptions | None = None) -> None:
        self.index = index
        self._options = options
        self._columns = _Columns(index)
        self._store = store_for(index, options)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.index, self._options)

    def close(self) -> None:
        """Close this reader's files; the next reading opens them again."""
        self._store.close()

    def sample(self, number: int) -> Sample:
        """Read one sample.

        Raises ``DamagedSample``, ``IndexError`` for a number that doesn't exist, and ``ShardError`` where the whole
        folder is gone: of that no sample is guilty.
        """
        place = self._columns.place(number)
        return self._checked(number, place, self._store.read(place))

    def samples(self, numbers: Iterable[int]) -> Iterator[Sample | DamagedSample]:
        """Read samples in the order given, a damaged one as its exception. Raises as ``sample`` otherwise."""
        windows = _windows((number, self._columns.place(number)) for number in map(int, numbers))
        for window, following in pairwise(chain([[]], windows, [[]])):
            self._store.expect([place for _, place in following])
            contents = self._store.read_many([place for _, place in window])
            for (number, place), content in zip(window, contents, strict=True):
                try:
                    yield self._checked(number, place, content)
                except DamagedSample as damage:
                    yield damage

    def members(self, number: int) -> list[bytes]:
        """The bytes of a sample's JSON and of each picture, whatever they are. Raises as ``sample``."""
        place = self._columns.place(number)
        return self._whole(number, place, self._store.read(place))

    def damage(self, number: int, reason: str) -> DamagedSample:
        """The error that says where a sample lies and what is wrong with it."""
        place = self._columns.place(number)
        return DamagedSample(place.shard, place.start, self._columns.key(number), reason)

    def _checked(self, number: int, place: Place, contents: list[bytes] | ReadFailure) -> Sample:
        contents = self._whole(number, place, contents)
        if checksum(contents) != self._columns.xxh3.item(number):
            raise self.damage(number, "the bytes are not the ones the index was made from (XXH3 differs)")
        return self._columns.sample(number, tuple(contents[1:]))

    def _whole(self, number: int, place: Place, contents: list[bytes] | ReadFailure) -> list[bytes]:
        """What was read, if it is all that was asked for. Raises ``DamagedSample`` and ``ShardError``."""
        if isinstance(contents, ReadFailure):
            if not self._store.is_there():
                raise away(self.index.folder, str(contents))
            reason = str(contents)
        else:
            missing = sum(length for _, length in place.members) - sum(map(len, contents))
            if not missing:
                return contents
            reason = f"the file ends {missing} bytes too early"
        raise self.damage(number, reason)


class _Columns:
    """The index's columns as reading needs them: numbers by numpy, texts by Arrow, neither copied."""

    def __init__(self, index: ShardIndex) -> None:
        self._shards, self._shard = index.shards
        self._starts = index.picture_sizes[0]
        self._own = {name: index.array(name) for name in ("key", "product_code", "title")}
        self._shared = {name: _Shared(index.array(name)) for name in ("category", "currency", "further")}
        self._numbers = {name: as_numpy(index.array(name)) for name in ("json_offset", "json_bytes", "price")}
        self._pictures = [as_numpy(index.array(name).flatten()) for name in ("image_offset", "image_bytes")]
        self.xxh3: np.ndarray = as_numpy(index.array("xxh3"))

    def place(self, number: int) -> Place:
        """Where a sample lies."""
        if not 0 <= number < len(self._shard):
            raise IndexError(f"sample {number} of {len(self._shard)}")
        text = (self._numbers["json_offset"].item(number), self._numbers["json_bytes"].item(number))
        first, end = self._starts.item(number), self._starts.item(number + 1)
        offsets, lengths = (column[first:end].tolist() for column in self._pictures)
        return Place(self._shards[self._shard.item(number)], (text, *zip(offsets, lengths, strict=True)))

    def key(self, number: int) -> str:
        """The name of a sample's members."""
        return self._own["key"][number].as_py()

    def sample(self, number: int, images: tuple[bytes, ...]) -> Sample:
        """The sample with these pictures."""
        further = self._shared["further"][number]
        return Sample(
            number=number,
            key=self.key(number),
            product_code=self._own["product_code"][number].as_py(),
            title=self._own["title"][number].as_py(),
            category=self._shared["category"][number],
            price=self._numbers["price"].item(number),
            currency=self._shared["currency"][number],
            images=images,
            further={} if further == "{}" else json.loads(further),
        )


class _Shared:
    """A column of texts that samples share; each is made a Python text once, where there aren't too many."""

    def __init__(self, column: pa.DictionaryArray) -> None:
        self._codes = as_numpy(column.indices)
        few = len(column.dictionary) <= _FEW_TEXTS
        self._texts = column.dictionary.to_pylist() if few else column.dictionary

    def __getitem__(self, number: int) -> str:
        text = self._texts[self._codes.item(number)]
        return text if isinstance(text, str) else text.as_py()


def _windows(places: Iterable[tuple[int, Place]]) -> Iterator[list[tuple[int, Place]]]:
    """Cut the way through the samples into windows of bounded size; each holds one sample at least."""
    window: list[tuple[int, Place]] = []
    held_bytes = 0
    for number, place in places:
        size = sum(length for _, length in place.members)
        if window and (len(window) == _WINDOW_SAMPLES or held_bytes + size > _WINDOW_BYTES):
            yield window
            window, held_bytes = [], 0
        window.append((number, place))
        held_bytes += size
    if window:
        yield window

"""Samples of one or several shard folders under one numbering, for training.

Enters: ``ShardOptions``. Leaves: a ``SourcesIndex`` that knows every sample by its number, those of a second folder
behind those of the first, and a reader of the same numbers.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from phi3v_dist.config.options import ShardOptions
from phi3v_dist.errors import ShardError
from phi3v_dist.shards.index import ShardIndex, load_index
from phi3v_dist.shards.read import DamagedSample, Sample, ShardReader


def open_sources(options: ShardOptions) -> "SourcesIndex":
    """The index of ``shards.sources``, or of ``shards.folder`` where there are none. Raises ``ShardError``."""
    weights = options.sources or {options.folder: 1.0}
    return SourcesIndex([load_index(folder, options.cache_folder) for folder in weights], list(weights.values()))


class SourcesIndex:
    """All samples of the sources. ``epochs``: how often an epoch of the run takes each sample of a source."""

    def __init__(self, indexes: Sequence[ShardIndex], epochs: Sequence[float]) -> None:
        self.indexes = indexes
        self.epochs = epochs
        self.starts = np.cumsum([0, *map(len, indexes)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def content_hash(self) -> str:
        """Of one source its index's hash; of several a hash that another order or weight changes."""
        if len(self.indexes) == 1 and self.epochs[0] == 1:
            return self.indexes[0].index_hash
        told = [[index.index_hash, epochs] for index, epochs in zip(self.indexes, self.epochs, strict=True)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def place(self, number: int) -> tuple[int, int]:
        """Source, and number in it, of a sample."""
        source = int(np.searchsorted(self.starts, number, side="right")) - 1
        return source, number - int(self.starts[source])

    def key(self, number: int) -> str:
        """Name of a sample's members."""
        source, own = self.place(number)
        return str(self.indexes[source].array("key")[own].as_py())

    def row(self, number: int) -> dict[str, Any]:
        """All columns of one sample."""
        source, own = self.place(number)
        return self.indexes[source].row(own) | {"sample": number}

    def sizes(self, number: int) -> list[tuple[int, int]]:
        """Width and height of each picture of a sample, pixels."""
        source, own = self.place(number)
        return self.indexes[source].sizes(own)

    def numbers(self, split: str) -> np.ndarray:
        """Sample numbers of a split, int64 [n], rising."""
        return np.concatenate(
            [start + index.numbers(split) for start, index in zip(self.starts, self.indexes, strict=False)]
        )

    def shards(self, split: str) -> list[np.ndarray]:
        """Of each source int64 [shards, 2]: first sample number of each shard of a split, and the one behind its last.

        Raises ``ShardError`` where samples of a shard don't stand side by side in the index.
        """
        return [start + _bounds(index, split) for start, index in zip(self.starts, self.indexes, strict=False)]


def _bounds(index: ShardIndex, split: str) -> np.ndarray:
    numbers = index.numbers(split)
    shards = index.shards[1][numbers]
    firsts = np.flatnonzero(np.diff(shards, prepend=-1))
    lasts = np.append(firsts[1:], len(numbers))[: len(firsts)] - 1
    bounds = np.stack([numbers[firsts], numbers[lasts] + 1], axis=1)
    if len(np.unique(shards)) != len(firsts) or np.diff(bounds).sum() != len(numbers):
        what, mend = (
            "samples of a tar file don't stand side by side in the index",
            "Make it anew: tools/index_shards.py",
        )
        raise ShardError(what, where=str(index.folder), mend=mend)
    return bounds


class SourcesReader:
    """Reads samples by their number over all sources, each by its source's own reader."""

    def __init__(self, index: SourcesIndex, options: ShardOptions | None = None) -> None:
        self.index = index
        self._readers = [ShardReader(one, options) for one in index.indexes]

    def close(self) -> None:
        """Close all files; the next reading opens them again."""
        for reader in self._readers:
            reader.close()

    def sample(self, number: int) -> Sample:
        """Read one sample. Raises as ``ShardReader.sample``."""
        source, own = self.index.place(number)
        try:
            return replace(self._readers[source].sample(own), number=number)
        except DamagedSample as damage:
            raise self._named(damage, source) from None

    def samples(self, numbers: Iterable[int]) -> Iterator[Sample | DamagedSample]:
        """Read samples in the order given, a damaged one as its exception."""
        numbers = list(numbers)
        places = [self.index.place(number) for number in numbers]
        reading = [
            reader.samples([own for of, own in places if of == source]) for source, reader in enumerate(self._readers)
        ]
        for number, (source, _) in zip(numbers, places, strict=True):
            sample = next(reading[source])
            damaged = isinstance(sample, DamagedSample)
            yield self._named(sample, source) if damaged else replace(sample, number=number)

    def _named(self, damage: DamagedSample, source: int) -> DamagedSample:
        """The damage with the folder that it lies in, where there are several."""
        if len(self._readers) == 1:
            return damage
        shard = f"{self.index.indexes[source].folder}/{damage.shard}"
        return DamagedSample(shard, damage.offset, damage.key, damage.reason)

"""In which order an epoch meets its documents: shards of all sources, cut into windows that are shuffled inside.

Enters: which samples lie in which shard, how many epochs of each source an epoch of the run holds, a seed. Leaves:
windows, each a shuffled array of sample numbers. Pure arithmetic: nothing is held but two numbers per shard, so a
window of a hundred million samples costs what a window of a million does.

A source is passed over and over, each pass in an order of shards of its own; an epoch of the run takes the next
``epochs`` · n of its documents, cutting a shard where it must. So whatever the weight, all documents of a source
are taken equally often, give or take one. Passes that meet in a window are shuffled together. Shards of several sources
are laid side by side in proportion: every window has the same mixture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from phi3v_dist.errors import DocumentError

Numbers = NDArray[np.int64]


class Draw(IntEnum):
    """What a stream of random numbers is for: each has its own, so that no draw depends on how much another took."""

    SHARDS = 0
    CUT_SHARD = 1
    WINDOW = 2
    PACKS = 3
    GROUPS = 4


def random_numbers(seed: int, draw: Draw, *which: int) -> np.random.Generator:
    """The stream of one draw; ``which``: epoch, window or whatever tells it from others of its kind."""
    return np.random.default_rng([seed, draw, *which])


@dataclass(frozen=True, eq=False)
class Source:
    """``shards`` int64 [shards, 2]: first sample number of each and the one behind its last; ``epochs``: how often an
    epoch of the run takes each of its documents, in the mean.
    """

    shards: Numbers
    epochs: float = 1.0
    name: str = "shards.folder"


@dataclass(frozen=True, eq=False)
class _Part:
    """Documents ``begin`` to ``end`` of a shard, in the order of its pass where they aren't all of it."""

    source: int
    passed: int
    shard: int
    begin: int
    end: int


class EpochOrder:
    """The windows of every epoch.

    ``takes_part``: first and behind-last sample number → bool [samples], which of them are packed at all.
    ``window_shards``: fewest shards of a window, as far as the epoch has so many; ``most_windows``: of an epoch. Raises
    ``DocumentError`` where a source has no document for an epoch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        takes_part: Callable[[int, int], NDArray[np.bool_]],
        *,
        window_shards: int,
        most_windows: int,
        seed: int,
    ) -> None:
        """Count the documents of every shard that take part."""
        self.sources = sources
        self._takes_part = takes_part
        self._window_shards = window_shards
        self._most_windows = most_windows
        self._seed = seed
        self._counts = [
            np.array([np.count_nonzero(takes_part(*shard)) for shard in source.shards.tolist()], dtype=np.int64)
            for source in sources
        ]
        for source, counts in zip(sources, self._counts, strict=True):
            if source.epochs * counts.sum() < 1:
                raise DocumentError(
                    f"no document is left to pack: {counts.sum()} fit into a pack, {source.epochs:g} epochs of them",
                    where=source.name,
                    mend="Set a larger packing.pack_tokens, give shards with samples, or more epochs of them",
                )

    @property
    def documents(self) -> int:
        """Documents of all sources that take part, each counted once."""
        return sum(int(counts.sum()) for counts in self._counts)

    def windows(self, epoch: int) -> list[list[_Part]]:
        """The windows of an epoch; they differ by at most one shard: a small last one would pack badly."""
        placed = [part for number in range(len(self.sources)) for part in self._parts(number, epoch)]
        parts = [part for _, part in sorted(placed, key=lambda place_and_part: place_and_part[0])]
        count = max(1, min(len(parts) // self._window_shards, self._most_windows))
        ends = np.linspace(0, len(parts), count + 1).astype(int).tolist()
        return [parts[begin:end] for begin, end in pairwise(ends)]

    def documents_of(self, window: Sequence[_Part], epoch: int, number: int) -> Numbers:
        """Sample numbers of window ``number`` of an epoch, shuffled."""
        documents = np.concatenate([self._documents(part) for part in window])
        return random_numbers(self._seed, Draw.WINDOW, epoch, number).permutation(documents)

    def _parts(self, number: int, epoch: int) -> list[tuple[float, _Part]]:
        """Parts of one source with their place in the epoch, 0 to 1."""
        total, weight = int(self._counts[number].sum()), self.sources[number].epochs
        first, last = round(epoch * weight * total), round((epoch + 1) * weight * total)
        parts = []
        for passed in range(first // total, -(-last // total)):
            random = random_numbers(self._seed, Draw.SHARDS, number, passed)
            order = random.permutation(len(self._counts[number]))
            ends = passed * total + np.cumsum(self._counts[number][order])
            starts = ends - self._counts[number][order]
            begins, stops = np.maximum(starts, first), np.minimum(ends, last)
            for place in np.flatnonzero(begins < stops).tolist():
                begin, stop = int(begins[place]), int(stops[place])
                start = int(starts[place])
                part = _Part(number, passed, int(order[place]), begin - start, stop - start)
                parts.append((((begin + stop) / 2 - first) / (last - first), part))
        return parts

    def _documents(self, part: _Part) -> Numbers:
        first, end = self.sources[part.source].shards[part.shard].tolist()
        documents = first + np.flatnonzero(self._takes_part(first, end))
        if part.end - part.begin == len(documents):
            return documents
        random = random_numbers(self._seed, Draw.CUT_SHARD, part.source, part.passed, part.shard)
        return random.permutation(documents)[part.begin : part.end]

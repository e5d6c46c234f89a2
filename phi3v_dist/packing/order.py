"""In which order an epoch meets its documents: shards of all sources, cut into windows that are shuffled inside.

Enters: which samples lie in which shard, how many epochs of each source an epoch of the run holds, a seed. Leaves:
windows, each a shuffled array of sample numbers. Pure arithmetic: nothing is held but some numbers per shard, so a
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
from typing import NamedTuple

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


class _Part(NamedTuple):
    """Documents ``begin`` to ``end`` of a shard, in the order of its pass where they aren't all of it."""

    source: int
    passed: int
    shard: int
    begin: int
    end: int


class EpochOrder:
    """The windows of every epoch.

    ``shard_documents``: for each source int64 [shards], how many documents are packed at all; ``numbers``: first and
    behind-last sample number → which of them are. ``window_shards``: fewest shards of a window, as far as the epoch has
    so many; ``most_windows``: of an epoch. Raises ``DocumentError`` where a source has no document for an epoch.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        shard_documents: Sequence[Numbers],
        numbers: Callable[[int, int], Numbers],
        *,
        window_shards: int,
        most_windows: int,
        seed: int,
    ) -> None:
        """Nothing is drawn yet."""
        self.sources = sources
        self._counts = shard_documents
        self._numbers = numbers
        self._window_shards = window_shards
        self._most_windows = most_windows
        self._seed = seed
        for source, counts in zip(sources, shard_documents, strict=True):
            if source.epochs * counts.sum() < 1:
                raise DocumentError(
                    f"no document is left to pack: {counts.sum()} fit into a pack, {source.epochs:g} epochs of them",
                    where=source.name,
                    mend="Set a larger packing.pack_tokens, give shards with samples, or more epochs of them",
                )

    def windows(self, epoch: int) -> list[Numbers]:
        """The windows of an epoch, int64 [parts, 5]; they differ by at most one part: a small last one packs badly."""
        told = [self._parts(source, epoch) for source in range(len(self.sources))]
        places, parts = (np.concatenate(column) for column in zip(*told, strict=True))
        parts = parts[np.argsort(places, kind="stable")]
        count = max(1, min(len(parts) // self._window_shards, self._most_windows))
        ends = np.linspace(0, len(parts), count + 1).astype(int).tolist()
        return [parts[begin:end] for begin, end in pairwise(ends)]

    def documents_of(self, window: Numbers, epoch: int, number: int) -> Numbers:
        """Sample numbers of window ``number`` of an epoch, shuffled."""
        documents = np.concatenate([self._documents(_Part(*part)) for part in window.tolist()])
        return random_numbers(self._seed, Draw.WINDOW, epoch, number).permutation(documents)

    def _parts(self, source: int, epoch: int) -> tuple[NDArray[np.float64], Numbers]:
        """Parts of one source, [parts, fields of ``_Part``], and their places in the epoch, 0 to 1."""
        total, weight = int(self._counts[source].sum()), self.sources[source].epochs
        first, last = round(epoch * weight * total), round((epoch + 1) * weight * total)
        places, parts = [], []
        for passed in range(first // total, -(-last // total)):
            order = random_numbers(self._seed, Draw.SHARDS, source, passed).permutation(len(self._counts[source]))
            ends = passed * total + np.cumsum(self._counts[source][order])
            starts = ends - self._counts[source][order]
            begins, stops = np.maximum(starts, first), np.minimum(ends, last)
            inside = begins < stops
            which = [np.full_like(order, source), np.full_like(order, passed), order]
            parts.append(np.stack([*which, begins - starts, stops - starts], axis=1)[inside])
            places.append(((begins + stops)[inside] / 2 - first) / (last - first))
        return np.concatenate(places), np.concatenate(parts)

    def _documents(self, part: _Part) -> Numbers:
        documents = self._numbers(*self.sources[part.source].shards[part.shard].tolist())
        if part.end - part.begin == len(documents):
            return documents
        random = random_numbers(self._seed, Draw.CUT_SHARD, part.source, part.passed, part.shard)
        return random.permutation(documents)[part.begin : part.end]

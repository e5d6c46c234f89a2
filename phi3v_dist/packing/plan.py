"""Which documents share a pack, which packs share a step: a pure function of lengths, options, seed and epoch.

Enters: token counts of documents, which samples lie in which shard, ``PackingOptions``, a seed. Leaves: ``StepPlan``s,
lists of sample numbers. Integers in, integers out, no torch, no ranks: a step is the same set of packs on any number
of ranks, so that a resume is "go on at step n".

One epoch: shards in a seeded order are cut into windows of ``window_shards``; samples of a window are shuffled and
packed among themselves (``subset.pack_documents``), its packs shuffled; the packs of all windows in a row are cut into
steps. A pack never spans two windows, a step may.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.errors import DocumentError
from phi3v_dist.packing.subset import pack_documents
from phi3v_dist.shards.index import ShardIndex

Numbers = NDArray[np.int64]

_EPOCHS_KEPT = 2  # around the end of an epoch two are asked for in turn
_SHARD_ORDER, _WINDOW_ORDER, _PACK_ORDER = range(3)  # what a stream of random numbers is for


@dataclass(frozen=True, eq=False)
class StepPlan:
    """One optimizer step. ``packs``: sample numbers of each pack; ``weight``: supervised tokens of all packs."""

    step: int
    epoch: int
    packs: list[Numbers]
    weight: int


class Plan:
    """The steps of all epochs, one after the other.

    ``tokens``, ``supervised``: counts per sample number, (samples,) int64. ``shards``: the sample numbers of each
    shard that takes part, in the order the shards lie on disk. ``dropped``: documents left out as too long. Raises
    DocumentError where a document is longer than a pack (unless they are dropped) or none is left.
    """

    def __init__(
        self, tokens: Numbers, supervised: Numbers, shards: Sequence[Numbers], options: PackingOptions, seed: int
    ) -> None:
        """Choose the documents that take part; nothing is packed yet."""
        self.tokens = tokens
        self.supervised = supervised
        self.options = options
        self.seed = seed
        self.shards = [shard[tokens[shard] <= options.pack_tokens] for shard in shards]
        self.dropped = sum(map(len, shards)) - sum(map(len, self.shards))
        self._packs: dict[int, list[Numbers]] = {}
        self._step_ends: list[Numbers] = []  # per epoch: for each of its steps the number of packs up to its end
        self._check(shards)

    def _check(self, shards: Sequence[Numbers]) -> None:
        limit = self.options.pack_tokens
        if self.dropped and self.options.long_documents == "error":
            longest = int(max(self.tokens[shard].max(initial=0) for shard in shards))
            raise DocumentError(
                f"{self.dropped} documents are longer than a pack of {limit} tokens, the longest has {longest}",
                where="packing.pack_tokens",
                value=limit,
                mend=f"Set packing.pack_tokens={longest} or more, or packing.long_documents=drop to leave them out",
            )
        if not any(len(shard) for shard in self.shards):
            raise DocumentError(
                "no document is left to pack",
                where="packing.pack_tokens",
                value=limit,
                mend=f"{self.dropped} were too long: set a larger packing.pack_tokens, or give shards with samples",
            )

    @property
    def documents(self) -> int:
        """Documents in one epoch."""
        return sum(map(len, self.shards))

    @property
    def longest_document(self) -> int:
        """Tokens of the longest document that takes part."""
        return max(int(self.tokens[shard].max(initial=0)) for shard in self.shards)

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Return the number of steps of an epoch (it may differ by a few between epochs)."""
        return len(self._ends_of_steps(epoch))

    def step(self, number: int) -> StepPlan:
        """Return step ``number`` (0, 1, …), reached directly: an epoch's packs are made when first asked for."""
        epoch, first_step = 0, 0
        while number >= first_step + self.steps_per_epoch(epoch):
            first_step += self.steps_per_epoch(epoch)
            epoch += 1
        ends = self._ends_of_steps(epoch)
        place = number - first_step
        packs = self.packs(epoch)[ends[place - 1] if place else 0 : ends[place]]
        weight = sum(int(self.supervised[pack].sum()) for pack in packs)
        return StepPlan(number, epoch, packs, weight)

    def packs(self, epoch: int) -> list[Numbers]:
        """Return all packs of an epoch, in the order of its steps."""
        if epoch not in self._packs:
            while len(self._packs) >= _EPOCHS_KEPT:
                self._packs.pop(next(iter(self._packs)))
            windows = enumerate(self._windows(epoch))
            self._packs[epoch] = [
                pack for number, window in windows for pack in self._pack_window(epoch, number, window)
            ]
        return self._packs[epoch]

    def fill(self, epoch: int = 0) -> float:
        """Return the share of an epoch's packs that holds tokens: 1.0 would be packs without a gap."""
        packs = self.packs(epoch)
        return sum(int(self.tokens[pack].sum()) for pack in packs) / (len(packs) * self.options.pack_tokens)

    def _ends_of_steps(self, epoch: int) -> Numbers:
        while len(self._step_ends) <= epoch:
            packs = len(self.packs(len(self._step_ends)))
            self._step_ends.append(_step_ends(packs, self.options.packs_per_step))
        return self._step_ends[epoch]

    def _windows(self, epoch: int) -> list[Numbers]:
        """Sample numbers of each window. Windows differ by at most one shard: a small last one would pack badly."""
        order = self._random(epoch, _SHARD_ORDER).permutation(len(self.shards))
        count = -(-len(order) // self.options.window_shards)
        return [np.concatenate([self.shards[shard] for shard in part]) for part in np.array_split(order, count)]

    def _pack_window(self, epoch: int, number: int, window: Numbers) -> list[Numbers]:
        order = self._random(epoch, _WINDOW_ORDER, number).permutation(np.sort(window))
        sizes = self.options
        packs = pack_documents(self.tokens, order, sizes.pack_tokens, sizes.pool_documents, sizes.choose_documents)
        return [packs[place] for place in self._random(epoch, _PACK_ORDER, number).permutation(len(packs))]

    def _random(self, epoch: int, purpose: int, window: int = 0) -> np.random.Generator:
        """Return numbers of their own for each purpose, so that no draw depends on how much another one took."""
        return np.random.default_rng([self.seed, epoch, purpose, window])


def shards_of(index: ShardIndex, split: str) -> list[Numbers]:
    """Return the sample numbers of each shard of a split, shards in the order of the index."""
    numbers = index.numbers(split)
    _, firsts = np.unique(index.shards[1][numbers], return_index=True)
    return np.split(numbers, np.sort(firsts)[1:])


def _step_ends(packs: int, packs_per_step: int) -> Numbers:
    """Return for each step the packs up to its end.

    Left-over packs are a step of their own from half a step on; fewer join the step before, so that no update is made
    of a handful of documents.
    """
    full, left_over = divmod(packs, packs_per_step)
    ends = [packs_per_step * (step + 1) for step in range(full)]
    if left_over and (2 * left_over >= packs_per_step or not ends):
        ends.append(packs)
    elif left_over:
        ends[-1] = packs
    return np.array(ends, dtype=np.int64)


def micro_steps(packs_in_step: int, ranks: int) -> int:
    """Return how many packs one rank has to take in a step; the last may be a blank one."""
    return -(-packs_in_step // ranks)


def pack_of(step: StepPlan, micro_step: int, rank: int, ranks: int) -> Numbers | None:
    """Return the pack of a data rank in a micro-step, or None where the step has no pack left for it."""
    place = micro_step * ranks + rank
    return step.packs[place] if place < len(step.packs) else None

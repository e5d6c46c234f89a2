"""Which documents share a pack, which packs share a step: a pure function of lengths, options, seed and epoch.

Enters: counts per document, which samples lie in which shard of which source, ``PackingOptions``, a seed. Leaves:
``StepPlan``s, lists of sample numbers. Integers in, integers out, no torch, no ranks: a step is the same set of packs
on any number of ranks, so that a resume is "go on at step n".

An epoch is a row of windows (``order``); the documents of a window are packed among themselves (``subset``), the packs
of all windows in a row are cut into blocks of ``balance_steps`` steps, and the packs of a block dealt to its steps
(``balance``). A pack never spans two windows, a block may. Only what a block needs is packed. How many packs each
window gave is remembered (``packs_known``), so that step n is found again without packing what lies before it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.packing.balance import deal_packs, pack_costs
from phi3v_dist.packing.order import Draw, EpochOrder, Numbers, Source, random_numbers
from phi3v_dist.packing.planned_lengths import PlannedLengths
from phi3v_dist.packing.steps import StepPlan, step_sizes
from phi3v_dist.packing.subset import pack_documents

PLAN_VERSION = 2  # another number: the same options give other steps

_LEAST_WINDOWS_KEPT, _DOCUMENTS_KEPT = 4, 1_000_000  # so much is packed once, to count the steps and to make them
_EPOCHS_KEPT = 2
_STEPS_KEPT = 64  # loaders ask so far ahead at most, or nearly
_COUNTED_DOCUMENTS = 4_000_000  # up to so many a run's steps are counted, above estimated
_SAMPLED_WINDOWS = 16
_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Packs:
    """Packs side by side: ``documents`` int64 [documents], sample numbers; ``sizes`` int64 [packs], documents of each.

    A million documents are too many for lists of packs.
    """

    documents: Numbers
    sizes: Numbers

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def starts(self) -> Numbers:
        """First document of each pack, [packs]."""
        return np.cumsum(self.sizes) - self.sizes

    def chosen(self, which: Numbers) -> "Packs":
        """The packs asked for, in their order."""
        sizes = self.sizes[which]
        shifts = self.starts[which] - (np.cumsum(sizes) - sizes)
        return Packs(self.documents[np.arange(sizes.sum()) + np.repeat(shifts, sizes)], sizes)

    def as_lists(self) -> list[Numbers]:
        """Sample numbers of each pack."""
        places = [*self.starts.tolist(), len(self.documents)]
        return [self.documents[first:end] for first, end in pairwise(places)]


class Plan:
    """The steps of all epochs, one after the other.

    ``tokens``, ``supervised``, ``crops``: integers [samples] by sample number. Raises DocumentError where a document is
    longer than a pack (unless they are dropped or truncated) or a source has none left.
    """

    def __init__(
        self,
        tokens: NDArray[np.integer],
        supervised: NDArray[np.integer],
        crops: NDArray[np.integer],
        sources: Sequence[Source],
        options: PackingOptions,
        seed: int,
        name: Callable[[int], str] = str,
    ) -> None:
        """Count the documents that take part; nothing is packed yet. ``name``: what an error calls a sample."""
        self.tokens = tokens
        self.crops = crops
        self.sources = sources
        self.options = options
        self.seed = seed
        self.lengths = PlannedLengths(tokens, supervised, sources, options, name)
        told = zip(sources, self.lengths.source_tokens, strict=True)
        self._tokens_of_epoch = sum(source.epochs * planned for source, planned in told)
        self._order = EpochOrder(
            sources,
            self.lengths.shard_documents,
            self.lengths.numbers,
            window_shards=options.window_shards,
            most_windows=int(self._tokens_of_epoch / (options.window_packs * options.pack_tokens)),
            seed=seed,
        )
        self._known: dict[int, NDArray[np.int32]] = {}
        self._windows = lru_cache(_EPOCHS_KEPT)(self._order.windows)
        kept = _DOCUMENTS_KEPT * self.windows_per_epoch() // self.lengths.documents
        self.window_packs = lru_cache(max(_LEAST_WINDOWS_KEPT, kept))(self._window_packs)
        self._block = lru_cache(2 + _STEPS_KEPT // options.balance_steps)(self._deal_block)

    def step(self, number: int) -> StepPlan:
        """Step ``number`` (0, 1, …); some blocks of steps are kept, so that neighbours cost nothing."""
        epoch, place = 0, number
        while not self._has_step(epoch, place):
            place -= self.steps_per_epoch(epoch)
            epoch += 1
        block, place_in_block = divmod(place, self.options.balance_steps)
        packs = self._block(epoch, block)[place_in_block]
        weight = int(self.lengths.supervised(packs.documents).sum())
        return StepPlan(number, epoch, packs.as_lists(), weight)

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Steps of an epoch (they may differ by a few between epochs); packs all of its windows, the first time."""
        return len(step_sizes(self.packs_per_epoch(epoch), self.options.packs_per_step))

    def packs_per_epoch(self, epoch: int = 0) -> int:
        """Packs of an epoch; packs all of its windows, the first time, on all cores."""
        return self._count_packs(epoch, None)

    def windows_per_epoch(self, epoch: int = 0) -> int:
        """Windows of an epoch."""
        return len(self._windows(epoch))

    def steps_in(self, epochs: float) -> int:
        """Steps of a run of so many epochs, at least 1: counted, or estimated from some windows where that takes long.

        The estimate is part of the plan: the same for every start of a run.
        """
        if self.lengths.documents * epochs > _COUNTED_DOCUMENTS:
            return max(1, round(epochs * self._tokens_of_epoch / self._tokens_in_pack() / self.options.packs_per_step))
        whole = int(epochs)
        steps = sum(self.steps_per_epoch(epoch) for epoch in range(whole))
        part = epochs - whole
        return max(1, steps + (round(part * self.steps_per_epoch(whole)) if part else 0))

    def fill_ahead(self) -> float:
        """Share of the packs of the first window that holds tokens: 1.0 would be packs without a gap."""
        packs = self.window_packs(0, 0)
        return int(self.lengths.tokens(packs.documents).sum()) / (len(packs) * self.options.pack_tokens)

    def packs_known(self) -> dict[int, NDArray[np.int32]]:
        """Epoch → packs of each of its windows, −1 where none has asked yet."""
        return self._known

    def recall(self, known: Mapping[int, NDArray[np.int32]]) -> None:
        """Take over what ``packs_known`` of the same plan told once; what can't be it is left out."""
        self.window_packs.cache_clear()
        self._known = {
            epoch: counts.copy()
            for epoch, counts in known.items()
            if len(counts) == self.windows_per_epoch(epoch) and ((counts > 0) | (counts == _UNKNOWN)).all()
        }

    def _tokens_in_pack(self) -> float:
        """Mean of some windows of the first epoch."""
        last = self.windows_per_epoch() - 1
        numbers = np.unique(np.linspace(0, last, _SAMPLED_WINDOWS).astype(int)).tolist()
        windows = [self.window_packs(0, number) for number in numbers]
        tokens = sum(int(self.lengths.tokens(packs.documents).sum()) for packs in windows)
        return tokens / sum(map(len, windows))

    def _has_step(self, epoch: int, place: int) -> bool:
        needed = (place + 1) * self.options.packs_per_step
        return self._count_packs(epoch, needed) >= needed or place < self.steps_per_epoch(epoch)

    def _count_packs(self, epoch: int, needed: int | None) -> int:
        """Packs of an epoch, or of so many of its windows that there are ``needed``."""
        known = self._counts(epoch)
        if needed is None:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as side_by_side:
                list(side_by_side.map(partial(self.window_packs, epoch), np.flatnonzero(known == _UNKNOWN).tolist()))
        count = 0
        for window in range(len(known)):
            if needed is not None and count >= needed:
                break
            if known[window] == _UNKNOWN:
                self.window_packs(epoch, window)
            count += int(known[window])
        return count

    def _counts(self, epoch: int) -> NDArray[np.int32]:
        if epoch not in self._known:
            self._known[epoch] = np.full(self.windows_per_epoch(epoch), _UNKNOWN, dtype=np.int32)
        return self._known[epoch]

    def _window_packs(self, epoch: int, number: int) -> Packs:
        """The packs of a window, shuffled: the last ones are made of what was left over."""
        documents = self._order.documents_of(self._windows(epoch)[number], epoch, number)
        sizes = self.options
        lengths = self.lengths.tokens(documents)
        places, ends = pack_documents(lengths, sizes.pack_tokens, sizes.pool_documents, sizes.choose_documents)
        packs = Packs(documents[places], np.diff(ends, prepend=0))
        self._counts(epoch)[number] = len(packs)
        order = random_numbers(self.seed, Draw.PACKS, epoch, number).permutation(len(packs))
        return packs.chosen(order)

    def _deal_block(self, epoch: int, block: int) -> list[Packs]:
        """Packs of each step of a block."""
        full = self.options.balance_steps * self.options.packs_per_step
        first = block * full
        in_sight = first + full + -(-self.options.packs_per_step // 2)
        rest = min(self._count_packs(epoch, in_sight), in_sight) - first
        # So many more that the last step of the block can't have to take left-over packs of the epoch.
        sizes = step_sizes(full if rest + first == in_sight else rest, self.options.packs_per_step)
        packs = self._packs_between(epoch, first, first + sum(sizes))
        tokens = self.lengths.tokens(packs.documents)
        costs = pack_costs(tokens, self.crops[packs.documents].astype(np.int64), packs.starts)
        random = random_numbers(self.seed, Draw.GROUPS, epoch, block)
        return [packs.chosen(places) for places in deal_packs(costs, sizes, self.options.group_packs, random)]

    def _packs_between(self, epoch: int, first: int, end: int) -> Packs:
        counts = np.maximum(self._counts(epoch), 0)
        ends = np.cumsum(counts)
        found: list[Packs] = []
        window = int(np.searchsorted(ends, first, side="right"))
        while not found or ends[window - 1] < end:
            begin = int(ends[window] - counts[window])
            inside = np.arange(max(first - begin, 0), min(end - begin, counts[window]))
            found.append(self.window_packs(epoch, window).chosen(inside))
            window += 1
        documents, sizes = ([getattr(packs, name) for packs in found] for name in ("documents", "sizes"))
        return Packs(np.concatenate(documents), np.concatenate(sizes))

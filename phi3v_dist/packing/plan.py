"""Which documents share a pack, which packs share a step: a pure function of lengths, options, seed and epoch.

Enters: counts per document, which samples lie in which shard of which source, ``PackingOptions``, a seed. Leaves:
``StepPlan``s, lists of sample numbers. Integers in, integers out, no torch, no ranks: a step is the same set of packs
on any number of ranks, so that a resume is "go on at step n".

An epoch is a row of windows (``order``); the documents of a window are packed among themselves (``subset``), the packs
of all windows in a row are cut into blocks of ``balance_steps`` steps, and the packs of a block dealt to its steps
(``balance``). A pack never spans two windows, a block may. Only what a block needs is packed; all lengths are looked
at once. How many packs each window gave is remembered (``packs_known``),
so that step n is found again without packing what lies before it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.errors import DocumentError
from phi3v_dist.packing.balance import deal_packs, pack_costs
from phi3v_dist.packing.order import Draw, EpochOrder, Numbers, Source, random_numbers
from phi3v_dist.packing.steps import StepPlan, step_sizes
from phi3v_dist.packing.subset import pack_documents

PLAN_VERSION = 2  # another number: the same options give other steps

_LEAST_ANSWER = 2  # supervised tokens that a truncated document keeps: one of text, and the end
_WINDOWS_KEPT, _BLOCKS_KEPT = 4, 2
_COUNTED_DOCUMENTS = 4_000_000  # up to so many a run's steps are counted, above estimated
_SAMPLED_WINDOWS = 16
_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Packs:
    """Packs side by side: ``documents`` int64 [documents], sample numbers; ``ends`` int64 [packs] therein."""

    documents: Numbers
    ends: Numbers

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> Numbers:
        """First document of each pack, [packs]."""
        return np.concatenate([np.zeros(1, np.int64), self.ends])[:-1]

    def as_lists(self, which: Numbers | None = None) -> list[Numbers]:
        """Sample numbers of each pack, or of those asked for in their order."""
        starts = self.starts
        chosen = range(len(self)) if which is None else which.tolist()
        return [self.documents[starts[pack] : self.ends[pack]] for pack in chosen]


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
    ) -> None:
        """Count the documents that take part; nothing is packed yet."""
        self.tokens = tokens
        self.supervised = supervised
        self.crops = crops
        self.sources = sources
        self.options = options
        self.seed = seed
        self.long_documents = 0
        self.longest_document = 0  # tokens of the longest that takes part
        self._tokens_of_epoch = 0.0
        self._survey()
        window_tokens = options.window_packs * options.pack_tokens
        self._order = EpochOrder(
            sources,
            self.takes_part,
            window_shards=options.window_shards,
            most_windows=int(self._tokens_of_epoch / window_tokens),
            seed=seed,
        )
        self._known: dict[int, NDArray[np.int32]] = {}
        self._windows = lru_cache(_BLOCKS_KEPT)(self._order.windows)
        self.window_packs = lru_cache(_WINDOWS_KEPT)(self._window_packs)
        self._block = lru_cache(_BLOCKS_KEPT)(self._deal_block)

    def takes_part(self, first: int, end: int) -> NDArray[np.bool_]:
        """Which of the samples ``first`` … ``end`` − 1 are packed."""
        limit, tokens = self.options.pack_tokens, self.tokens[first:end]
        if self.options.long_documents != "truncate":
            return tokens <= limit
        return (tokens <= limit) | (tokens - self.supervised[first:end] + _LEAST_ANSWER <= limit)

    def planned_tokens(self, numbers: Numbers) -> Numbers:
        """Tokens of each of these documents in its pack: all of them, or as many as a pack holds."""
        return np.minimum(self.tokens[numbers], self.options.pack_tokens).astype(np.int64)

    def planned_supervised(self, numbers: Numbers) -> Numbers:
        """Supervised tokens of each of these documents in its pack."""
        cut = np.maximum(self.tokens[numbers] - self.options.pack_tokens, 0)
        return (self.supervised[numbers] - cut).astype(np.int64)

    @property
    def documents(self) -> int:
        """Documents that take part, each counted once."""
        return self._order.documents

    @property
    def dropped(self) -> int:
        """Documents that are too long and left out."""
        return int(sum(np.diff(source.shards).sum() for source in self.sources)) - self.documents

    def too_long(self, most: int) -> list[int]:
        """Sample numbers of the first ``most`` documents that are longer than a pack."""
        found: list[int] = []
        for _, first, end in self._shards():
            found += (first + np.flatnonzero(self.tokens[first:end] > self.options.pack_tokens)).tolist()
            if len(found) >= most:
                break
        return found[:most]

    def step(self, number: int) -> StepPlan:
        """Step ``number`` (0, 1, …); two blocks of steps are kept, so that neighbours cost nothing."""
        epoch, place = 0, number
        while not self._has_step(epoch, place):
            place -= self.steps_per_epoch(epoch)
            epoch += 1
        block, place_in_block = divmod(place, self.options.balance_steps)
        packs = self._block(epoch, block)[place_in_block]
        weight = int(self.planned_supervised(np.concatenate(packs)).sum())
        return StepPlan(number, epoch, packs, weight)

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Steps of an epoch (they may differ by a few between epochs); packs all of its windows, the first time."""
        return len(step_sizes(self.packs_per_epoch(epoch), self.options.packs_per_step))

    def packs_per_epoch(self, epoch: int = 0) -> int:
        """Packs of an epoch; packs all of its windows, the first time."""
        return self._count_packs(epoch, None)

    def windows_per_epoch(self, epoch: int = 0) -> int:
        """Windows of an epoch."""
        return len(self._windows(epoch))

    def steps_in(self, epochs: float) -> int:
        """Steps of a run of so many epochs, at least 1: counted, or estimated from some windows where that takes long.

        The estimate is part of the plan: the same for every start of a run.
        """
        if self.documents * epochs > _COUNTED_DOCUMENTS:
            return max(1, round(epochs * self._tokens_of_epoch / self._tokens_in_pack() / self.options.packs_per_step))
        whole = int(epochs)
        steps = sum(self.steps_per_epoch(epoch) for epoch in range(whole))
        part = epochs - whole
        return max(1, steps + (round(part * self.steps_per_epoch(whole)) if part else 0))

    def fill_ahead(self) -> float:
        """Share of the packs of the first window that holds tokens: 1.0 would be packs without a gap."""
        packs = self.window_packs(0, 0)
        return int(self.planned_tokens(packs.documents).sum()) / (len(packs) * self.options.pack_tokens)

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

    def _shards(self) -> Iterator[tuple[Source, int, int]]:
        return ((source, first, end) for source in self.sources for first, end in source.shards.tolist())

    def _survey(self) -> None:
        """Find what is too long, and how long the rest is. Raises ``DocumentError`` where a length isn't allowed."""
        limit, longest = self.options.pack_tokens, 0
        for source, first, end in self._shards():
            tokens = self.tokens[first:end]
            self.long_documents += int(np.count_nonzero(tokens > limit))
            longest = max(longest, int(tokens.max(initial=0)))
            part = np.minimum(tokens[self.takes_part(first, end)], limit)
            self.longest_document = max(self.longest_document, int(part.max(initial=0)))
            self._tokens_of_epoch += source.epochs * int(part.sum())
        if self.long_documents and self.options.long_documents == "error":
            raise DocumentError(
                f"{self.long_documents} documents are longer than a pack of {limit} tokens, the longest has {longest}",
                where="packing.pack_tokens",
                value=limit,
                mend=f"Set packing.pack_tokens={longest} or more, or packing.long_documents=drop (or truncate, which "
                "cuts the text) and look at them with tools/plan_packs.py",
            )

    def _tokens_in_pack(self) -> float:
        """Mean of some windows of the first epoch."""
        last = self.windows_per_epoch() - 1
        numbers = np.unique(np.linspace(0, last, _SAMPLED_WINDOWS).astype(int)).tolist()
        windows = [self.window_packs(0, number) for number in numbers]
        tokens = sum(int(self.planned_tokens(packs.documents).sum()) for packs in windows)
        return tokens / sum(map(len, windows))

    def _has_step(self, epoch: int, place: int) -> bool:
        needed = (place + 1) * self.options.packs_per_step
        return self._count_packs(epoch, needed) >= needed or place < self.steps_per_epoch(epoch)

    def _count_packs(self, epoch: int, needed: int | None) -> int:
        """Packs of an epoch, or of so many of its windows that there are ``needed``."""
        known = self._counts(epoch)
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
        lengths = self.planned_tokens(documents)
        places, ends = pack_documents(lengths, sizes.pack_tokens, sizes.pool_documents, sizes.choose_documents)
        packs = Packs(documents[places], ends)
        self._counts(epoch)[number] = len(packs)
        order = random_numbers(self.seed, Draw.PACKS, epoch, number).permutation(len(packs))
        return _side_by_side(packs.as_lists(order))

    def _deal_block(self, epoch: int, block: int) -> list[list[Numbers]]:
        """Packs of each step of a block."""
        full = self.options.balance_steps * self.options.packs_per_step
        first = block * full
        in_sight = first + full + -(-self.options.packs_per_step // 2)
        rest = min(self._count_packs(epoch, in_sight), in_sight) - first
        # So many more that the last step of the block can't have to take left-over packs of the epoch.
        sizes = step_sizes(full if rest + first == in_sight else rest, self.options.packs_per_step)
        packs = _side_by_side(self._packs_between(epoch, first, first + sum(sizes)))
        tokens = self.planned_tokens(packs.documents)
        costs = pack_costs(tokens, self.crops[packs.documents].astype(np.int64), packs.starts)
        random = random_numbers(self.seed, Draw.GROUPS, epoch, block)
        return [packs.as_lists(places) for places in deal_packs(costs, sizes, self.options.group_packs, random)]

    def _packs_between(self, epoch: int, first: int, end: int) -> list[Numbers]:
        ends = np.cumsum(np.maximum(self._counts(epoch), 0))
        found: list[Numbers] = []
        window = int(np.searchsorted(ends, first, side="right"))
        while len(found) < end - first:
            begin = ends[window] - self._counts(epoch)[window]
            inside = slice(max(first - begin, 0), end - begin)
            found += self.window_packs(epoch, window).as_lists()[inside]
            window += 1
        return found


def _side_by_side(packs: Sequence[Numbers]) -> Packs:
    return Packs(np.concatenate(packs), np.cumsum([len(pack) for pack in packs]))

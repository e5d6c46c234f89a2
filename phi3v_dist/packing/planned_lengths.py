"""How long each document is in its pack: whole, cut to what a pack holds, or left out.

Enters: counts per sample, the shards of each source, a pack's length, the rule for longer documents. Leaves: which
documents take part and how long they are, by sample number; sums of each shard. Every start looks at all lengths once,
compiled: a hundred million take a tenth of a second where none is too long.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from phi3v_dist.config.options import PackingOptions
from phi3v_dist.errors import DocumentError
from phi3v_dist.packing.order import Numbers, Source
from phi3v_dist.packing.subset import compiled

_NAMED_DOCUMENTS = 5
_LEAST_ANSWER = 2  # supervised tokens that a truncated document keeps: one of text, and the end


class PlannedLengths:
    """Lengths of the documents of some sources; ``tokens``, ``supervised``: integers [samples] by sample number.

    ``shard_documents``: for each source int64 [shards], documents that take part; ``source_tokens``: tokens of each
    source as planned. ``long_documents`` are longer than a pack; ``longest`` has the most tokens of those that take
    part. Raises ``DocumentError`` where a long one isn't allowed.
    """

    def __init__(
        self,
        tokens: NDArray[np.integer],
        supervised: NDArray[np.integer],
        sources: Sequence[Source],
        options: PackingOptions,
        name: Callable[[int], str] = str,
    ) -> None:
        """Look at all lengths."""
        self._tokens, self._supervised = np.asarray(tokens), np.asarray(supervised)  # numba knows no mapped files
        self._shards = [np.ascontiguousarray(source.shards, dtype=np.int64) for source in sources]
        self._pack_tokens = options.pack_tokens
        self._truncate = options.long_documents == "truncate"
        self._name = name
        surveys = [
            _survey(self._tokens, self._supervised, shards, self._pack_tokens, self._truncate)
            for shards in self._shards
        ]
        self.shard_documents: list[Numbers] = [documents for documents, *_ in surveys]
        self.source_tokens: list[int] = [planned for _, planned, *_ in surveys]
        self.longest = max((longest for _, _, longest, *_ in surveys), default=0)
        self.long_documents = sum(long for *_, long, _ in surveys)
        if self.long_documents and options.long_documents == "error":
            needed = max(longest_of_all for *_, longest_of_all in surveys)
            raise DocumentError(
                f"{self.long_documents} documents are longer than a pack of {self._pack_tokens} tokens, the longest "
                f"has {needed} ({self.some_too_long})",
                where="packing.pack_tokens",
                value=self._pack_tokens,
                mend=f"Set packing.pack_tokens={needed} or more, or packing.long_documents=drop (or truncate, which "
                "cuts the text) and look at them with tools/plan_packs.py",
            )

    @property
    def documents(self) -> int:
        """Documents of all sources that take part, each counted once."""
        return sum(int(documents.sum()) for documents in self.shard_documents)

    @property
    def dropped(self) -> int:
        """Documents that are too long and left out."""
        return sum(int(np.diff(shards).sum()) for shards in self._shards) - self.documents

    def numbers(self, first: int, end: int) -> Numbers:
        """Which of the samples ``first`` … ``end`` − 1 take part."""
        return _numbers(self._tokens, self._supervised, first, end, self._pack_tokens, self._truncate)

    def tokens(self, numbers: Numbers) -> Numbers:
        """Tokens of each of these documents in its pack: all of them, or as many as a pack holds."""
        return np.minimum(self._tokens[numbers], self._pack_tokens).astype(np.int64)

    def supervised(self, numbers: Numbers) -> Numbers:
        """Supervised tokens of each of these documents in its pack."""
        cut = np.maximum(self._tokens[numbers] - self._pack_tokens, 0)
        return (self._supervised[numbers] - cut).astype(np.int64)

    def too_long(self) -> Iterator[int]:
        """Sample numbers of the documents that are longer than a pack."""
        for shards in self._shards if self.long_documents else []:
            for first, end in shards.tolist():
                yield from (first + np.flatnonzero(self._tokens[first:end] > self._pack_tokens)).tolist()

    @property
    def some_too_long(self) -> str:
        """The names of the first of them."""
        named = ", ".join(map(self._name, islice(self.too_long(), _NAMED_DOCUMENTS)))
        return named + ", …" * (self.long_documents > _NAMED_DOCUMENTS)


@compiled
def _takes_part(tokens, supervised, pack_tokens, truncate):  # type: ignore[no-untyped-def]
    return tokens <= pack_tokens or (truncate and tokens - supervised + _LEAST_ANSWER <= pack_tokens)


@compiled
def _numbers(tokens, supervised, first, end, pack_tokens, truncate):  # type: ignore[no-untyped-def]
    found = np.empty(end - first, np.int64)
    count = 0
    for number in range(first, end):
        if _takes_part(tokens[number], supervised[number], pack_tokens, truncate):
            found[count] = number
            count += 1
    return found[:count]


@compiled
def _survey(tokens, supervised, shards, pack_tokens, truncate):  # type: ignore[no-untyped-def]
    """Of shards [shards, 2]: documents of each that take part; their tokens, the longest; long ones, longest of all."""
    documents = np.zeros(len(shards), np.int64)
    planned, longest, long, longest_of_all = 0, 0, 0, 0
    for shard in range(len(shards)):
        first, end = shards[shard]
        most, total = _most_and_total(tokens[first:end])
        longest_of_all = max(longest_of_all, most)
        if most <= pack_tokens:
            documents[shard] = end - first
            planned += total
            longest = max(longest, most)
            continue
        for number in range(first, end):
            length = int(tokens[number])
            if length > pack_tokens:
                long += 1
            if _takes_part(length, supervised[number], pack_tokens, truncate):
                documents[shard] += 1
                planned += min(length, pack_tokens)
                longest = max(longest, min(length, pack_tokens))
    return documents, planned, longest, long, longest_of_all


@compiled
def _most_and_total(lengths):  # type: ignore[no-untyped-def]
    """Without a branch, so that it is vectorized: most shards have no document that is too long."""
    most, total = 0, 0
    for length in lengths:
        most = max(most, length)
        total += length
    return most, total

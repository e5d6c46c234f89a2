"""Ways of packing that others use, as functions: lengths in the order of an epoch → packs.

Written from their descriptions; none looks at what a pack costs. ms-swift hands 1,000 lengths at a time to the library
``binpacking`` and carries the last pack on; LLaMA-Factory packs each batch of 1,000 by a greedy knapsack.
"""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from phi3v_dist.packing.subset import compiled

Numbers = NDArray[np.int64]
_BATCH = 1000


def next_fit(lengths: Numbers, pack_tokens: int) -> tuple[Numbers, Numbers]:
    """Documents in order; a pack ends where the next one doesn't fit. Return places pack by pack, and packs' ends."""
    return np.arange(len(lengths)), _next_fit(lengths, pack_tokens)


@compiled
def _next_fit(lengths, pack_tokens):  # type: ignore[no-untyped-def]
    ends = np.empty(len(lengths), np.int64)
    packs = tokens = 0
    for place in range(len(lengths)):
        if tokens + lengths[place] > pack_tokens:
            ends[packs] = place
            packs += 1
            tokens = 0
        tokens += lengths[place]
    ends[packs] = len(lengths)
    return ends[: packs + 1]


def first_fit_decreasing(lengths: Numbers, pack_tokens: int) -> tuple[Numbers, Numbers]:
    """All documents, longest first, each into the first pack with room for it."""
    order = np.argsort(-lengths, kind="stable")
    pack = _first_fit(lengths[order], pack_tokens)
    return _by_pack(order, pack)


@compiled
def _first_fit(lengths, pack_tokens):  # type: ignore[no-untyped-def]
    """The pack of each document; a tree over the packs holds the most room below each of its nodes."""
    leaves = 1
    while leaves < len(lengths):
        leaves *= 2
    room = np.full(2 * leaves, pack_tokens, np.int64)
    packs = np.empty(len(lengths), np.int64)
    for place in range(len(lengths)):
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < lengths[place]:
                node += 1
        packs[place] = node - leaves
        room[node] -= lengths[place]
        node //= 2
        while node > 0:
            room[node] = max(room[2 * node], room[2 * node + 1])
            node //= 2
    return packs


def greedy_knapsack(lengths: Numbers, pack_tokens: int) -> tuple[Numbers, Numbers]:
    """Of each 1,000 documents: a pack takes the longest that fits, again and again."""
    places: list[int] = []
    ends: list[int] = []
    for first in range(0, len(lengths), _BATCH):
        waiting = sorted(
            (length, first + place) for place, length in enumerate(lengths[first : first + _BATCH].tolist())
        )
        while waiting:
            room = pack_tokens
            while (fitting := bisect_right(waiting, (room, len(lengths))) - 1) >= 0:
                length, place = waiting.pop(fitting)
                places.append(place)
                room -= length
            ends.append(len(places))
    return np.array(places), np.array(ends)


def per_thousand(lengths: Numbers, pack_tokens: int) -> tuple[Numbers, Numbers]:
    """1,000 documents at a time through ``binpacking.to_constant_volume``; its last pack goes on to the next time."""
    from binpacking import to_constant_volume

    packs: list[list[tuple[int, int]]] = []
    carried: list[tuple[int, int]] = []
    for first in range(0, len(lengths), _BATCH):
        told = list(enumerate(lengths[first : first + _BATCH].tolist(), first))
        *finished, carried = to_constant_volume([*carried, *told], pack_tokens, weight_pos=1)
        packs += finished
    packs.append(carried)
    return np.array([place for pack in packs for place, _ in pack]), np.cumsum([len(pack) for pack in packs])


def _by_pack(order: Numbers, pack: Numbers) -> tuple[Numbers, Numbers]:
    return order[np.argsort(pack, kind="stable")], np.cumsum(np.bincount(pack))


WAYS = {
    "next-fit": next_fit,
    "FFD, whole set": first_fit_decreasing,
    "bin packing per 1,000 (ms-swift)": per_thousand,
    "greedy knapsack per 1,000 (LLaMA-Factory)": greedy_knapsack,
}

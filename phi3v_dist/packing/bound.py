"""How full packs of given documents can be at best, whatever the algorithm.

Enters: lengths, the budget of a pack. Leaves: an upper bound of the fill. It is the cutting-stock problem's linear
relaxation, solved by column generation (Gilmore and Gomory 1961): a column is a way to fill one pack, a knapsack over
the dual prices finds a better one. Farley's bound (1990) is right after each round, so the search may stop early and
stays true. Lengths are counted in whole units, rounded down: packs of shorter documents are never more. Units are
halved while there is time: each halving brings the bound nearer and takes several times as long.
"""

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from phi3v_dist.packing.subset import Numbers, compiled

_FEW_LENGTHS = 50  # a moment's work
_NEXT_TAKES = 4  # times as long as the unit before, measured 2 to 8
_GOOD_ENOUGH = 0.0005  # of the packs: no target is finer
_MOST_TOKENS = 65_536  # beyond, packs of many documents come to 100 % and each knapsack takes long


def fill_bound(lengths: Numbers, pack_tokens: int, packs: Iterable[Numbers] = (), *, most_seconds: float = 10) -> float:
    """Upper bound of the share of all packs that can hold tokens, at most 1.

    ``lengths`` int [documents], none above ``pack_tokens``; ``packs``: lengths in some good packs, where the search
    begins. ``most_seconds``: about; also that of the bound that was found till then.
    """
    tokens = int(lengths.sum(dtype=np.int64))
    if pack_tokens > _MOST_TOKENS or not len(lengths):
        return 1.0
    _knapsack(np.ones(1, np.int64), np.ones(1), 1)  # compiled before time is counted
    known, fewest = [np.asarray(pack) for pack in packs], tokens / pack_tokens
    unit, end = _first_unit(lengths), time.monotonic() + most_seconds
    while unit:
        started = time.monotonic()
        in_units = [pack // unit for pack in known]
        fewest = max(fewest, _fewest_packs(lengths // unit, pack_tokens // unit, in_units, end))
        now = time.monotonic()
        unit = unit // 2 if (now - started) * _NEXT_TAKES < end - now else 0
    return min(1.0, tokens / (math.ceil(fewest - 1e-6) * pack_tokens))


def _first_unit(lengths: Numbers) -> int:
    unit = 1
    while len(np.unique(lengths // unit)) > _FEW_LENGTHS:
        unit *= 2
    return unit


def _fewest_packs(lengths: Numbers, room: int, packs: Sequence[Numbers], end: float) -> float:
    """At least so many packs; lengths of nothing, shorter than the unit, aren't counted."""
    sizes, counts = np.unique(lengths[lengths > 0], return_counts=True)
    columns, fewest = _columns(sizes, room, packs), 0.0
    while len(sizes):
        solved = linprog(np.ones(columns.shape[1]), A_ub=-columns, b_ub=-counts.astype(np.float64), method="highs")
        worth, ways = _knapsack(sizes, -solved.ineqlin.marginals, room)
        fewest = max(fewest, solved.fun / max(worth, 1.0))
        if worth <= 1 + _GOOD_ENOUGH or time.monotonic() > end:
            break
        columns = np.concatenate([columns, np.unique(ways, axis=0).T], axis=1)
    return fewest


def _columns(sizes: Numbers, room: int, packs: Sequence[Numbers]) -> NDArray[np.float64]:
    """Ways to fill a pack [sizes, ways]: with one size alone, and the ways of ``packs``."""
    alone = np.diag(room // sizes).astype(np.float64)
    ways = [np.bincount(np.searchsorted(sizes, pack[pack > 0]), minlength=len(sizes)) for pack in packs]
    return np.concatenate([alone, np.unique(np.array(ways, float).reshape(-1, len(sizes)), axis=0).T], axis=1)


@compiled
def _knapsack(sizes, prices, room):  # type: ignore[no-untyped-def]
    """Fillings of ``room`` at these prices: what the best is worth, and the best with each size [fillings, sizes].

    Those that are worth no more than 1 are left out, the linear program has as good ones.
    """
    best = np.zeros(room + 1)
    last = np.full(room + 1, -1)
    for space in range(1, room + 1):
        best[space] = best[space - 1]
        for number in range(len(sizes)):
            if sizes[number] > space:
                break
            worth = best[space - sizes[number]] + prices[number]
            if worth > best[space] + 1e-12:
                best[space] = worth
                last[space] = number
    ways = np.zeros((len(sizes), len(sizes)))
    found = 0
    for first in range(len(sizes)):
        space = room - sizes[first]
        if prices[first] + best[space] > 1 + 1e-9:
            ways[found, first] = 1
            while space > 0:
                if last[space] < 0:
                    space -= 1
                else:
                    ways[found, last[space]] += 1
                    space -= sizes[last[space]]
            found += 1
    return best[room], ways[:found]
